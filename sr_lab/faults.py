"""What a machine does to a training, in one sentence: full disks, full memory, workers that die."""

import contextlib
import re
from collections.abc import Iterator

import torch

from sr_lab.errors import FaultError, SRLabError

_GOES_ON = "the same command goes on from the last checkpoint"


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A fault of the machine within the block is told in words.

    Raises:
        FaultError: There was one.
    """
    try:
        yield
    except Exception as error:
        sentence = in_words(error)
        if sentence is None:
            raise
        raise FaultError(sentence) from error


def in_words(error: BaseException) -> str | None:
    """What has happened, ``None`` of a mistake in a program or of what is a sentence already."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = str(error)
    if isinstance(error, SRLabError) or "Original Traceback" in text:  # a worker's own error comes with that
        ours = re.search(r"^sr_lab\.errors\.\w+: (.+)$", text, re.MULTILINE)
        return ours[1] if ours else None
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "training: the memory of the device is full; trainer.accumulate_grad_batches=2 gives the same "
            f"result in half of it; {_GOES_ON}"
        )
    if isinstance(error, MemoryError):
        return f"training: the memory of this machine is full; take fewer num_workers; {_GOES_ON}"
    if "DataLoader timed out" in text:
        return (
            f"training: a worker that reads images has not answered for {text.split()[-2]} s "
            f"(trainer.timeout); look at the disk with the images; {_GOES_ON}"
        )
    if "DataLoader worker" in text:
        signal = re.search(r"killed by signal: (\w+)", f"{text} {error.__cause__}")
        how = f" by signal {signal[1]}" if signal else ""
        return (
            f"training: a worker that reads images was killed{how} (out of memory? then take fewer "
            f"num_workers); {_GOES_ON}"
        )
    for link in chain:
        if isinstance(link, OSError) and link.strerror is not None:
            where = f"'{link.filename}'" if link.filename is not None else "a file of the run"
            return f"training: cannot use {where}: {link.strerror}; mend that, then {_GOES_ON}"
    return None
