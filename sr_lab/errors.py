"""Errors for users: one sentence with where, what is wrong, what was given, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class SRLabError(ValueError):
    """A mistake that the user can correct; the command line prints it without traceback and exits with 2."""


class ConfigError(SRLabError):
    """A setting is unknown, has the wrong type, or does not fit another one."""


class DataError(SRLabError):
    """An image or a folder of images is missing, broken, too small, or does not match its counterpart."""


class CheckpointError(SRLabError):
    """A checkpoint cannot be opened safely, or does not fit the network."""


class FaultError(SRLabError):
    """A disk, memory or process failed a training."""


class DistributedError(SRLabError):
    """A process of a training on several devices did not start, does not answer, or is gone."""


# A fault of the machine is not a failure of the run: the same command resumes it.
MACHINE_ERRORS = (FaultError, DistributedError, OSError)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the nearest known name, or an empty text."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
