"""Python's garbage collector waits until a command has started."""

import gc


def collect_later() -> None:
    """Collect no garbage until `collect` is called.

    A command that trains creates a million objects before its first step, almost all by importing torch and
    Lightning. They stay, but the collector looks through them again and again: 1 s of 5 s.
    """
    gc.disable()


def collect() -> None:
    """Collect garbage again, but never look at what has been created so far."""
    if not gc.isenabled():  # else what an earlier job left would stay for good
        gc.freeze()
        gc.enable()
