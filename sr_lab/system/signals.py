"""Receives signals that ask the program to end; `training.ending` obeys them after the current step."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from sr_lab.system.devices import rank
from sr_lab.system.interrupts import Ended
from sr_lab.system.unix import END_SIGNALS, PREEMPTED


class Signals:
    """Listens for signals; during training, they take effect at the end of a step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.waits = False  # whether training finishes its step first
        self._process = os.getpid()
        self._heard: list[int] = []

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen for signals, and put a preempted Slurm job back in the queue.

        Raises:
            Ended: A signal has arrived, and nothing remains to be saved.
        """
        if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
            yield
            return
        found = {number: signal.getsignal(number) for number in END_SIGNALS}
        before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
        self._heard = list(before)  # not the signals that nohup has turned off
        self.listen()
        try:
            yield
        except Ended as ended:
            if ended.number == PREEMPTED and rank() == 0:
                requeue()
            raise
        finally:
            for worker in multiprocessing.active_children():  # a hanging worker would keep the folder locked
                worker.kill()
                worker.join()
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
            self._heard = []

    def listen(self) -> None:
        """Within `heard`, put back our handlers after a library has replaced them."""
        for number in self._heard:
            signal.signal(number, self._hear)

    def end_if_asked(self) -> None:
        """End the program if a signal arrived in the meantime."""
        self.waits = False
        if self.asked is not None:
            raise Ended(self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a new worker, before `data_module` sets its handlers
            return
        if not self.waits:
            self.asked = self.asked or number  # an import may swallow the exception
            raise Ended(number)
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is None and rank() == 0:
            again = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
            line = f"{signal.Signals(number).name}: the run is saved after this step{again}\n"
            os.write(2, line.encode())  # not print(), which the signal may have interrupted
        self.asked = self.asked or number


def job() -> str:
    """The id of the Slurm or torchrun job, which stays the same across restarts; empty elsewhere."""
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "")


def is_started_again() -> bool:
    """Whether Slurm or torchrun restarted this command; the run then resumes even with ``resume=never``."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(os.environ.get(name, "0") not in ("", "0") for name in counts)


def requeue() -> None:
    """Ask Slurm to start this job again, if this is a Slurm job; the same command resumes the run."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"SIGUSR1: saved, but not requeued: {error}; start the job again", file=sys.stderr)  # noqa: T201
