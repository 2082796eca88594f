"""Run a reader in a separate process with little memory and time, and report how it ended."""

import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from sr_lab.errors import SRLabError

SECONDS = 2  # of processor time, since the machine may be busy
MEMORY = 512 * 2**20  # in addition to what the process already uses


@dataclass(frozen=True)
class Judged:
    """The result of a reader.

    Args:
        value: What the reader returned, as plain values.
        error: Message of the reader if it refused the input.
        odd: What else went wrong: another error, a crash, too much time or too much memory.
    """

    value: object = None
    error: str = ""
    odd: str = ""


def judged(read: Callable[[], object], *, seconds: int = SECONDS) -> Judged:
    """Read in a forked process with limited memory and time."""
    theirs, ours = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # Python 3.12+ warns about other threads' locks
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
    signal.alarm(15 * seconds)  # ends a reader that waits forever
    try:
        value = read()
    except SRLabError as error:
        text = str(error)
        return {"odd": f"the message has more than one line: {text!r}"} if "\n" in text else {"error": text}
    finally:
        signal.alarm(0)
    return {"value": value}
