"""Keeps Python's garbage collector off until a command has started."""

import gc


def collect_later() -> None:
    """Collect no garbage until `collect` is called.

    A command that trains creates a million objects before its first step, almost all by importing torch and
    Lightning. They are never freed, but the collector would check them repeatedly, which takes 1 s of 5 s.
    """
    gc.disable()


def collect() -> None:
    """Collect garbage again, but never look at what has been created so far."""
    if not gc.isenabled():  # otherwise the garbage of an earlier job would never be freed
        gc.freeze()
        gc.enable()
