"""Errors for users: one sentence with the place, the problem, the given and allowed values, and a remedy."""

import difflib
import re
from collections.abc import Iterable

# Characters that terminals, XML or UTF-8 do not accept as text, and those that reverse the reading direction.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    r"""The text with escapes (``\x1b``) in place of characters that control a terminal or break a page."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class SRLabError(ValueError):
    """An error that the user can fix; the command line prints it without a traceback and exits with 2."""

    def __str__(self) -> str:
        """The message without control characters, since it may quote an untrusted file."""
        return printable(super().__str__())


class ConfigError(SRLabError):
    """A setting is unknown, has the wrong type, or conflicts with another setting."""


class DataError(SRLabError):
    """An image or a folder of images is missing, broken, too small, or does not match its counterpart."""


class CheckpointError(SRLabError):
    """A checkpoint cannot be opened safely, or does not fit the network."""


class FaultError(SRLabError):
    """A training run failed because of a disk, memory or process fault."""


class DistributedError(SRLabError):
    """A process of a training run on several devices did not start, does not respond, or has died."""


# A machine fault is not a failure of the run: the same command resumes it.
MACHINE_ERRORS = (FaultError, DistributedError, OSError)


def did_you_mean(given: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """``; did you mean 'x'?`` with the nearest known name in any case, or an empty string."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=cutoff)
    return f"; did you mean '{names[near[0]]}'?" if near else ""
