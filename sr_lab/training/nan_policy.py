"""A loss or gradient that is NaN or infinite: nothing is learnt from it, and its batch is kept to look at."""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import lightning
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.training.lit_module import SRModule, batch_norms

Policy: TypeAlias = Literal["stop", "skip"]
_DUMPS = 10  # batches that are kept
_PATIENCE = 100  # steps in a row that are skipped before the training counts as diverged


class NanPolicy(lightning.Callback):
    """Looks at every step before it is taken, on the device: nobody waits for it.

    A loss that is no number has made every gradient NaN (`SRModule.training_step`), those of the other ranks
    and accumulated batches too: all skip together. On a CPU, or with an optimizer without a fused kernel, the
    step is left out here; a fused kernel and fp16's scaler leave it out themselves, and what happened is read
    when a row, a validation or a checkpoint has to wait for the device anyway. Comes after whatever changes
    gradients.

    Args:
        policy: ``stop`` ends the training, ``skip`` goes on with the next batch.
        folder: Where batches are kept, ``step-<n>.pt``.
        batch_of: Makes a batch again from the numbers of its samples.
        seed: That these were drawn by, for the record.
        batch_size: Total over ranks and accumulated batches.
        interval: Steps between two looks.
        say: Tells the user.
    """

    def __init__(
        self,
        policy: Policy,
        folder: Path,
        batch_of: Callable[[Sequence[int]], Mapping[str, object]],
        *,
        seed: int,
        batch_size: int,
        interval: int,
        say: Callable[[str], None],
    ) -> None:
        self.policy = policy
        self.folder = folder
        self.batch_of = batch_of
        self.seed = seed
        self.batch_size = batch_size
        self.interval = interval
        self.say = say
        self.skipped = 0
        self._in_a_row = 0
        self._scaled = False
        self._loss: Tensor | None = None  # sum over the accumulated batches
        self._unread: list[tuple[int, Tensor]] = []  # step, its loss and the norm of its gradient

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Find the statistics that a batch which is skipped must not have moved."""
        assert isinstance(pl_module, SRModule)
        buffers = [buffer for norm in batch_norms(pl_module.network) for buffer in norm.buffers()]
        self._statistics = buffers if self.policy == "skip" else []
        self._before: list[Tensor] = []
        if not self._statistics:
            self.on_train_batch_start = None  # type: ignore[method-assign, assignment] # one call a step less

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Keep these statistics as they are before the step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._before = [statistic.clone() for statistic in self._statistics]

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Note the loss of one of the accumulated batches."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        """Leave the step out, or have it left out, if there is no number to learn from."""
        assert self._loss is not None
        loss, self._loss = self._loss, None
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if self._scaled:  # gradients overflow now and then; that is the scaler's to mend
            norm = loss
        else:
            parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
            # Its squares overflow from 1e19 on, as Adam's own do. The largest value takes 14 times as long.
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        # A CPU is asked for nothing; a GPU only where nothing else leaves the step out.
        on_cpu = norm.device.type == "cpu"
        fused = not on_cpu and getattr(optimizer, "_step_supports_amp_scaling", False)
        ask = not self._scaled and (on_cpu or (self.policy == "skip" and not fused))
        finite = norm.isfinite()
        if ask and finite:
            self._in_a_row = 0
            return
        self._unread.append((trainer.global_step + 1, torch.stack((loss.float(), norm.float()))))
        for now, before in zip(self._statistics, self._before, strict=True):
            now.copy_(torch.where(finite, now, before))
        if ask:
            optimizer.zero_grad()
            self._read(trainer)
        elif fused and not self._scaled:  # the kernel looks itself
            optimizer.found_inf, optimizer.grad_scale = 1 - finite.float(), None  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Look when the record has waited for the device."""
        if trainer.global_step % self.interval == 0:
            self._read(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure no network that has learnt from NaN."""
        self._read(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the last steps."""
        self._read(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Save no network that has learnt from NaN; store how many steps were skipped."""
        self._read(trainer)
        checkpoint["skipped_steps"] = self.skipped

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, int]
    ) -> None:
        """Go on counting."""
        self.skipped = checkpoint.get("skipped_steps", 0)

    def _read(self, trainer: lightning.Trainer) -> None:
        """Fetch what was noted; every rank comes here at the same steps.

        Raises:
            ConfigError: A loss or gradient was no number, and the policy is ``stop``.
        """
        if not self._unread:
            return
        steps, noted = zip(*self._unread, strict=True)
        self._unread.clear()
        values = torch.stack(noted)
        if self._scaled:  # losses differ between ranks; gradients do not
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
                often = f", as at the {_PATIENCE - 1} steps before" if self.policy == "skip" else ""
                raise ConfigError(
                    f"training: {what}{often}{kept}; the last checkpoint is from before; lower "
                    "learning_rate, set trainer.gradient_clip_val, or go on from there with nan_policy=skip"
                )
            if self.skipped == 1:
                self.say(f"training: {what}{kept}; such steps are skipped, metrics.json says how many")

    def _dump(self, trainer: lightning.Trainer, step: int, loss: float, norm: float) -> str:
        """Keep the batch of a step, and say where."""
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
                return f" (its batch could not be kept: {error})"
        return f" (its batch is in '{path}')"
