"""Callbacks and faults for the runs of these tests: noise from each random generator, and ways to die."""

import builtins
import contextlib
import errno
import fnmatch
import hashlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import lightning
import numpy as np
import torch

from sr_lab.datasets import images
from sr_lab.datasets.folder import FolderDataset
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.training import data_module
from sr_lab.training.checkpointing import DurableCheckpointIO

_REMOVING = {"os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Noise(lightning.Callback):
    """Adds noise from Python, NumPy and torch to each gradient, so that a lost random state shows at once."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        factor = 1 + 0.1 * random.random() + 0.1 * float(np.random.random())  # noqa: NPY002
        for parameter in pl_module.network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor).add_(torch.randn_like(parameter.grad), alpha=1e-3)


class Ask(lightning.Callback):
    """Sends this process a signal in the middle of a step or during the validation after it.

    Args:
        step: Number of the step, from 1; a run that resumes after this step gets no signal.
        number: The signal.
        validation: Whether to send the signal during the validation.
        times: How many times to send the signal.
        rank: Rank of the process that gets the signal; -1 for every process.
    """

    def __init__(
        self, step: int, number: int, validation: bool = False, times: int = 1, rank: int = 0
    ) -> None:
        self.step, self.number, self.validation, self.times, self.rank = step, number, validation, times, rank
        self._asked = False

    def on_train_start(self, trainer, pl_module) -> None:
        self._asked = trainer.global_step >= self.step or self.rank not in (-1, trainer.global_rank)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step + 1 == self.step and not self.validation:
            self._ask()

    def on_validation_batch_end(self, trainer, *_: object) -> None:
        if trainer.global_step == self.step and self.validation:
            self._ask()

    def _ask(self) -> None:
        for _ in range(0 if self._asked else self.times):
            os.kill(os.getpid(), self.number)
            time.sleep(0.01)
        self._asked = True


class Spoil(lightning.Callback):
    """Makes the loss or a gradient of some steps NaN or infinite.

    Args:
        steps: Numbers of the steps, from 1.
        what: What to change: ``loss`` or ``gradient``.
        value: The new value: ``nan`` or ``inf``.
        ranks: Ranks of the processes whose loss or gradient changes.
    """

    def __init__(self, steps: list[int], what: str, value: float, ranks: tuple[int, ...] = (0,)) -> None:
        self.steps, self.what, self.value, self.ranks = list(steps), what, value, tuple(ranks)

    def _now(self, trainer) -> bool:
        return trainer.global_step + 1 in self.steps and trainer.global_rank in self.ranks

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.what == "loss":
            if batch_idx == 0 or not hasattr(self, "_loss"):
                self._loss = pl_module.loss
            spoil = self._now(trainer) and batch_idx % trainer.accumulate_grad_batches == 0
            pl_module.loss = Times(self._loss, self.value) if spoil else self._loss

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.what == "gradient" and self._now(trainer):
            next(pl_module.network.parameters()).grad.view(-1)[0] = self.value


class Times(torch.nn.Module):
    """Adds a detached multiple of a loss to the loss itself, which leaves the gradients unchanged."""

    def __init__(self, loss: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.loss, self.factor = loss, factor

    def forward(self, sr, hr):
        loss = self.loss(sr, hr)
        return loss + (loss * self.factor).detach()


class Witness(lightning.Callback):
    """Logs each row that this attempt adds to the record, in ``witness.txt`` in the run folder."""

    def on_train_start(self, trainer, pl_module) -> None:
        path = Path(trainer.default_root_dir) / "witness.txt"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            os.write(self._file, f"{trainer.global_step} train/loss\n".encode())

    def on_validation_end(self, trainer, pl_module) -> None:
        os.write(self._file, f"{trainer.global_step} val/psnr_y\n".encode())


class Weights(lightning.Callback):
    """Logs the SHA-256 of the parameters and of the buffers after each step to ``weights<rank>.txt``."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            network = pl_module.network
            digests = [_digest(values) for values in (network.parameters(), network.buffers())]
            path = Path(trainer.default_root_dir) / f"weights{trainer.global_rank}.txt"
            with path.open("a") as file:
                file.write(f"{' '.join(digests)}\n")


def _digest(values) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.detach().numpy().tobytes())
    return digest.hexdigest()


class Draws(lightning.Callback):
    """Logs the random numbers that each process draws after each batch; their initial states differ.

    Args:
        die_after: Step after which the processes are killed, unless the run was resumed.
    """

    def __init__(self, die_after: int) -> None:
        self.die_after = die_after

    def on_train_start(self, trainer, pl_module) -> None:
        self._begun = trainer.global_step
        self._path = Path(trainer.default_root_dir) / f"draws{trainer.global_rank}-{self._begun}.txt"
        for _ in range(trainer.global_rank if self._begun == 0 else 0):
            self._draw()

    def on_train_batch_end(self, trainer, *_: object) -> None:
        with self._path.open("a") as file:
            file.write(f"{trainer.global_step} {self._draw()}\n")
        if trainer.global_step == self.die_after > self._begun == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _draw(self) -> list[float]:
        return [random.random(), float(np.random.random()), float(torch.rand(()))]  # noqa: NPY002


class SaveAndDie(lightning.pytorch.callbacks.Checkpoint):
    """Saves a checkpoint after given optimizer steps (and their validation), then kills the process.

    Args:
        steps: Steps after which to save and die; a run that resumes from there does not die again.
        interval: Number of steps between validations.
    """

    def __init__(self, steps: list[int], interval: int) -> None:
        self.steps = list(steps)
        self.interval = interval
        self._begun = -1

    def setup(self, trainer, pl_module, stage) -> None:
        trainer.callbacks.sort(key=lambda callback: callback is self)  # after other checkpoint callbacks

    def on_train_start(self, trainer, pl_module) -> None:
        self._begun = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        validates = trainer.global_step % self.interval == 0 or trainer.global_step == trainer.max_steps
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not validates:
            self._die(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        self._die(trainer)

    def _die(self, trainer) -> None:
        if trainer.global_step in self.steps and trainer.global_step > self._begun:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
            os.kill(os.getpid(), signal.SIGKILL)


def save_for_ever(folder: str, mebibytes: int) -> None:
    """Write ``last.ckpt`` again and again; every value of the n-th checkpoint is n."""
    number = 0
    while True:
        number += 1
        content = {"state_dict": {"w": torch.full((mebibytes * 2**18,), float(number))}, "step": number}
        DurableCheckpointIO().save_checkpoint(content, Path(folder) / "checkpoints" / "last.ckpt")


def prepare(images: str, cache: str) -> None:
    """Decode and downscale a folder of images into the cache."""
    degradation = BicubicDegradation(scale=2)
    FolderDataset(
        hr_dir=images, scale=2, lr_patch_size=16, degradation=degradation, cache_dir=cache
    ).prepare()


def count_operations(folder: Path, *, end_at: int, log: Path) -> None:
    """Log this process's operations on files below ``folder``, and kill the process before number ``end_at``.

    Python reports opening, renaming, removing and creating as audit events; fsync has no such event.

    Args:
        folder: Only operations on files below this folder count.
        end_at: Number of the operation, from 1; 0 kills nothing.
        log: File that gets a line for each operation, before the operation runs.
    """
    inside, done = f"{folder}{os.sep}", [0]
    lines = log.open("w", buffering=1)

    def note(what: str, path: str) -> None:
        done[0] += 1
        lines.write(f"{what} {path.removeprefix(inside)}\n")
        if done[0] == end_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (
                writes
                and not str(path).endswith("witness.txt")
                and isinstance(path, str | os.PathLike)
                and os.fspath(path).startswith(inside)
            ):
                note("open", os.fspath(path))
        elif event == "os.rename" or event in _REMOVING:
            path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
            if path.startswith(inside) and not (event == "os.mkdir" and Path(path).is_dir()):
                note(event, path)

    fsync = os.fsync

    def counted(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")  # ends without a separator, also for a folder
        if f"{path}{os.sep}".startswith(inside):
            note("fsync", path)
        fsync(handle)

    os.fsync = counted
    sys.addaudithook(audit)


class Break(lightning.Callback):
    """Breaks one thing at a step: for example the disk, the memory, a worker or the clock.

    Args:
        what: Name of a fault in `_FAULTS` or of an error in `errno`, followed by its arguments.
        step: The step during which the fault happens.
    """

    def __init__(self, what: str, step: int) -> None:
        self.what, self.step = what, step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step + 1 == self.step:
            name, *arguments = self.what.split()
            fault = _FAULTS.get(name)
            break_files(getattr(errno, name), *arguments) if fault is None else fault(trainer, *arguments)


def break_files(number: int, how: str, pattern: str) -> None:
    """Make operations on files fail.

    Args:
        number: Number of the error, from `errno`.
        how: The operation that fails: ``open``, ``read``, ``write``, ``fsync`` or ``rename``; with ``short``,
            a write takes only a part of its data, which is not an error.
        pattern: Glob pattern for the names of the files.
    """

    def fail(path) -> None:
        if fnmatch.fnmatch(Path(path).name, pattern):
            raise OSError(number, os.strerror(number), *([str(path)] if how != "write" else []))

    class Raw(io.FileIO):
        def write(self, data) -> int:
            if how == "short":
                return super().write(bytes(data)[: max(1, len(data) // 2)])
            raise OSError(number, os.strerror(number))

        def readinto(self, buffer) -> int:
            if how == "read":
                raise OSError(number, os.strerror(number))
            return super().readinto(buffer)

    opened, fsync, replace = io.open, os.fsync, os.replace

    def opening(path, mode="r", *rest, **named):
        reads = not set("wax+") & set(mode)
        named_so = isinstance(path, str | os.PathLike) and fnmatch.fnmatch(Path(path).name, pattern)
        if not named_so or reads != (how == "read"):
            return opened(path, mode, *rest, **named)
        if how == "open":
            fail(path)
        raw = Raw(path, mode.replace("b", ""))
        if reads:
            return io.BufferedReader(raw)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, newline="")

    if how == "read":
        builtins.open = io.open = opening
    elif how in ("open", "write", "short"):
        Path.open = opening
    elif how == "fsync":
        os.fsync = lambda handle: fail(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle)
    elif how == "rename":
        os.replace = lambda old, new: fail(new) or replace(old, new)


def _raise(error: BaseException) -> None:
    raise error


def _clock_jumps_back(trainer) -> None:
    now = time.time
    time.time = lambda: now() - 3600


def _signal_workers(trainer, number: str) -> None:
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, int(number))
    time.sleep(0.1)


def _out_of_memory_in_validation(trainer) -> None:
    network, left = type(trainer.lightning_module.network), [2]
    forward = network.forward

    def hungry(self, lr):
        if left[0] and lr.shape[-2:] == (24, 30):
            left[0] -= 1
            raise torch.OutOfMemoryError("mocked")
        return forward(self, lr)

    network.forward = hungry


def _images_cannot_be_read(trainer, number: str) -> None:
    data_module._KEPT = 0  # makes each validation read the images again
    trainer.val_dataloaders[0]._kept.clear()
    trainer.val_dataloaders[0]._left = 0
    files = trainer.datamodule.val[0].files
    if number == "gone":
        for file in files:
            file.unlink()
    else:
        code = getattr(errno, number)
        images.Image.open = lambda *_, **__: _raise(OSError(code, os.strerror(code)))


def _kill_wandb(trainer) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if "wandb-core" in words[0] and str(os.getpid()) in words:
                os.kill(int(process.name), signal.SIGKILL)
                time.sleep(0.3)
                return
    raise AssertionError("this process has no wandb-core")


_FAULTS = {
    "wandb": _kill_wandb,
    "folder": lambda trainer: shutil.rmtree(trainer.default_root_dir),
    "cache": lambda trainer: shutil.rmtree(trainer.datamodule.train._hr.folder.parent),
    "clock": _clock_jumps_back,
    "memory": lambda trainer: _raise(MemoryError()),
    "device": lambda trainer: _raise(torch.OutOfMemoryError("mocked")),
    "validation": _out_of_memory_in_validation,
    "worker": _signal_workers,
    "images": _images_cannot_be_read,
}
