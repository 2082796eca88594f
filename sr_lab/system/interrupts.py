"""Lets Ctrl-C and SIGTERM end the program at once while it starts; imported before any other module.

An exception would be raised inside an import, where the importing code (torch importing NumPy, a resolver of
OmegaConf importing a module) may mistake it for a missing module, and the run would continue.
"""

import os
import signal
import threading
from types import FrameType

__all__ = ["Ended", "as_exception", "as_exit", "end_at_once"]


class Ended(SystemExit):
    """Raised when a signal ends the process; the exit code is what a shell would report.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def end_at_once() -> None:
    """From now on, let Ctrl-C or SIGTERM end the process with exit code 130 or 143.

    Signals that are ignored, as under nohup, stay ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def as_exception() -> None:
    """From now on, let Ctrl-C raise `KeyboardInterrupt` again, for work that needs cleaning up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def as_exit() -> None:
    """From now on, let both signals raise `Ended`; on another exception, Lightning would exit with 0 or 1."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


_process = os.getpid()


def _end(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM and os.getpid() == _process:  # whoever pressed Ctrl-C knows it
        os.write(2, b"interrupted by SIGTERM while starting; start the same command again\n")
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Ended(number)
