"""Send batches from a worker to the training process through shared memory that is reused.

torch allocates new shared memory for every batch. The system clears it, maps it page by page in the worker
and again in the training process, and frees it, which takes three times as long as cutting the patches. Here,
the worker keeps its memory, the training process keeps it mapped, and only the address is sent. A batch is
never overwritten while a tensor uses it: the worker takes memory that neither process uses, or allocates
more.
"""

import multiprocessing
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

Memory: TypeAlias = NDArray[np.uint8]

# A block starts with a header. The worker has its first byte and the training process its second; a byte is 1
# while that side uses the block's batch.
_WORKER: Literal[0] = 0
_TRAINING: Literal[1] = 1
_HEAD = 64  # bytes; keeps the batch aligned to the processor's cache lines

# Blocks of this worker, ``(_HEAD + size,)`` uint8, by the address after the header.
_slots: dict[int, Tensor] = {}
_sent: set[int] = set()  # addresses that the training process has mapped
# Blocks of this process's workers, by process id and address.
_mapped: dict[tuple[int, int], Memory] = {}


def empty(size: int) -> Tensor:
    """An uninitialised uint8 tensor ``(size,)``; in a worker, it is shared, and `send` does not copy it."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    for slot in _slots.values():
        if len(slot) == _HEAD + size and not slot.numpy()[: _TRAINING + 1].any():
            return _hold(slot.numpy(), _WORKER)
    shared: Tensor = torch.zeros(_HEAD + size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    _slots[shared.data_ptr() + _HEAD] = shared
    return _hold(shared.numpy(), _WORKER)


def send(batch: Mapping[str, object]) -> object:
    """Convert a batch to the form in which a worker sends it; the ``collate_fn`` of a loader.

    Args:
        batch: Tensors in one buffer from `empty`, and picklable values.

    Returns:
        An object that unpickles to a dictionary like ``batch``; outside a worker, the batch itself.
    """
    addresses = {v.untyped_storage().data_ptr() for v in batch.values() if isinstance(v, Tensor)}
    return _Parcel(addresses.pop(), batch) if len(addresses) == 1 and addresses <= _slots.keys() else batch


def _hold(memory: Memory, side: Literal[0, 1]) -> Tensor:
    """The batch in a block of memory, which ``side`` uses until it has deleted the batch's tensors."""
    memory[side] = 1
    content = memory[_HEAD:]
    weakref.finalize(content, _let_go, memory, side, os.getpid()).atexit = False
    return torch.from_numpy(content)  # its storage keeps a reference to ``content`` itself


def _let_go(memory: Memory, side: Literal[0, 1], process: int) -> None:
    if os.getpid() == process:  # a forked process deletes its copies of the tensors too
        memory[side] = 0


@dataclass(frozen=True)
class _Parcel:
    """A batch that is pickled as the address of its memory in the worker."""

    address: int
    batch: Mapping[str, object]

    def __reduce__(self) -> tuple[object, ...]:
        slot = _slots[self.address]
        slot.numpy()[_TRAINING] = 1
        shared = None if self.address in _sent else slot
        _sent.add(self.address)
        places = {
            name: (value.storage_offset(), tuple(value.shape))
            for name, value in self.batch.items()
            if isinstance(value, Tensor)
        }
        rest = {name: value for name, value in self.batch.items() if name not in places}
        return _arrive, ((os.getpid(), self.address), shared, places, rest)


def _arrive(
    key: tuple[int, int],
    shared: Tensor | None,
    places: Mapping[str, tuple[int, tuple[int, ...]]],
    rest: Mapping[str, object],
) -> dict[str, object]:
    """Rebuild a batch; pickle calls this in the training process."""
    if shared is not None:
        workers = {process.pid for process in multiprocessing.active_children()}
        for old in [old for old in list(_mapped) if old[0] not in workers]:
            _mapped.pop(old, None)  # a loader in another thread may have removed it
        _mapped[key] = shared.numpy()
    content = _hold(_mapped[key], _TRAINING)
    tensors = {
        name: content[start:][: int(np.prod(shape))].view(shape) for name, (start, shape) in places.items()
    }
    return {**tensors, **rest}
