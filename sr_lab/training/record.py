"""``metrics.csv``, the record of a training run, and the speed that it reports."""

import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from sr_lab import files
from sr_lab.losses.weighted import WeightedLoss
from sr_lab.run_folder import whole_rows
from sr_lab.training.lit_module import Saved, SRModule
from sr_lab.training.loggers import log_to_dashboards

_Batch = TypeVar("_Batch")
_EXPLODED = 100  # times the smallest loss


class Speed:
    """Measures samples per second and the share of time spent waiting for data, span by span.

    Args:
        batch_size: Samples per batch over all processes.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        """Start a new span."""
        self._start = time.perf_counter()
        self._waited = self._excluded = 0.0
        self._paused: float | None = None
        self._batches = 0

    @property
    def samples_per_s(self) -> float:
        """Samples per second in the current span, without validation and the checkpoint after it."""
        return self._batches * self.batch_size / max(self._elapsed, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the current span, 0..1, spent waiting for the loader."""
        return self._waited / max(self._elapsed, 1e-9)

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._start - self._excluded

    def asked(self) -> float:
        """Return the time at which the next batch is requested; the request ends a pause."""
        now = time.perf_counter()
        if self._paused is not None:
            self._excluded += now - self._paused
            self._paused = None
        return now

    def received(self, asked: float) -> None:
        """Count the time since a batch was requested as waiting."""
        self._waited += time.perf_counter() - asked

    def count(self) -> None:
        """Count a batch that was trained on."""
        self._batches += 1

    def pause(self) -> None:
        """Stop the clock until the next batch is requested."""
        self._paused = time.perf_counter()


@dataclass(eq=False)
class TimedLoader(Generic[_Batch]):
    """The batches of a data loader; ``speed`` counts the time spent waiting for each batch."""

    loader: Iterable[_Batch]
    speed: Speed

    def __iter__(self) -> Iterator[_Batch]:
        """The batches of the loader."""
        asked = self.speed.asked()
        for batch in self.loader:
            self.speed.received(asked)
            yield batch
            asked = self.speed.asked()


class Record(Callback):
    """Appends each row to ``metrics.csv`` at once, and sends it to the dashboards as well.

    Lightning's CSV logger deletes the file when a run resumes; this callback drops the rows after the resumed
    step and appends. Losses stay on the device until a row is due, so that no step waits for them; losses
    that have no row yet are stored in the checkpoint.

    Args:
        path: The CSV file.
        speed: Measures the speed that a row reports.
        interval: Steps between two rows.
        say: Prints a line for the user; called once, when a row's loss exceeds 100 times the smallest so far.
    """

    def __init__(
        self, path: Path, speed: Speed, *, interval: int, say: Callable[[str], None] = print
    ) -> None:
        self.path = path
        self.speed = speed
        self.interval = interval
        self.say = say
        self._smallest = math.inf  # loss of a row
        self._exploded = False
        self._losses: list[Tensor] = []  # one per step: the loss, and its terms if it is a sum
        self._terms: list[str] = []  # the columns of the terms

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file; drop the rows after the step from which the run resumes."""
        assert isinstance(pl_module, SRModule)
        names = pl_module.loss.names if isinstance(pl_module.loss, WeightedLoss) else ()
        self._terms = [f"train/loss/{name}" for name in names]
        per_set = (f"val/{name}/{metric}" for name in pl_module.val_sets for metric in ("psnr_y", "ssim_y"))
        self.columns = [
            *("step", "time", "train/loss", "learning_rate", "samples_per_s", "data_wait", "val/psnr_y"),
            *per_set,
            *self._terms,
        ]
        if trainer.is_global_zero:
            kept = [row for row in whole_rows(self.path) if int(row["step"]) <= trainer.global_step]
            if trainer.global_step and not kept:
                print(  # noqa: T201 - once per run, if at all
                    f"{self.path}: the rows up to step {trainer.global_step}, from which the run resumes, "
                    "are missing",
                    file=sys.stderr,
                )
            losses = [float(row["train/loss"]) for row in kept if row.get("train/loss")]
            self._smallest = min(losses, default=math.inf)
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
            files.write(self.path, text.getvalue())
        self._losses = [loss.to(pl_module.device) for loss in self._losses]
        self.speed.reset()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Store the losses that have no row yet, averaged over processes, and flush the rows to the disk."""
        losses = torch.stack(self._losses) if self._losses else torch.empty(0, 1 + len(self._terms))
        losses = trainer.strategy.reduce(losses, reduce_op="mean") if self._losses else losses
        checkpoint["losses"] = losses[:, 0]
        if self._terms:
            checkpoint["loss_terms"] = losses[:, 1:]
        if trainer.is_global_zero:
            with files.naming(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Restore the losses that have no row yet."""
        losses = checkpoint.get("losses", torch.empty(0))[:, None]
        self._losses = list(torch.cat((losses, checkpoint.get("loss_terms", losses[:, :0])), 1))

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Keep the learning rate of this step; by the end of the step, the schedule has advanced."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, _: object, outputs: Mapping[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        """Keep the loss; write a row every ``interval`` steps."""
        self.speed.count()
        # Lightning has divided the loss by the number of accumulated batches, but not the terms.
        loss = outputs["loss"].detach().reshape(1)
        if self._terms:
            loss = torch.cat((loss, outputs["terms"] / trainer.accumulate_grad_batches))
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._losses.append(loss)
        else:
            self._losses[-1] = self._losses[-1] + loss
        step = trainer.global_step
        due = (step % self.interval == 0 or step == trainer.max_steps) and len(self._losses) > 0
        if due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            steps = torch.stack(self._losses)
            own = (steps + 0 * steps[:, :1]).nanmean(0)  # without the steps that `NanPolicy` skips
            means = trainer.strategy.reduce(own, reduce_op="mean").tolist()  # called by every process
            self._losses.clear()
            named = zip(("train/loss", *self._terms), means, strict=True)
            row = {name: mean for name, mean in named if math.isfinite(mean)}
            row |= {"learning_rate": self._learning_rate}
            self._write(
                trainer, row | {"samples_per_s": self.speed.samples_per_s, "data_wait": self.speed.data_wait}
            )
            self.speed.reset()
            if trainer.is_global_zero and math.isfinite(means[0]):
                self._look_for_divergence(means[0], step)

    def _look_for_divergence(self, loss: float, step: int) -> None:
        """Report a loss that explodes.

        `NanPolicy` does not, since such a loss stays finite for thousands of steps.
        """
        if loss > _EXPLODED * self._smallest and not self._exploded:
            self._exploded = True
            self.say(
                f"training: the loss rose from {self._smallest:.3g} to {loss:.3g} before step {step}, so the "
                "run has probably diverged; stop it, and lower learning_rate or set trainer.gradient_clip_val"
            )
        self._smallest = min(self._smallest, loss)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the validation from the speed."""
        self.speed.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a row with the metrics of the validation."""
        if not trainer.sanity_checking:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self._write(trainer, values)

    def _write(self, trainer: Trainer, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        with files.naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            row = {"step": trainer.global_step, "time": round(time.time(), 3)} | values
            csv.DictWriter(file, self.columns, restval="").writerow(row)
        log_to_dashboards(trainer, lambda logger: logger.log_metrics(values, step=trainer.global_step))
