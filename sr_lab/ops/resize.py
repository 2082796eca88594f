"""MATLAB's bicubic ``imresize``, on which published super-resolution results are based."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Border: TypeAlias = Literal["symmetric", "replicate"]


def imresize(
    image: Tensor,
    *,
    numerator: int = 1,
    denominator: int = 1,
    border: Border = "symmetric",
    round_each_axis: bool = False,
) -> Tensor:
    """Bicubic resize by ``numerator / denominator`` as in MATLAB's ``imresize``, computed in float64.

    The kernel is Keys's cubic (IEEE TASSP 1981) with a = -0.5, widened when downscaling (antialiasing).

    Args:
        image: Floating-point images ``(N, C, H, W)`` of any range; 0..255 if ``round_each_axis``.
        numerator: Upscaling factor, at least 1.
        denominator: Downscaling factor, at least 1.
        border: How the image continues beyond its edge: mirrored with the edge pixel twice (``symmetric``,
            MATLAB), or with the edge pixel repeated (``replicate``, some older test images).
        round_each_axis: Round half up and clip to 0..255 after each axis, as MATLAB does for uint8 images.

    Returns:
        ``(N, C, H * numerator / denominator, W * numerator / denominator)`` in the dtype of ``image``.
        Without rounding, values may slightly exceed the input's range.

    Raises:
        ValueError: The image is not a floating-point ``(N, C, H, W)`` tensor or has no pixels, a factor is
            below 1, ``border`` is unknown, or the size of the result is not an integer.

    Note:
        The height is resized first, as in MATLAB; this matters only when each axis is rounded.
    """
    if image.ndim != 4 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(
            f"imresize: expects non-empty floating-point images (N, C, H, W), "
            f"got shape {tuple(image.shape)} of {image.dtype}"
        )
    if numerator < 1 or denominator < 1:
        raise ValueError(
            f"imresize: numerator and denominator must be at least 1, got {numerator} and {denominator}"
        )
    if border not in ("symmetric", "replicate"):
        raise ValueError(f"imresize: unknown border={border!r}; allowed: 'symmetric', 'replicate'")
    height, width = image.shape[-2:]
    if height * numerator % denominator or width * numerator % denominator:
        raise ValueError(
            f"imresize: an image of {width}x{height} pixels times {numerator}/{denominator} has a fractional "
            "size; crop it first (mod_crop)"
        )
    if width == 1:  # torch's antialiased interpolation of a single column gives one value for all rows
        equal = imresize(
            image.expand(-1, -1, -1, 2),
            numerator=numerator,
            denominator=denominator,
            border=border,
            round_each_axis=round_each_axis,
        )
        return equal[..., : numerator // denominator]
    # The kernel reaches 2 pixels of the coarser grid to each side. With a margin that is a multiple of the
    # denominator the two grids stay aligned, and the margin can be cut off exactly.
    reach = 2 + -(-2 * denominator // numerator)
    margin = denominator * -(-reach // denominator)
    cut = margin * numerator // denominator

    result = image.double()
    for axis in (-2, -1):
        result = result.index_select(axis, _outside(result.shape[axis], margin, border, result.device))
        size = list(result.shape[-2:])
        size[axis] = size[axis] * numerator // denominator
        result = F.interpolate(result, size=size, mode="bicubic", antialias=True, align_corners=False)
        result = result.narrow(axis, cut, result.shape[axis] - 2 * cut)
        if round_each_axis:
            result = result.add_(0.5).floor_().clamp_(0, 255)
    return result.to(image.dtype)


def downscale_uint8(hr: Tensor, *, scale: int, border: Border = "symmetric") -> Tensor:
    """Downscale 8-bit images exactly as MATLAB's ``imresize(hr, 1 / scale)`` does for uint8.

    Args:
        hr: uint8 images ``(N, C, H, W)``; H and W must be multiples of ``scale``.
        scale: Downscaling factor.
        border: See `imresize`.

    Returns:
        uint8 ``(N, C, H / scale, W / scale)``.

    Raises:
        ValueError: The images are not uint8, or `imresize` refuses them.
    """
    if hr.dtype != torch.uint8:
        raise ValueError(f"downscale_uint8: expects uint8 images, got {hr.dtype}")
    lr = imresize(hr.double(), denominator=scale, border=border, round_each_axis=True)
    return lr.to(torch.uint8)


def mod_crop(image: Tensor, scale: int) -> Tensor:
    """Crop images at the right and the bottom to multiples of ``scale``.

    Args:
        image: Images ``(..., H, W)``.
        scale: The height and width of the result are multiples of this.

    Returns:
        A view ``(..., H - H % scale, W - W % scale)``, empty if the image is smaller than ``scale``.
    """
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def _outside(length: int, margin: int, border: Border, device: torch.device) -> Tensor:
    """Indices of an axis of ``length`` pixels extended by ``margin`` at both ends."""
    index = torch.arange(-margin, length + margin, device=device)
    if border == "replicate":
        return index.clamp(0, length - 1)
    index = index % (2 * length)  # the mirrored image repeats: the margin may be wider than the image
    return torch.minimum(index, 2 * length - 1 - index)
