"""Luma and chroma as in MATLAB's ``rgb2ycbcr``, the basis of the metrics in papers."""

from collections.abc import Sequence

import torch
from torch import Tensor

# ITU-R BT.601 in the studio range (MATLAB's constants): rows Y, Cb, Cr; columns R, G, B in [0, 1].
_TO_YCBCR = (
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
)
_OFFSET = (16.0, 128.0, 128.0)
# The inverse of ``_TO_YCBCR / 255``, written out: torch's thread pool must not start at import, since it does
# not survive a fork.
_TO_RGB = (
    (1.1643835616438356, 3.011243973294133e-07, 1.5960268873357042),
    (1.1643835616438356, -0.3917625399414501, -0.8129682921622053),
    (1.1643835616438356, 2.0172326395564593, 3.0542617454250663e-06),
)
_FULL_RANGE = (76.245, 149.685, 29.07)  # weights of Y in 0..255, as in JPEG


def rgb_to_y(rgb: Tensor, *, full_range: bool = False) -> Tensor:
    """Luma of RGB images, ITU-R BT.601.

    Args:
        rgb: Floating-point images ``(..., 3, H, W)`` in [0, 1].
        full_range: Map black to 0 and white to 1, as in JPEG and kornia, instead of 16/255 and 235/255.
            Papers measure in the studio range; in the full range, PSNR is 20 log10(255 / 219) = 1.32 dB
            lower.

    Returns:
        ``(..., 1, H, W)`` in [16/255, 235/255], or in [0, 1] if ``full_range``; not rounded.

    Raises:
        ValueError: ``rgb`` is not floating-point or does not have three channels.
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3 or not rgb.is_floating_point():
        raise ValueError(
            f"rgb_to_y: expects floating-point images (..., 3, H, W), got shape {tuple(rgb.shape)} "
            f"of {rgb.dtype}"
        )
    red, green, blue = torch.unbind(rgb, dim=-3)
    weights, offset = (_FULL_RANGE, 0.0) if full_range else (_TO_YCBCR[0], _OFFSET[0])
    luma = (weights[0] * red).add_(weights[1] * green).add_(weights[2] * blue).add_(offset).div_(255)
    return luma.unsqueeze(-3)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Luma and chroma of RGB images as in MATLAB's ``rgb2ycbcr``, not rounded.

    Args:
        rgb: Floating-point images ``(N, 3, H, W)`` in [0, 1].

    Returns:
        ``(N, 3, H, W)``: Y in [16/255, 235/255], Cb and Cr in [16/255, 240/255].
    """
    rows = [_mix(weights, rgb).add_(offset) for weights, offset in zip(_TO_YCBCR, _OFFSET, strict=True)]
    return torch.stack(rows, dim=1).div_(255)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; colours outside the RGB gamut have values outside [0, 1]."""
    centred = torch.stack([ycbcr[:, row] - offset / 255 for row, offset in enumerate(_OFFSET)], dim=1)
    return torch.stack([_mix(weights, centred) for weights in _TO_RGB], dim=1)


def _mix(weights: Sequence[float], image: Tensor) -> Tensor:
    """The weighted sum of three channels; plain numbers, unlike a matrix, need no transfer to a GPU."""
    first, second, third = torch.unbind(image, dim=1)
    return (weights[0] * first).add_(weights[1] * second).add_(weights[2] * third)
