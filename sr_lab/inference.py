"""Enlarging an image with a network, whatever channels the two have."""

from typing import cast

import torch
from torch import Tensor, nn

from sr_lab.devices import exact_float32
from sr_lab.ops.color import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.resize import imresize


@torch.no_grad()
def enlarge(network: nn.Module, image: Tensor) -> Tensor:
    """Enlarge images in evaluation mode, on the device and in the precision of the network.

    A network for luma restores luma and leaves chroma to MATLAB's bicubic ``imresize``, as its papers do. A
    grey image goes through a colour network with three equal channels, and its luma comes back.

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
            sr = _enlarge(network, lr)
    finally:
        for module, was in training.items():
            module.training = was
    return sr.float().clamp(0, 1).to(image.device)


def _enlarge(network: nn.Module, lr: Tensor) -> Tensor:
    colour, is_grey = getattr(network, "colour", "rgb"), lr.shape[1] == 1
    if colour == "any":
        return cast(Tensor, network(lr))
    if colour == "rgb":
        sr: Tensor = network(lr.expand(-1, 3, -1, -1))
        return rgb_to_y(sr, full_range=True) if is_grey else sr
    if is_grey:  # networks learn luma of the studio range
        luma: Tensor = network((16 + 219 * lr) / 255)
        return (luma * 255 - 16) / 219
    ycbcr = rgb_to_ycbcr(lr)
    luma = network(ycbcr[:, :1])
    chroma = imresize(ycbcr[:, 1:], numerator=cast(int, network.scale))
    return ycbcr_to_rgb(torch.cat((luma, chroma), dim=1))
