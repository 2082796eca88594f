"""Being told to end: the step at work is finished and saved first, and the exit code says who asked.

Lightning 2.6.6 ends with 0 after SIGTERM, drops a checkpoint of another name in another folder at Slurm's
signal, finds none at a first start, and waits for other ranks inside a signal handler, where all can hang.
"""

import contextlib
import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from torch import Tensor, distributed

from sr_lab.system.devices import rank

# Ctrl-C, the end of a terminal, the scheduler's or the user's wish, Slurm's announcement of a pre-emption.
_HEARD = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)


class Ended(SystemExit):
    """A signal ended the process; its exit code is the one a shell would show.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Hears signals; while a training is at work they wait for the end of its step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.waits = False  # a training finishes its step first
        self._process = os.getpid()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen, and put a Slurm job that was told to make room in the queue again.

        Raises:
            Ended: A signal has come, and nothing is left to save.
        """
        if threading.current_thread() is not threading.main_thread():  # there Python allows no handler
            yield
            return
        found = {number: signal.getsignal(number) for number in _HEARD}
        before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
        for number in before:  # without those that nohup has turned off
            signal.signal(number, self._hear)
        try:
            yield
        except Ended as ended:
            if ended.number == signal.SIGUSR1 and rank() == 0:
                requeue()
            raise
        finally:
            for worker in multiprocessing.active_children():  # one that hangs would keep the folder locked
                worker.kill()
                worker.join()
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def end_if_asked(self) -> None:
        """Go, if a signal has come meanwhile."""
        self.waits = False
        if self.asked is not None:
            raise Ended(self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that has just begun: `data_module` tells it what to hear
            return
        if not self.waits:
            self.asked = self.asked or number  # who imports a module may drop what is raised
            raise Ended(number)
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is None and rank() == 0:
            again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            line = f"{signal.Signals(number).name}: saves after this step{again}\n"
            os.write(2, line.encode())  # not print(): this may have come in the middle of one
        self.asked = self.asked or number


def job() -> str:
    """What Slurm or torchrun calls the job, however often it starts it; empty if it is none of theirs."""
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "")


def is_started_again() -> bool:
    """Whether Slurm or torchrun has started the same command before: it goes on, whatever it says."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(os.environ.get(name, "0") not in ("", "0") for name in counts)


def requeue() -> None:
    """Ask Slurm to start this job again, if it is one; the same command goes on with the run."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"SIGUSR1: saved, and not requeued: {error}; start the job again", file=sys.stderr)  # noqa: T201


class SaveWhenAsked(Checkpoint):
    """Saves ``last.ckpt`` after the step at which a signal came, and ends.

    Comes last of those that save. Ranks agree on the step by an exchange on the CPU that goes on beside the
    next one. Where a validation is due or at work, it is put off until the run goes on.

    Args:
        path: The checkpoint.
        signals: Hears them.
    """

    def __init__(self, path: Path, signals: Signals) -> None:
        self.path = path
        self.signals = signals
        self._group: distributed.ProcessGroup | None = None
        self._coming: tuple[distributed.Work, Tensor] | None = None
        self._validation_due = False
        self._before_validation: dict[str, object] | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take Lightning's place."""
        trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Wait for the end of steps from now on; first make up for a validation that was put off."""
        self.signals.waits = True
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if self._validation_due:
            self._validation_due = False
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save and end, if a process was asked to; the last step's validation comes before."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps > 0:
            return
        number = self._agreed(trainer)
        if number:
            interval = trainer.val_check_batch
            due = interval is not None and (batch_idx + 1) % interval == 0
            self._save(trainer, number, validation_due=due)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note where a run that is ended within the validation goes on."""
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        self._before_validation = copy.deepcopy(progress.state_dict())

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Do not wait for the images that are left; other ranks would wait for this one's share."""
        asked = self.signals.asked
        if asked is None or trainer.world_size > 1 or trainer.global_step >= trainer.max_steps > 0:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # the average stands in the weights' place
                callback.on_validation_epoch_end(trainer, pl_module)
        self._save(trainer, asked, validation_due=True)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """It has come to its end."""
        self._before_validation = None

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nothing is left to save; who was asked after the last exchange tells the others."""
        if self._group is not None:
            told = torch.tensor(self.signals.asked or 0)
            distributed.all_reduce(told, distributed.ReduceOp.MAX, group=self._group)
            self.signals.asked = int(told) or None
        self.signals.end_if_asked()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Have the file look as if the validation had not begun."""
        checkpoint["validation_due"] = self._validation_due
        if self._validation_due:
            loops: dict[str, dict[str, dict[str, int]]] = checkpoint["loops"]["fit_loop"]  # type: ignore[index]
            progress = loops["epoch_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count["completed"] = count["ready"]
            if self._before_validation is not None:
                loops["epoch_loop.val_loop.batch_progress"] = self._before_validation  # type: ignore[assignment]

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Remember a validation that was put off."""
        self._validation_due = bool(checkpoint.get("validation_due", False))

    def _save(self, trainer: lightning.Trainer, number: int, *, validation_due: bool) -> None:
        self._validation_due = validation_due
        trainer.save_checkpoint(self.path)
        raise Ended(number)

    def _agreed(self, trainer: lightning.Trainer) -> int:
        """The signal at which all ranks end now, 0 if none has heard one by the step before."""
        own = self.signals.asked or 0
        if self._group is None:
            return own
        told = torch.tensor(own)
        coming, self._coming = self._coming, None
        if coming is not None:
            coming[0].wait()
            if coming[1]:
                return int(coming[1])
        work = distributed.all_reduce(told, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._coming = (work, told)
        return 0


def _nothing(*_: object) -> None:
    """Stands in for what Lightning does at a signal."""
