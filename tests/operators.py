"""Watch which operators a piece of code runs."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FETCH = "_local_scalar_dense"  # fetches one value; on a GPU, this waits for the device


class Operators(TorchDispatchMode):
    """While active, counts the calls of each operator by name, and separately those that narrow float64."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.narrowing: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        given, made = ({tensor.dtype for tensor in _tensors(value)} for value in ((args, kwargs), result))
        if torch.float64 in given and any(dtype.is_floating_point and dtype.itemsize < 8 for dtype in made):
            self.narrowing[name] += 1
        return result


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for each in inner:
        yield from _tensors(each)
