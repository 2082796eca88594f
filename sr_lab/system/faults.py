"""Explains machine faults during a training run: full disks, full memory, dead workers."""

import contextlib
import re
from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException

from sr_lab import errors
from sr_lab.errors import ConfigError, FaultError, SRLabError
from sr_lab.system.devices import out_of_memory
from sr_lab.system.distributed import RESUMES
from sr_lab.system.unix import SHARED_MEMORY


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn a machine fault, or a setting that a class does not accept, into a sentence.

    Raises:
        FaultError: The machine failed.
        SRLabError: A data worker ran into a user error.
        ConfigError: Lightning or torch cannot do what the configuration asks for.
    """
    try:
        yield
    except Exception as error:
        ours = _of_a_worker(error) or _misfit(error)
        sentence = describe(error) if ours is None else None
        if ours is None and sentence is None:
            raise
        raise ours or FaultError(sentence) from error


def _of_a_worker(error: BaseException) -> SRLabError | None:
    """Our own error, recovered from the traceback that a data worker sends as text."""
    found = re.search(r"^sr_lab\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
    if "Original Traceback" not in str(error) or found is None:
        return None
    kind: type[SRLabError] = getattr(errors, found[1])
    return kind(found[2])


def _misfit(error: BaseException) -> ConfigError | None:
    """Our own error in place of one that Lightning or torch raises about the arguments of a class."""
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        return ConfigError(f"training: Lightning cannot do this: {text}")
    if found := re.search(r"^(\w+) does not have a deterministic implementation", text):
        return ConfigError(
            f"trainer.deterministic: torch has no deterministic {found[1]}, which this network needs; "
            "set trainer.deterministic=warn, or false"
        )
    if isinstance(error, RuntimeError) and "cannot be converted to type" in text and "overflow" in text:
        return ConfigError(
            f"training: a setting is too large for the network's data type (torch: {text}); "
            "use a smaller learning_rate, or check optimizer and loss"
        )
    return None


def describe(error: BaseException) -> str | None:
    """What happened, as a sentence; ``None`` for a bug, or for an error that already is a sentence."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = str(error)
    if any(re.search(rf"shared memory|{SHARED_MEMORY}|signal: Bus error", str(link)) for link in chain):
        return (
            f"training: {SHARED_MEMORY}, through which data workers pass batches, is full; lower "
            f"num_workers, or make {SHARED_MEMORY} larger (docker run --shm-size=8g); {RESUMES}"
        )
    if isinstance(error, SRLabError) or "Original Traceback" in text:  # an error raised in a worker
        return None
    if "illegal memory access" in text:
        return (
            "training: the GPU reports an illegal memory access; "
            f"{RESUMES}, and if it happens again, CUDA_LAUNCH_BLOCKING=1 shows the operation"
        )
    if isinstance(error, MemoryError):
        return f"training: the memory of this machine is full; lower num_workers; {RESUMES}"
    if "DataLoader timed out" in text:
        return (
            f"training: a worker that reads images has not answered for {text.split()[-2]} s "
            f"(trainer.timeout); check the disk that holds the images; {RESUMES}"
        )
    if "DataLoader worker" in text:
        signal = re.search(r"killed by signal: (\w+)", f"{text} {error.__cause__}")
        how = f" by signal {signal[1]}" if signal else ""
        return (
            f"training: a worker that reads images was killed{how} (out of memory? then lower "
            f"num_workers); {RESUMES}"
        )
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return (
            "training: the memory of the device is full; trainer.accumulate_grad_batches=2 (or 4, ...) "
            f"needs less memory for the same batch; {RESUMES}"
        )
    for link in chain:
        if isinstance(link, OSError) and link.strerror is not None:
            where = f"'{link.filename}'" if link.filename is not None else "a file of the run"
            return f"training: cannot use {where}: {link.strerror}; fix that, then {RESUMES}"
    return None
