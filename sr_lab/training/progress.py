"""The progress bar of a training run."""

import time
from collections.abc import Mapping

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from sr_lab.reporting.terminal import Terminal
from sr_lab.training.record import Speed


class TrainingProgress(ProgressBar):
    """One bar over all steps, with loss, PSNR, samples per second and the share of time waiting for data.

    Args:
        speed: Measures samples per second.
    """

    def __init__(self, speed: Speed) -> None:
        super().__init__()
        self.speed = speed
        self.console = Terminal(stderr=True)
        self._bar: Progress | None = None
        self._drawn = 0.0

    @staticmethod
    def is_shown() -> bool:
        """Whether the output is a terminal, since a bar in a file or a pipe is useless."""
        return Terminal(stderr=True).is_terminal

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        if not trainer.is_global_zero:
            return
        self._psnr = "-"
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("loss {task.fields[loss]}  val PSNR {task.fields[psnr]}"),
            TextColumn("{task.fields[speed]:.0f} samples/s  data {task.fields[wait]:.0%}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task(
            "",
            total=trainer.max_steps,
            completed=trainer.global_step,
            loss="-",
            psnr="-",
            speed=0.0,
            wait=0.0,
        )
        self._bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Tensor], *_: object
    ) -> None:
        """Advance the bar; the loss is fetched from the device at most twice a second."""
        now = time.perf_counter()
        if self._bar is None or now - self._drawn < 0.5:
            return
        self._drawn = now
        self._bar.update(
            self._task,
            completed=trainer.global_step,
            loss=f"{outputs['loss'].item() * trainer.accumulate_grad_batches:.4f}",
            psnr=self._psnr,
            speed=self.speed.samples_per_s,
            wait=self.speed.data_wait,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the newest validation PSNR."""
        if "val/psnr_y" in trainer.callback_metrics:
            self._psnr = f"{float(trainer.callback_metrics['val/psnr_y']):.2f} dB"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the completed bar on the screen."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, psnr=self._psnr)
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def disable(self) -> None:
        """Do nothing, since Lightning calls this only on processes without a bar (all except the first)."""

    def print(self, *args: object, **kwargs: object) -> None:
        """Print above the bar."""
        self.console.print(*args)
