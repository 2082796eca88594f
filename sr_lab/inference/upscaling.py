"""Upscaling a batch of grey or colour images with a network for luma or colour."""

from typing import cast

import torch
from torch import Tensor, nn

from sr_lab.layers.network import colour_of
from sr_lab.ops.colour import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.resize import imresize
from sr_lab.system.devices import exact_float32


@torch.no_grad()
def upscale_batch(network: nn.Module, image: Tensor) -> Tensor:
    """Upscale images in evaluation mode, on the device and in the precision of the network.

    A network for luma upscales luma and leaves chroma to MATLAB's bicubic ``imresize``, as its paper does. A
    grey image goes through a colour network as three equal channels, and the luma of the result is returned.

    Args:
        network: ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``, with its ``colour`` and ``scale``.
        image: ``(N, 3, H, W)``, or ``(N, 1, H, W)`` for grey, in [0, 1].

    Returns:
        ``(N, 3 or 1, rH, rW)`` in float32, clipped to [0, 1], on the device of ``image``.
    """
    weight = next(network.parameters(), image)
    lr = image.to(weight.device, weight.dtype if weight.is_floating_point() else torch.float32)
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with exact_float32(), torch.autocast(lr.device.type, enabled=False):
            sr = _upscale(network, lr)
    finally:
        for module, was in training.items():
            module.training = was
    return sr.float().clamp(0, 1).to(image.device)


def _upscale(network: nn.Module, lr: Tensor) -> Tensor:
    colour, is_grey = colour_of(network), lr.shape[1] == 1
    if colour == "any":
        return cast(Tensor, network(lr))
    if colour == "rgb":
        sr: Tensor = network(lr.expand(-1, 3, -1, -1))
        return rgb_to_y(sr, full_range=True) if is_grey else sr
    if is_grey:  # networks for luma are trained on the studio range, 16..235
        luma: Tensor = network((16 + 219 * lr) / 255)
        return (luma * 255 - 16) / 219
    ycbcr = rgb_to_ycbcr(lr)
    luma = network(ycbcr[:, :1])
    chroma = imresize(ycbcr[:, 1:], numerator=cast(int, network.scale))
    return ycbcr_to_rgb(torch.cat((luma, chroma), dim=1))
