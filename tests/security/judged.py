"""What a reader makes of an input, in a process of its own with little memory and little time."""

import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from sr_lab.errors import SRLabError

SECONDS = 2  # of the processor: the machine may have other work
MEMORY = 512 * 2**20  # above what the process has


@dataclass(frozen=True)
class Judged:
    """How a reader ended.

    Args:
        value: What it gave, as plain values.
        error: Its message, if it refused.
        odd: What went wrong with it: another error, a crash, too long, too much.
    """

    value: object = None
    error: str = ""
    odd: str = ""


def judged(read: Callable[[], object], *, seconds: int = SECONDS) -> Judged:
    """Read in a forked process; its memory and time are limited by the system."""
    theirs, ours = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # from Python 3.12 on: other threads may hold locks
        child = os.fork()
    if child == 0:
        os.close(theirs)
        try:
            said = json.dumps(_in_child(read, seconds))
        except BaseException as error:
            said = json.dumps({"odd": f"{type(error).__name__}: {error}"})
        with os.fdopen(ours, "w") as file:
            file.write(said)
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if status != 0 or not said:
        return Judged(odd=f"the process ended with {signal.Signals(os.WTERMSIG(status)).name}")
    return Judged(**json.loads(said))


def _in_child(read: Callable[[], object], seconds: int) -> dict[str, object]:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds + 1, resource.RLIM_INFINITY))
    signal.alarm(15 * seconds)  # a reader that waits
    try:
        value = read()
    except SRLabError as error:
        text = str(error)
        return {"odd": f"more than a sentence: {text!r}"} if "\n" in text else {"error": text}
    finally:
        signal.alarm(0)
    return {"value": value}
