"""Full precision for the parts of a network that must not compute in half precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """The same values in float32 at least; float64 is kept, for gradient checks and exports."""
    return x if x.dtype == torch.float64 else x.float()


def at_full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Turn autocast off on the device of ``x``."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
