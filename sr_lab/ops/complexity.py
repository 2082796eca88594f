"""How large a network is and what one 1280x720 image costs it, by three ways of counting."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Rule = Literal["all", "torchinfo", "conv"]

_HR_WIDTH, _HR_HEIGHT = 1280, 720


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
            ``total_mult_adds``.

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
