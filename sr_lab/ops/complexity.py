"""The size of a network and its cost for a 1280x720 image, counted in four ways."""

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sr_lab.layers.network import num_image_ch
from sr_lab.types import Rule

HR_SIZE = (1280, 720)  # width and height of the output image
_OP_COUNTER_SIZE = 192  # LR pixels


def num_params(model: nn.Module) -> int:
    """Number of values in the parameters; shared parameters count once, buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def multi_adds(model: nn.Module, *, scale: int, rule: Rule, hr_size: tuple[int, int] = HR_SIZE) -> int:
    """Multiply-adds for one output image of 1280x720 pixels.

    The LR image has ``floor(1280 / scale) x floor(720 / scale)`` pixels, 426x240 at x3. A copy of the model
    runs on the meta device, which computes no values; a model that is already there, in evaluation mode,
    is used directly. The model is not changed.

    Args:
        model: A network for ``scale``.
        scale: Upscaling factor of ``model``.
        rule: ``all``: every convolution, linear layer and attention product. ``conv``: only convolution
            weights times output positions (input positions for a transposed convolution). ``torchinfo``:
            convolution weights and biases times output positions, and the parameters of any other layer once,
            like torchinfo's ``total_mult_adds``. ``op_counter``: MREN's rule, on an image of 192x192 LR
            pixels at any scale: for each output value of a convolution, input channels per group times
            (kernel positions, plus one for a bias); for each value of a sigmoid, 3; for each input value of a
            mean or maximum over the image, 1.
        hr_size: Width and height of the output image; ``op_counter`` ignores it.

    Returns:
        The count; 0 for a model without parameters, since no rule counts interpolation.
    """
    if num_params(model) == 0:
        return 0
    model = _on_meta(model)
    lr = lr_image(model, scale, "meta", hr_size)
    if rule == "torchinfo":
        return _torchinfo_count(model, lr)
    if rule == "op_counter":
        return _op_counter_count(model, lr.shape[1])
    flops = _count(model, lr, {})  # two for each multiply-add
    return (flops.total() if rule == "all" else flops[torch.ops.aten.convolution]) // 2


def activations(model: nn.Module, *, scale: int, hr_size: tuple[int, int] = HR_SIZE) -> int:
    """Number of values in the outputs of all convolutions for one image.

    The AIM and NTIRE challenges on efficient super-resolution report this number, which predicts the run
    time on a GPU better than multiply-adds do.

    Args:
        model: As for `multi_adds`.
        scale: Upscaling factor of ``model``.
        hr_size: Width and height of the output image.

    Returns:
        The count; 0 for a model without parameters.
    """
    if num_params(model) == 0:
        return 0
    model = _on_meta(model)
    convolution = torch.ops.aten.convolution
    return _count(model, lr_image(model, scale, "meta", hr_size), {convolution: _values_out})[convolution]


def peak_memory(model: nn.Module, *, scale: int, hr_size: tuple[int, int] = HR_SIZE) -> int:
    """Peak number of bytes in use for one output image of 1280x720 pixels, computed in float32.

    Counts weights and intermediate results as eager PyTorch keeps them on the CPU, without the kernels'
    workspace. Nothing is computed: fake tensors carry the sizes.
    """
    weights: int = sum(value.nbytes for value in [*model.parameters(), *model.buffers()])
    return weights + _live_memory(model, scale, hr_size).peak


def largest_result(model: nn.Module, *, scale: int, hr_size: tuple[int, int] = HR_SIZE) -> int:
    """Bytes of the largest intermediate result or output, counted like `peak_memory`."""
    return _live_memory(model, scale, hr_size).largest


def _live_memory(model: nn.Module, scale: int, hr_size: tuple[int, int]) -> "_LiveMemory":
    model = copy.deepcopy(model).cpu().eval()
    memory = _LiveMemory()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), memory:
        model(lr_image(model, scale, "cpu", hr_size))
    return memory


class _LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks which storages are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.largest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        identifier = storage._cdata
        if identifier in self._known:  # the output is a view or was computed in place
            return
        self._known.add(identifier)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, storage.nbytes())
        weakref.finalize(storage, self._forget, identifier, storage.nbytes())

    def _forget(self, identifier: int, size: int) -> None:
        self._known.discard(identifier)
        self.live -= size


def _on_meta(model: nn.Module) -> nn.Module:
    """The model if it is on the meta device in evaluation mode, else a copy that is."""
    if any(module.training for module in model.modules()):
        return copy.deepcopy(model).to("meta").eval()
    values = [*model.parameters(), *model.buffers()]
    return model if all(value.is_meta for value in values) else copy.deepcopy(model).to("meta")


def lr_image(model: nn.Module, scale: int, device: str, hr_size: tuple[int, int] = HR_SIZE) -> Tensor:
    """An LR image ``(1, C, h, w)`` of undefined values, whose SR image has ``hr_size``."""
    width, height = hr_size
    return torch.empty(1, num_image_ch(model), height // scale, width // scale, device=device)


def _count(model: nn.Module, lr: Tensor, formulas: Mapping[Any, Callable[..., int]]) -> Counter[object]:
    """The count of each operator, by torch's formulas or by ``formulas``, which take precedence."""
    with torch.no_grad(), _Counting(formulas) as counting:
        model(lr)
    counts: Counter[object] = counting.counts
    return counts


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts like ``FlopCounterMode``, but runs an operator only once for the same shapes.

    A result on the meta device is only a shape, but torch spends up to milliseconds of Python on it, and the
    blocks of a network repeat the same operations. With this, counting EFRDN takes a fifth of the time.
    """

    def __init__(self, formulas: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[object] = Counter()
        self._formulas = FlopCounterMode(display=False, custom_mapping=dict(formulas)).flop_registry
        self._known: dict[object, tuple[object, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        key = (func, _shapes(args), _shapes(tuple(kwargs.items())))
        if key in self._known:
            shapes, count = self._known[key]
            out = args[0] if shapes is None else _like(shapes)
        else:
            out = func(*args, **kwargs)
            formula = self._formulas.get(func.overloadpacket)
            count = 0 if formula is None else formula(*args, **kwargs, out_val=out)
            if not func._schema.is_mutable and all(_is_new_tensor(each) for each in func._schema.returns):
                self._known[key] = _shapes(out), count
            elif (
                args and out is args[0] and torch.Tag.inplace_view not in func.tags
            ):  # an operator like add_ or relu_
                self._known[key] = None, count
        self.counts[func.overloadpacket] += count
        return out


@dataclass(frozen=True)
class _Shape:
    """What identifies a tensor without values."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _shapes(value: object) -> object:
    """A value as a key: a tensor as its shape, a list as a tuple, and anything else with its type."""
    if isinstance(value, Tensor):
        return _Shape(value.shape, value.stride(), value.dtype, value.device)
    if isinstance(value, list | tuple):
        return tuple(map(_shapes, value))
    return type(value), value  # 1, 1.0 and True are equal


def _like(shapes: object) -> object:
    if isinstance(shapes, tuple):
        return tuple(map(_like, shapes))
    assert isinstance(shapes, _Shape)
    return torch.empty_strided(shapes.size, shapes.stride, dtype=shapes.dtype, device=shapes.device)


def _is_new_tensor(returned: Any) -> bool:
    return returned.alias_info is None and isinstance(returned.type, torch.TensorType)


def _values_out(*_inputs: object, out_shape: Sequence[int], **_settings: object) -> int:
    return math.prod(out_shape)


def _torchinfo_count(model: nn.Module, lr: Tensor) -> int:
    """Count as torchinfo does: parameters once per call or, for convolutions, per output position."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        own = sum(parameter.numel() for parameter in layer.parameters())
        is_conv = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        total += own * (output.shape[-2] * output.shape[-1] if is_conv else 1)

    leaves = [layer for layer in model.modules() if next(layer.children(), None) is None]
    hooks = [layer.register_forward_hook(count) for layer in leaves]
    _count(model, lr, {})  # runs the hooks
    for hook in hooks:
        hook.remove()
    return total


def _op_counter_count(model: nn.Module, channels: int) -> int:
    """Count as an early pytorch-OpCounter does, but per operator instead of per layer."""
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten.convolution: _op_counter_convolution,
        aten.sigmoid: _three_per_value,
        aten.silu: _three_per_value,
        aten.mean: _one_per_value,
        aten.var_mean: _one_per_value,  # OpCounter counts pooling, not the standard deviation
        aten.amax: _one_per_value,
    }
    lr = torch.empty(1, channels, _OP_COUNTER_SIZE, _OP_COUNTER_SIZE, device="meta")
    counts = _count(model, lr, formulas)
    return sum(counts[operator] for operator in formulas)


def _op_counter_convolution(
    x: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    *settings: object,
    out_shape: Sequence[int],
) -> int:
    groups = settings[-1]
    assert isinstance(groups, int)
    return math.prod(out_shape) * x[1] // groups * (math.prod(weight[2:]) + (bias is not None))


def _three_per_value(x: Sequence[int], *_settings: object, **_keywords: object) -> int:
    return 3 * math.prod(x)


def _one_per_value(x: Sequence[int], *_settings: object, **_keywords: object) -> int:
    return math.prod(x)
