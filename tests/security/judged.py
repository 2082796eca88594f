"""Run readers in a separate process with little memory and time, and report how they ended."""

import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sr_lab.errors import SRLabError

Key = TypeVar("Key", bound=Hashable)
SECONDS = 2  # of processor time, since the machine may be busy
MEMORY = 512 * 2**20  # in addition to what the process already uses
_WAIT = 240  # seconds; pytest's own limit, 300, would leave the child behind


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
    """Call ``read`` in a forked process with limited memory and time."""
    return all_judged({"": read}, seconds=seconds)[""]


def all_judged(reads: Mapping[Key, Callable[[], object]], *, seconds: int = SECONDS) -> dict[Key, Judged]:
    """Judge readers in a forked process; if one ends the process, a new process runs the other readers."""
    found: dict[Key, Judged] = {}
    while len(found) < len(reads):
        found |= _in_one_process({key: read for key, read in reads.items() if key not in found}, seconds)
    return found


def _in_one_process(reads: Mapping[Key, Callable[[], object]], seconds: int) -> dict[Key, Judged]:
    """What the readers did, up to the first one that ended the process."""
    theirs, ours = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # Python 3.12+ warns about other threads' locks
        child = os.fork()
    if child == 0:
        signal.alarm(_WAIT)  # ends a child that waits forever, as it may for such a lock
        os.close(theirs)
        with os.fdopen(ours, "w") as file:
            for read in reads.values():
                try:
                    said = json.dumps(_in_child(read, seconds))
                except BaseException as error:
                    said = json.dumps({"odd": f"{type(error).__name__}: {error}"})
                print(said, file=file, flush=True)
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs) as file:
        said = [Judged(**json.loads(line)) for line in file]
    _, status = os.waitpid(child, 0)
    if status != 0:
        said.append(Judged(odd=f"the process ended with {signal.Signals(os.WTERMSIG(status)).name}"))
    return dict(zip(reads, said, strict=False))


def _in_child(read: Callable[[], object], seconds: int) -> dict[str, object]:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds + 1, resource.RLIM_INFINITY))
    signal.alarm(min(15 * seconds, _WAIT))  # ends a reader that waits forever
    try:
        value = read()
    except SRLabError as error:
        text = str(error)
        return {"odd": f"the message has more than one line: {text!r}"} if "\n" in text else {"error": text}
    finally:
        signal.alarm(_WAIT)
    return {"value": value}
