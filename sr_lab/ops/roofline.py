"""How many kernels a network launches and how many bytes they move: a bound on its speed on a GPU."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Operators that launch no kernel, since they only make a view or allocate memory.
_FREE = {
    *("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh"),
    *("alias", "detach", "_unsafe_view", "device"),
}

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention
_FLOPS: Mapping[object, Callable[..., int]] = {
    **flop_registry,
    # torch counts attention only on GPUs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATTENTION],
}


@dataclass(frozen=True)
class Peaks:
    """The limits of a GPU.

    Args:
        flops: Floating-point operations per second; a multiply-add counts as two.
        bytes: Bytes per second to and from the GPU's memory.
    """

    flops: float
    bytes: float


@dataclass(frozen=True)
class Operator:
    """One kernel: its name, its floating-point operations, and how many values it reads and writes."""

    name: str
    flops: int
    values: int

    def seconds(self, peaks: Peaks, bytes_per_value: int) -> float:
        """The time for computing or for moving the values, whichever is longer."""
        return max(self.flops / peaks.flops, self.values * bytes_per_value / peaks.bytes)


@dataclass(frozen=True)
class Traffic:
    """The operators of one forward pass."""

    operators: Sequence[Operator]

    @property
    def fused(self) -> "Traffic":
        """Only the operators that multiply and add, as if all others were fused into them."""
        return Traffic([operator for operator in self.operators if operator.flops])

    def seconds(self, peaks: Peaks, *, bytes_per_value: int) -> float:
        """Shortest time on a GPU that runs one operator after the other."""
        return sum(operator.seconds(peaks, bytes_per_value) for operator in self.operators)


def traffic(model: nn.Module, lr_shape: Sequence[int]) -> Traffic:
    """Record the operators of a forward pass of ``model`` on fake tensors, without computing a value.

    Fake tensors behave like CPU tensors, for which attention is one fused kernel, as on a GPU; on the meta
    device it would be several kernels.

    Args:
        model: Any network; it is not changed.
        lr_shape: ``(N, C, H, W)`` of the LR images.
    """
    model = copy.deepcopy(model).cpu().eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _Recorder() as recorder:
        model(torch.empty(*lr_shape))
    return Traffic(recorder.operators)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator that reaches the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _FREE:
            formula: Callable[..., int] | None = _FLOPS.get(func.overloadpacket)
            flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            values = sum(math.prod(tensor.shape) for tensor in tensors)
            self.operators.append(Operator(name, flops, values))
        return out
