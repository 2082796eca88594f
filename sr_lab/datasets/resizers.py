"""How an LR image was made: with one of MATLAB's three forms of bicubic, or by another library."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sr_lab.datasets.images import read_image
from sr_lab.ops.resize import downscale_uint8, imresize, mod_crop

MATLAB = "MATLAB's bicubic"
UNKNOWN = "an unknown resize"
_NEAR = 25.0  # dB; the PSNR is above this with JPEG or other rounding, and below with another resize
_AHEAD = 3.0  # dB by which another resize must fit better than MATLAB's to be reported


class Origin(NamedTuple):
    """How an LR image was made.

    Args:
        name: The resize whose result is closest.
        exact: Whether it gives exactly these pixels.
        psnr: PSNR against MATLAB's bicubic, in dB over all channels; ``inf`` if equal.
    """

    name: str
    exact: bool
    psnr: float


def origin(hr_file: Path, lr_file: Path, scale: int) -> Origin:
    """Compare an LR image with the results of all common resizes.

    Args:
        hr_file: The HR image; it is cropped to multiples of the scale at the right and the bottom.
        lr_file: The LR image; its size must be that of the cropped HR image divided by the scale.
        scale: Downscaling factor.
    """
    hr = mod_crop(torch.from_numpy(read_image(hr_file)).permute(2, 0, 1)[None], scale)
    lr = torch.from_numpy(read_image(lr_file)).permute(2, 0, 1)[None]
    matlab = _psnr(lr, downscale_uint8(hr, scale=scale))
    if math.isinf(matlab):
        return Origin(MATLAB, True, matlab)
    others = {name: _psnr(lr, make(hr, scale)) for name, make in _OTHERS.items()}
    name = max(others, key=others.__getitem__)
    if others[name] > max(_NEAR, matlab + _AHEAD):
        return Origin(name, math.isinf(others[name]), matlab)
    return Origin(MATLAB if matlab > _NEAR else UNKNOWN, False, matlab)


def _pillow(resample: Image.Resampling) -> Callable[[Tensor, int], Tensor]:
    def make(hr: Tensor, scale: int) -> Tensor:
        pixels: NDArray[np.uint8] = hr[0].permute(1, 2, 0).numpy()
        size = (hr.shape[-1] // scale, hr.shape[-2] // scale)
        small = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, resample)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]

    return make


def _torch(mode: str, *, antialias: bool = False) -> Callable[[Tensor, int], Tensor]:
    """A torch resize; without antialiasing it equals OpenCV's, up to OpenCV's fixed-point arithmetic."""

    def make(hr: Tensor, scale: int) -> Tensor:
        size = (hr.shape[-2] // scale, hr.shape[-1] // scale)
        small = F.interpolate(hr.float(), size=size, mode=mode, align_corners=False, antialias=antialias)
        return small.round().clamp(0, 255).to(torch.uint8)

    return make


def _double(hr: Tensor, scale: int) -> Tensor:
    return (imresize(hr.double(), denominator=scale) + 0.5).floor().clamp(0, 255).to(torch.uint8)


_OTHERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "MATLAB's bicubic of an older version (differs in the outer 2 pixels)": lambda hr, scale: downscale_uint8(
        hr, scale=scale, border="replicate"
    ),
    "MATLAB's bicubic of double images (one rounding at the end, as in BasicSR)": _double,
    "Pillow's bicubic": _pillow(Image.Resampling.BICUBIC),
    "Pillow's Lanczos": _pillow(Image.Resampling.LANCZOS),
    "Pillow's bilinear": _pillow(Image.Resampling.BILINEAR),
    "box (Pillow, OpenCV's area)": _pillow(Image.Resampling.BOX),
    "Pillow's nearest neighbour (at x3 any resize without antialiasing)": _pillow(Image.Resampling.NEAREST),
    "nearest neighbour (OpenCV, torch)": lambda hr, scale: hr[..., ::scale, ::scale],
    "torch's bicubic with antialiasing": _torch("bicubic", antialias=True),
    "bicubic without antialiasing (OpenCV, torch)": _torch("bicubic"),
    "bilinear without antialiasing (OpenCV, torch)": _torch("bilinear"),
}


def _psnr(image: Tensor, other: Tensor) -> float:
    error = (image.double() - other.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
