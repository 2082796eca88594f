"""Batches go from a worker to the training in shared memory that is used again.

Left to itself torch takes new shared memory for every batch. The system clears it, maps it page by page in
the worker and again in the training, and takes it back: that costs three times as much as cutting patches.
Here a worker keeps its memory and the training keeps it mapped; only its number travels. A batch is never
overwritten while a tensor on it lives: the worker takes memory that neither side holds, or new memory.
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

# The head of every memory has a byte for each side, 1 while it holds the batch that follows.
_WORKER: Literal[0] = 0
_TRAINING: Literal[1] = 1
_HEAD = 64  # keeps what follows aligned to the lines of the processor's cache


@dataclass
class _Slot:
    """Memory of this worker.

    Args:
        number: Its name at the other side.
        shared: ``(_HEAD + size,)`` uint8 in shared memory.
        memory: The same for numpy.
        known: Whether the other side has mapped it.
    """

    number: int
    shared: Tensor
    memory: Memory
    known: bool = False


_slots: dict[int, _Slot] = {}  # of this worker, by the address behind the head
_mapped: dict[tuple[int, int], Memory] = {}  # of this process's workers, by process and number


def empty(size: int) -> Tensor:
    """uint8 ``(size,)``; in a worker it is shared memory, which `send` need not copy."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    for slot in _slots.values():
        if len(slot.memory) == _HEAD + size and not slot.memory[: _TRAINING + 1].any():
            return _hold(slot.memory, _WORKER)
    shared: Tensor = torch.zeros(_HEAD + size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    slot = _Slot(len(_slots), shared, shared.numpy())
    _slots[shared.data_ptr() + _HEAD] = slot
    return _hold(slot.memory, _WORKER)


def send(batch: Mapping[str, object]) -> object:
    """A batch as a worker returns it: the ``collate_fn`` of a loader.

    Args:
        batch: Tensors on one buffer that `empty` gave, and whatever else can be pickled.

    Returns:
        Something that arrives as a dictionary like ``batch``; outside a worker the batch itself.
    """
    addresses = {v.untyped_storage().data_ptr() for v in batch.values() if isinstance(v, Tensor)}
    slot = _slots.get(addresses.pop()) if len(addresses) == 1 else None
    return batch if slot is None else _Parcel(slot, batch)


def _hold(memory: Memory, side: Literal[0, 1]) -> Tensor:
    """What follows the head; the side lets go when the last tensor on it is gone."""
    memory[side] = 1
    content = memory[_HEAD:]
    weakref.finalize(content, _let_go, memory, side, os.getpid()).atexit = False
    return torch.from_numpy(content)  # whose storage keeps ``content``, this very array


def _let_go(memory: Memory, side: Literal[0, 1], process: int) -> None:
    if os.getpid() == process:  # not one that was forked from it and lost some of its objects
        memory[side] = 0


class _Parcel:
    """A batch on its way."""

    def __init__(self, slot: _Slot, batch: Mapping[str, object]) -> None:
        self.slot = slot
        self.batch = batch

    def __reduce__(self) -> tuple[object, ...]:
        slot = self.slot
        slot.memory[_TRAINING] = 1
        shared = None if slot.known else slot.shared
        slot.known = True
        places = {
            name: (value.storage_offset(), tuple(value.shape)) if isinstance(value, Tensor) else None
            for name, value in self.batch.items()
        }
        rest = {name: value for name, value in self.batch.items() if not isinstance(value, Tensor)}
        return _arrive, ((os.getpid(), slot.number), shared, places, rest)


def _arrive(
    key: tuple[int, int],
    shared: Tensor | None,
    places: Mapping[str, tuple[int, tuple[int, ...]] | None],
    rest: Mapping[str, object],
) -> dict[str, object]:
    """What pickle calls at the other side."""
    if shared is not None:
        workers = {process.pid for process in multiprocessing.active_children()}
        for old in [old for old in list(_mapped) if old[0] not in workers]:
            _mapped.pop(old, None)  # a loader in another thread may do the same
        _mapped[key] = shared.numpy()
    content = _hold(_mapped[key], _TRAINING)
    return {
        name: rest[name] if place is None else content[place[0] :][: int(np.prod(place[1]))].view(place[1])
        for name, place in places.items()
    }
