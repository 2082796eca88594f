"""How far a training run is: a bar on a terminal, a line a minute in a log file."""

from collections.abc import Mapping

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from sr_lab.reporting.progress import Progress
from sr_lab.reporting.terminal import Terminal
from sr_lab.training.record import Speed


class TrainingProgress(ProgressBar):
    """Steps, time left, loss, PSNR, samples per second and the share of time waiting for data.

    The test that follows the training is shown as well.

    Args:
        speed: Measures samples per second.
    """

    def __init__(self, speed: Speed) -> None:
        super().__init__()
        self.speed = speed
        self.console = Terminal(stderr=True, highlight=False)
        self._progress: Progress | None = None

    def _begin(self, trainer: Trainer, progress: Progress) -> None:
        if trainer.is_global_zero:
            self._progress = progress.__enter__()

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step from which the run starts."""
        self._loss = self._psnr = self._speed = ""
        self._begin(
            trainer, Progress(trainer.max_steps, "steps", done=trainer.global_step, console=self.console)
        )

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Tensor], *_: object
    ) -> None:
        """Show the step; the loss is fetched from the device only when it is shown."""
        if self._progress is not None and self._progress.is_due:
            self._loss = f"loss {outputs['loss'].item() * trainer.accumulate_grad_batches:.4f}"
            self._show(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        *_: object,
    ) -> None:
        """Show that the network is being validated, which may take minutes."""
        if self._progress is not None and self._progress.is_due:
            self._show(trainer, f"validating, image {batch_idx + 1}")

    def _show(self, trainer: Trainer, *more: str) -> None:
        assert self._progress is not None
        if self.speed.samples_per_s > 0:  # 0 if the span has just begun
            self._speed = f"{self.speed.samples_per_s:.3g} samples/s"
        waiting = f"{self.speed.data_wait:.0%} waiting for data" if self._speed else ""
        facts = (*more, self._loss, self._psnr, self._speed, waiting)
        self._progress.update(trainer.global_step, *filter(None, facts))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the newest validation PSNR."""
        if "val/psnr_y" in trainer.callback_metrics:
            self._psnr = f"val PSNR {float(trainer.callback_metrics['val/psnr_y']):.2f} dB"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the completed bar on the screen."""
        if self._progress is not None:
            self._show(trainer)
        self._end()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the test."""
        self._tested = 0
        count = sum(trainer.num_test_batches)
        self._begin(trainer, Progress(count, "test images", console=self.console, transient=True))

    def on_test_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Count an image."""
        self._tested += 1
        if self._progress is not None and self._progress.is_due:
            self._progress.update(self._tested)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.update(self._tested)
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the terminal."""
        self._end()

    def disable(self) -> None:
        """Do nothing, since Lightning calls this only on processes without a bar (all except the first)."""

    def print(self, *args: object, **kwargs: object) -> None:
        """Print above the bar."""
        self.console.print(*args)
