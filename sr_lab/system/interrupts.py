"""Lets Ctrl-C end the program at once while it starts; imported before any other module.

An exception would be raised inside an import, where the importing code (torch importing NumPy, a resolver of
OmegaConf importing a module) may mistake it for a missing module, and the run would continue.
"""

import os
import signal
from types import FrameType

__all__ = ["as_exception", "end_at_once"]


def end_at_once() -> None:
    """From now on, let Ctrl-C end the process with exit code 130, unless it is ignored as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def as_exception() -> None:
    """From now on, let Ctrl-C raise `KeyboardInterrupt` again, for work that needs cleaning up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
