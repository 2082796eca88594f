"""What a run of these tests has plugged in: noise of each random generator, and ways to die."""

import os
import random
import signal
import sys
from pathlib import Path

import lightning
import numpy as np
import torch

from sr_lab.durable import DurableCheckpointIO

_REMOVING = {"os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Noise(lightning.Callback):
    """Moves each gradient by numbers that Python, NumPy and torch draw: a lost random state shows at once."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        factor = 1 + 0.1 * random.random() + 0.1 * float(np.random.random())  # noqa: NPY002
        for parameter in pl_module.network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor).add_(torch.randn_like(parameter.grad), alpha=1e-3)


class Witness(lightning.Callback):
    """Notes each row of the record that was written in this attempt, in the run folder's ``witness.txt``."""

    def on_train_start(self, trainer, pl_module) -> None:
        path = Path(trainer.default_root_dir) / "witness.txt"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            os.write(self._file, f"{trainer.global_step} train/loss\n".encode())

    def on_validation_end(self, trainer, pl_module) -> None:
        os.write(self._file, f"{trainer.global_step} val/psnr_y\n".encode())


class Draws(lightning.Callback):
    """Notes what each rank would draw after each batch; the ranks begin with different states.

    Args:
        die_after: Step after which the processes are killed, unless they began behind it.
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
    """Saves after steps of the optimizer (and their validation) that nobody else saves after, and dies.

    Args:
        steps: After which; whoever goes on from there does not die again.
        interval: Steps between validations.
    """

    def __init__(self, steps: list[int], interval: int) -> None:
        self.steps = list(steps)
        self.interval = interval
        self._begun = -1

    def setup(self, trainer, pl_module, stage) -> None:
        trainer.callbacks.sort(key=lambda callback: callback is self)  # behind those that save the best

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
    """Write ``last.ckpt`` again and again, each with its number in all of its values."""
    number = 0
    while True:
        number += 1
        content = {"state_dict": {"w": torch.full((mebibytes * 2**18,), float(number))}, "step": number}
        DurableCheckpointIO().save_checkpoint(content, Path(folder) / "checkpoints" / "last.ckpt")


def count_operations(folder: Path, *, end_at: int, log: Path) -> None:
    """Note what this process does to files below ``folder``, and kill it before operation ``end_at``.

    Opening for writing, renaming, removing and making are told by Python's audit events; fsync has none.

    Args:
        folder: Where it counts.
        end_at: Number of the operation, from 1; 0 never.
        log: A line for each operation, written before it.
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
        path = os.readlink(f"/proc/self/fd/{handle}")  # of a folder: without the separator
        if f"{path}{os.sep}".startswith(inside):
            note("fsync", path)
        fsync(handle)

    os.fsync = counted
    sys.addaudithook(audit)
