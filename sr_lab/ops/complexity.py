"""How large a network is and what one 1280x720 image costs it, by four ways of counting."""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Rule = Literal["all", "torchinfo", "conv", "op_counter"]

_HR_WIDTH, _HR_HEIGHT = 1280, 720
_OP_COUNTER_SIZE = 192  # LR pixels


def num_params(model: nn.Module) -> int:
    """Number of values in the parameters, a shared one counted once; buffers are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def multi_adds(model: nn.Module, *, scale: int, rule: Rule) -> int:
    """Multiply-adds for one image of 1280x720 pixels at the output.

    The LR image has ``floor(1280 / scale) x floor(720 / scale)`` pixels, 426x240 at x3. A copy of the model
    runs on the meta device, where no value is computed; the model stays as it is.

    Args:
        model: A network for images of that scale; its ``colour`` tells the channels (``y`` has 1, others 3).
        scale: Upscaling factor of ``model``.
        rule: ``all``: every convolution, linear layer and attention product. ``conv``: convolution weights
            times positions (of the input, where transposed), nothing else. ``torchinfo``: convolution
            weights and biases times output positions, the parameters of any other layer once, as torchinfo's
            ``total_mult_adds``. ``op_counter``: MREN's own, on another image: 192x192 LR pixels at any scale.
            A convolution counts input channels per group times (kernel positions, and one more for a bias)
            for each output value; a sigmoid counts 3 for each value, a mean or maximum over the image 1 for
            each input value.

    Returns:
        The count; 0 for a model without parameters, since no rule counts an interpolation.
    """
    if num_params(model) == 0:
        return 0
    model = copy.deepcopy(model).to("meta").eval()
    channels = 1 if getattr(model, "colour", "rgb") == "y" else 3
    lr = torch.empty(1, channels, _HR_HEIGHT // scale, _HR_WIDTH // scale, device="meta")
    if rule == "torchinfo":
        return _torchinfo_count(model, lr)
    if rule == "op_counter":
        return _op_counter_count(model, channels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(lr)
    flops: dict[object, int] = counter.get_flop_counts()["Global"]  # two for each multiply-add
    counted = sum(flops.values()) if rule == "all" else flops.get(torch.ops.aten.convolution, 0)
    return counted // 2


def _torchinfo_count(model: nn.Module, lr: Tensor) -> int:
    """What torchinfo counts: the parameters of a layer at each call, a convolution's at every position."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        own = sum(parameter.numel() for parameter in layer.parameters())
        is_conv = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        total += own * (output.shape[-2] * output.shape[-1] if is_conv else 1)

    for layer in model.modules():
        if next(layer.children(), None) is None:  # a leaf
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(lr)
    return total


def _op_counter_count(model: nn.Module, channels: int) -> int:
    """What an early pytorch-OpCounter counts, by the operators that run rather than by the layers."""
    aten = torch.ops.aten
    formulas = {
        aten.convolution: _op_counter_convolution,
        aten.sigmoid: _three_per_value,
        aten.silu: _three_per_value,
        aten.mean: _one_per_value,
        aten.var_mean: _one_per_value,  # the counter knows the pooling, not the deviation
        aten.amax: _one_per_value,
    }
    lr = torch.empty(1, channels, _OP_COUNTER_SIZE, _OP_COUNTER_SIZE, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model(lr)
    counts: dict[object, int] = counter.get_flop_counts()["Global"]
    return sum(counts.get(operator, 0) for operator in formulas)


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
