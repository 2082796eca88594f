"""If a loss or gradient is NaN or infinite, nothing is learnt from it, and its batch is saved."""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.training.lit_module import Saved, SRModule, batch_norms

Policy: TypeAlias = Literal["stop", "skip"]
_DUMPS = 10  # maximum number of batches to save
_PATIENCE = 100  # skipped steps in a row after which the training counts as diverged


@dataclass(eq=False)
class NanPolicy(Callback):
    """Checks the loss and gradient of every step before the optimizer takes it.

    A non-finite loss makes every gradient NaN (`SRModule.training_step`), on all processes and in
    all accumulated batches, so that all processes skip together. On a CPU every step is checked. On a
    GPU, a check waits for the device, so only ``skip`` checks every step; ``stop`` checks when a row, a
    validation or a checkpoint waits for the device anyway, so that no network that has learnt from NaN is
    measured or saved. The scaler of fp16 skips such steps anyway. This callback must come
    after every callback that changes gradients.

    Args:
        policy: ``stop`` ends the training, ``skip`` continues with the next batch.
        folder: Folder in which batches are saved as ``step-<n>.pt``.
        batch_of: Rebuilds a batch from the numbers of its samples.
        seed: The seed of the dataset, for the saved file.
        batch_size: Samples per step, over all processes and accumulated batches.
        interval: Steps between two checks on a GPU.
        say: Prints a line for the user.
    """

    policy: Policy
    folder: Path
    batch_of: Callable[[Sequence[int]], Mapping[str, object]]
    _: KW_ONLY
    seed: int
    batch_size: int
    interval: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.skipped = 0
        self._in_a_row = 0
        self._scaled = False
        self._loss: Tensor | None = None  # sum over the accumulated batches
        self._unread: list[tuple[int, Tensor]] = []  # step, its loss and the norm of its gradient

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the statistics of batch norm, which a skipped batch must not change."""
        assert isinstance(pl_module, SRModule)
        buffers = [buffer for norm in batch_norms(pl_module.network) for buffer in norm.buffers()]
        self._statistics = buffers if self.policy == "skip" else []
        self._before: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Copy the statistics of batch norm before the step."""
        if self._statistics and batch_idx % trainer.accumulate_grad_batches == 0:
            self._before = [statistic.clone() for statistic in self._statistics]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the losses of the accumulated batches."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Skip the step if its loss or gradient is not finite."""
        assert self._loss is not None
        loss, self._loss = self._loss, None
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if self._scaled:  # gradients overflow now and then, which the scaler repairs
            norm = loss
        else:
            parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
            # Squares overflow above 1e19, as in Adam. Finding the largest value would take 14 times as long.
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        look = not self._scaled and (norm.device.type == "cpu" or self.policy == "skip")
        finite = norm.isfinite()
        if look and finite:
            self._in_a_row = 0
            return
        self._unread.append((trainer.global_step + 1, torch.stack((loss.float(), norm.float()))))
        for now, before in zip(self._statistics, self._before, strict=True):
            now.copy_(torch.where(finite, now, before))
        if look:
            optimizer.zero_grad()  # the optimizer ignores parameters without a gradient
            self._read(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Check the noted steps when the record has just waited for the device."""
        if trainer.global_step % self.interval == 0:
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not measure a network that has learnt from NaN."""
        self._read(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the last steps."""
        self._read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Do not save a network that has learnt from NaN; store how many steps were skipped."""
        self._read(trainer)
        checkpoint["skipped_steps"] = self.skipped

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Restore the number of skipped steps."""
        self.skipped = checkpoint.get("skipped_steps", 0)

    def _read(self, trainer: Trainer) -> None:
        """Fetch the noted values and act on them; every process calls this at the same steps.

        Raises:
            ConfigError: A value was not finite, and the policy is ``stop`` or too many steps were skipped.
        """
        if not self._unread:
            return
        steps, noted = zip(*self._unread, strict=True)
        self._unread.clear()
        values = torch.stack(noted)
        if self._scaled:  # losses differ between processes, unlike gradients
            values = trainer.strategy.reduce(values, reduce_op="sum")
        for step, (loss, norm) in zip(steps, values.tolist(), strict=True):
            if math.isfinite(norm):
                self._in_a_row = 0
                continue
            self.skipped += 1
            self._in_a_row += 1
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
            what += f" at step {step}"
            kept = self._dump(trainer, step, loss, norm) if self.skipped <= _DUMPS else ""
            if self.policy == "stop" or self._in_a_row >= _PATIENCE:
                often = f", as at the {_PATIENCE - 1} previous steps" if self.policy == "skip" else ""
                fp16 = "set trainer.precision=32-true, since fp16 overflows easily, " if self._scaled else ""
                raise ConfigError(
                    f"training: {what}{often}{kept}; the last checkpoint was saved before that; "
                    f"{fp16}lower learning_rate, set trainer.gradient_clip_val, "
                    "or resume with nan_policy=skip"
                )
            if self.skipped == 1:
                self.say(f"training: {what}{kept}; such steps are skipped and counted in metrics.json")

    def _dump(self, trainer: Trainer, step: int, loss: float, norm: float) -> str:
        """Save the batch of a step, and return a phrase that says where."""
        path = self.folder / f"step-{step}.pt"
        if trainer.is_global_zero:
            samples = list(range((step - 1) * self.batch_size, step * self.batch_size))
            content = {
                **self.batch_of(samples),
                "samples": samples,
                "seed": self.seed,
                "step": step,
                "loss": loss,
                "gradient_norm": norm,
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            try:
                files.write(path, buffer.getvalue())
            except OSError as error:
                return f" (its batch could not be saved: {error})"
        return f" (its batch is in '{path}')"
