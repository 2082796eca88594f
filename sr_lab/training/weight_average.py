"""The exponential moving average of the weights (``ema_decay``)."""

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(WeightAveraging):
    """Lightning's average of the weights, updated in one call for all tensors.

    torch's own update waits for the device at every step to read the number of updates, and handles one
    weight at a time.

    Args:
        decay: Share of the average that is kept at each step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def on_train_start(self, trainer: Trainer, pl_module: nn.Module) -> None:
        """List the tensors once; walking through both modules takes many times as long as averaging them."""
        assert self._average_model is not None
        averaged, current = (
            [*module.parameters(), *module.buffers()] for module in (self._average_model.module, pl_module)
        )
        pairs = list(zip(averaged, current, strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for mean, value in pairs if mean.is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Move the average towards the weights after every optimizer step."""
        step = trainer.global_step
        if step == self._latest_update_step:  # this batch only accumulated gradients
            return
        assert self._average_model is not None
        copied = self._counts
        if self._latest_update_step == 0:  # the average starts from the weights after the first step
            copied = [*self._counts, *zip(self._means, self._values, strict=True)]
        else:
            self._average(self._means, self._values, self._average_model.n_averaged)
        for mean, value in copied:
            mean.copy_(value)
        self._average_model.n_averaged.add_(1)
        self._latest_update_step = step
