"""Imports that take seconds."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Collect no garbage while the block imports torch or Lightning, nor look at what it made later.

    Their imports create a million objects, almost none of them garbage. To look through them again and again
    takes a fifth of an import, and would take as long each time that Python collects during a run.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
