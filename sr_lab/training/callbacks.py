"""What watches a training: the record, the progress bar, example pictures, the average of the weights."""

import contextlib
import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from sr_lab import files
from sr_lab.ops.colour import rgb_to_y
from sr_lab.reporting import saved_images
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.training.lit_module import Measured, SRModule

_Batch = TypeVar("_Batch")
_Hooked = TypeVar("_Hooked", lightning.Callback, lightning.LightningModule)


class Speed(lightning.Callback):
    """Measures samples per second and the share of time spent waiting for data; read by the others."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        """Start a new span of measuring."""
        self._start = time.perf_counter()
        self._waited = self._excluded = 0.0
        self._validation_since: float | None = None
        self._batches = 0

    @property
    def samples_per_s(self) -> float:
        """Over the present span, validation and the checkpoint after it left out."""
        return self._batches * self.batch_size / max(self._elapsed, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share 0..1 of the present span in which the loader was waited for."""
        return self._waited / max(self._elapsed, 1e-9)

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._start - self._excluded

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start counting, and time the loader itself: between two hooks lies more than waiting for it."""
        self.reset()
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        assert fetcher.iterator is not None
        fetcher.iterator = self.timed(fetcher.iterator)

    def timed(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """The same batches."""
        asked = self._asked()
        for batch in iter(batches.__next__, None):  # iter(batches) would start Lightning's anew
            self._waited += time.perf_counter() - asked
            yield batch
            asked = self._asked()

    def _asked(self) -> float:
        """When the next batch is asked for; what has passed since a validation began is left out."""
        now = time.perf_counter()
        if self._validation_since is not None:
            self._excluded += now - self._validation_since
            self._validation_since = None
        return now

    def on_train_batch_end(self, *_: object) -> None:
        """Count."""
        self._batches += 1

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validation, and what callbacks do at its end, is neither training nor waiting."""
        self._validation_since = time.perf_counter()


class Record(lightning.Callback):
    """Writes ``metrics.csv``, flushed row by row, and hands the same rows to the dashboards.

    Lightning's own CSV logger deletes the file when a run is resumed; this one drops the rows after the
    resumed step and appends. Losses stay on the device until a row is due, so that no step waits for one;
    those that wait are part of a checkpoint, and all rows are on the disk before it.

    Args:
        path: The file.
        speed: Measures samples per second.
        interval: Steps between two rows.
    """

    def __init__(self, path: Path, speed: Speed, *, interval: int) -> None:
        self.path = path
        self.speed = speed
        self.interval = interval
        self._losses: list[Tensor] = []  # one a step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the file; a resumed run goes on where its checkpoint stands."""
        assert isinstance(pl_module, SRModule)
        per_set = (f"val/{name}/{metric}" for name in pl_module.val_sets for metric in ("psnr_y", "ssim_y"))
        self.columns = [
            *("step", "time", "train/loss", "learning_rate", "samples_per_s", "data_wait", "val/psnr_y"),
            *per_set,
        ]
        if trainer.is_global_zero:
            kept = [row for row in whole_rows(self.path) if int(row["step"]) <= trainer.global_step]
            if trainer.global_step and not kept:
                print(  # noqa: T201 - once a run, if at all
                    f"{self.path}: has no row up to step {trainer.global_step}, from which the run goes on; "
                    "the earlier ones are lost",
                    file=sys.stderr,
                )
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
            files.write(self.path, text.getvalue())
        self._losses = [loss.to(pl_module.device) for loss in self._losses]

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Store the losses since the last row, the mean over ranks; a resumed run writes no earlier row."""
        losses = torch.stack(self._losses) if self._losses else torch.empty(0)
        checkpoint["losses"] = trainer.strategy.reduce(losses, reduce_op="mean") if self._losses else losses
        if trainer.is_global_zero:
            with files.naming(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Tensor]
    ) -> None:
        """Go on with the losses since the last row."""
        self._losses = list(checkpoint.get("losses", torch.empty(0)))

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Keep the rate of this step: at its end the schedule has moved on."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Mapping[str, Tensor],  # type: ignore[override]
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keep the loss; write a row every ``interval`` steps."""
        loss = outputs["loss"].detach()  # Lightning has divided it by the accumulated batches
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._losses.append(loss)
        else:
            self._losses[-1] = self._losses[-1] + loss
        step = trainer.global_step
        due = (step % self.interval == 0 or step == trainer.max_steps) and len(self._losses) > 0
        if due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            own = torch.stack(self._losses).nanmean()  # without those that `NanPolicy` skips
            mean = float(trainer.strategy.reduce(own, reduce_op="mean"))  # every rank comes here
            self._losses.clear()
            row = {"train/loss": mean} if math.isfinite(mean) else {}
            row |= {"learning_rate": self._learning_rate}
            self._write(
                trainer, row | {"samples_per_s": self.speed.samples_per_s, "data_wait": self.speed.data_wait}
            )
            self.speed.reset()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write a row with the validation's figures."""
        if not trainer.sanity_checking:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self._write(trainer, values)

    def _write(self, trainer: lightning.Trainer, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        with files.naming(self.path), self.path.open("a", newline="") as file:
            row = {"step": trainer.global_step, "time": round(time.time(), 3)} | values
            csv.DictWriter(file, self.columns, restval="").writerow(row)
        show(trainer, lambda logger: logger.log_metrics(values, step=trainer.global_step))


def show(trainer: lightning.Trainer, log: Callable[[Logger], None]) -> None:
    """Tell every dashboard; one that fails (its process was killed) is done without from then on."""
    for logger in list(trainer.loggers):
        try:
            log(logger)
        except Exception as error:  # whatever it is: a dashboard is only a view
            trainer.loggers = [other for other in trainer.loggers if other is not logger]
            print(  # noqa: T201 - once a run, if at all
                f"{type(logger).__name__}: lost ({error or type(error).__name__}); the training goes on, "
                "metrics.csv has every row, and task=log makes a W&B run of it",
                file=sys.stderr,
            )


class TrainingProgress(ProgressBar):
    """One bar over all steps, with loss, PSNR, samples per second and the share of time waiting for data.

    Silent where nobody watches: in a pipe, in CI.

    Args:
        speed: Measures samples per second.
    """

    def __init__(self, speed: Speed) -> None:
        super().__init__()
        self.speed = speed
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the bar."""
        if not self.console.is_terminal or not trainer.is_global_zero:
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

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Mapping[str, Tensor],  # type: ignore[override]
        batch: object,
        batch_idx: int,
    ) -> None:
        """Move on; the loss is fetched from the device twice a second at most."""
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

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the newest validation PSNR."""
        if "val/psnr_y" in trainer.callback_metrics:
            self._psnr = f"{float(trainer.callback_metrics['val/psnr_y']):.2f} dB"

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave the full bar on the screen."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, psnr=self._psnr)
            self._bar.stop()
            self._bar = None

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def disable(self) -> None:
        """Lightning's switch for ranks other than zero."""

    def print(self, *args: object, **kwargs: object) -> None:
        """Print above the bar."""
        self.console.print(*args)


class ValidateAtEnd(lightning.Callback):
    """Validates, and so saves, at the last step too, when the interval does not divide the steps."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Lightning validates before it obeys ``should_stop``."""
        if trainer.global_step >= trainer.max_steps > 0:
            trainer.should_stop = True


class StaysEnded(lightning.Callback):
    """A run that another callback has ended before its last step stays ended: it is gone on with in its test.

    Lightning forgets that with the process.
    """

    _ended = False

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Store whether it was told to stop; `ValidateAtEnd` tells it at the last step."""
        checkpoint["ended_early"] = trainer.should_stop and trainer.global_step < trainer.max_steps

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Remember it until the training starts."""
        self._ended = checkpoint.get("ended_early") is True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make no further step."""
        trainer.should_stop |= self._ended


_ALL_SCALES = 24  # the least common multiple of 2, 3, 4 and 8


class ExampleImages(lightning.Callback):
    """Saves what the first images of each test set came out as: a report needs neither data nor network.

    A strip of LR, bicubic, SR, HR and error of the middle, for a glance: one place, and in W&B one name,
    whatever the network and (if it divides 24) the scale. And these images whole
    (``reporting.saved_images`` says where), of a small set all. A thread of its own writes them, so that the
    test goes on meanwhile; they are all there when it ends.

    Args:
        folder: Where the PNG files go.
        count: Images of a set.
        size: Side of the strip's crop in HR pixels.
        small_set: A set of up to so many images is kept whole.
    """

    def __init__(self, folder: Path, *, count: int = 3, size: int = 160, small_set: int = 5) -> None:
        self.folder = folder
        self.count = count
        self.size = size
        self.small_set = small_set
        self._writing: list[Future[None]] = []

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the thread."""
        self._writer = ThreadPoolExecutor(1)

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Measured,  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save the pictures of one of a set's first images."""
        if outputs is None:
            return
        assert isinstance(pl_module, SRModule)
        set_name, name, hr = outputs["set_name"], outputs["image"], batch["hr"].float() / 255
        place, of = batch["place"], batch["of"]  # whichever process measures it
        if place < self.count or of <= self.small_set:
            images: dict[saved_images.Kind, Tensor] = {
                "lr": outputs["lr"],
                "bicubic": outputs["bicubic"],
                "sr": outputs["sr"],
                "hr": hr,
            }
            for kind, image in images.items():
                self._save(image[0], saved_images.place(self.folder, set_name, name, kind))
        if place >= self.count:
            return
        strip = self._strip(outputs, hr, pl_module.scale)
        picture = self._save(strip, self.folder / f"{set_name}_{name}.png")

        def log(logger: Logger) -> None:
            if isinstance(logger, WandbLogger):
                psnr, _, bicubic_psnr, _ = outputs["figures"].tolist()
                caption = f"LR, bicubic {bicubic_psnr:.2f} dB, SR {psnr:.2f} dB, HR, error x4"
                key = f"examples/{set_name}/{name}"
                logger.log_image(key, [picture], step=trainer.global_step, caption=[caption])

        show(trainer, log)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Wait for the pictures; what kept one from being written is raised here."""
        self._writer.shutdown()
        written, self._writing = self._writing, []
        for picture in written:
            picture.result()

    def _save(self, image: Tensor, path: Path) -> Image.Image:
        """Write ``(C, H, W)`` in [0, 1] as PNG, quantised as it is measured, luma as grey."""
        levels = (image.detach().clamp(0, 1) * 255 + 0.5).floor().byte()
        picture = Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())
        self._writing.append(self._writer.submit(_write_png, picture, path))
        return picture

    def _strip(self, outputs: Measured, hr: Tensor, scale: int) -> Tensor:
        """``(C, S, 5 S + gutters)`` in [0, 1]."""
        lr = outputs["lr"].repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        images = [image.to(hr) for image in (lr, outputs["bicubic"], outputs["sr"], hr)]
        if min(image.shape[1] for image in images) == 1:  # one of them is luma
            images = [rgb_to_y(image) if image.shape[1] == 3 else image for image in images]
        error = (images[2].clamp(0, 1) - images[3]).abs() * 4  # about 0.02: invisible unless enlarged
        # Images are cut to a multiple of the scale; cut to one of all scales, they have one middle.
        height, width = (length // _ALL_SCALES * _ALL_SCALES or length for length in hr.shape[-2:])
        side = min(self.size, height, width)
        top, left = (height - side) // 2, (width - side) // 2
        panes = [image[0, :, top : top + side, left : left + side] for image in (*images, error)]
        gutter = torch.ones_like(panes[0][:, :, :2])
        return torch.cat([part for pane in panes for part in (pane, gutter)][:-1], dim=2)


def _write_png(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)  # a sixth larger than usual, in a third of the time
    files.write(path, buffer.getvalue())


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights: Lightning's, updated at once and without a wait.

    torch's own update asks the device at every step how many it has averaged, and goes from weight to weight.

    Args:
        decay: Share of the average that stays at each step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_train_start(self, trainer: lightning.Trainer, pl_module: nn.Module) -> None:
        """List the tensors: to walk through both modules takes many times as long as to average."""
        assert self._average_model is not None
        averaged, current = (
            [*module.parameters(), *module.buffers()] for module in (self._average_model.module, pl_module)
        )
        pairs = list(zip(averaged, current, strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for mean, value in pairs if mean.is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Move the average towards the weights, after every step of the optimizer."""
        step = trainer.global_step
        if step == self._latest_update_step:  # gradients were accumulated
            return
        # the first step is where the average begins
        share = 1.0 if self._latest_update_step == 0 else 1 - self.decay
        torch._foreach_lerp_(self._means, self._values, share)
        for mean, value in self._counts:
            mean.copy_(value)
        assert self._average_model is not None
        self._average_model.n_averaged.add_(1)
        self._latest_update_step = step


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at no cost: Lightning's own enters and leaves a generator sixty times a step."""

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Nothing."""
        return _NOTHING


_NOTHING = contextlib.nullcontext()
_STEP_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)


def without_idle_hooks(owner: _Hooked) -> _Hooked:
    """Take away the hooks that nobody wrote, which Lightning would call six times a step of each callback.

    Returns:
        The same callback or module.
    """
    base = lightning.Callback if isinstance(owner, lightning.Callback) else lightning.LightningModule
    for hook in _STEP_HOOKS:
        if getattr(type(owner), hook) is getattr(base, hook):
            setattr(owner, hook, None)  # Lightning passes over what cannot be called
    return owner


def watchers(folder: RunFolder, *, batch_size: int, row_interval: int) -> list[lightning.Callback]:
    """Callbacks of every run; the speed comes first, since the others read it."""
    speed = Speed(batch_size)
    return [
        speed,
        Record(folder.record, speed, interval=row_interval),
        TrainingProgress(speed),
        ExampleImages(folder.images),
    ]
