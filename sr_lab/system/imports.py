"""Imports that take seconds."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Collect no garbage while the block imports torch or Lightning, nor look at what they created later.

    Their imports create a million objects, almost none of them garbage. To look through them again and again
    takes a fifth of the time of an import, and takes it again whenever Python collects during a run.
    """
    collects, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:  # else the garbage of an earlier job would stay
            gc.freeze()
        if collects:
            gc.enable()
