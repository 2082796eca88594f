"""PSNR and SSIM of single images, measured as in super-resolution papers."""

import math

import torch
from torch import Tensor

SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_C1 = 0.01**2  # (K1 * data range)^2
_C2 = 0.03**2
# Pixels to process at once: their four moments (2 MB) stay in a core's cache during the window's 22 passes.
_CACHED = 2**16


def quantise(image: Tensor) -> Tensor:
    """Round images to the values that an 8-bit file can hold.

    Args:
        image: Floating-point images of any shape; values outside [0, 1] are clipped.

    Returns:
        Images of the same shape and dtype, with values k / 255; halves are rounded up, as in MATLAB.
    """
    return image.clamp(0, 1).mul_(255).add_(0.5).floor_().div_(255)


def psnr(sr: Tensor, hr: Tensor, *, crop_border: int) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for a peak value of 1.

    Args:
        sr: Results ``(N, C, H, W)`` in [0, 1].
        hr: Ground truth, same shape as ``sr``.
        crop_border: Pixels dropped at every edge; papers use the scale.

    Returns:
        ``(N,)`` in float64, with the squared error pooled over channels; ``inf`` where the images are equal.

    Raises:
        ValueError: The shapes differ or are not ``(N, C, H, W)``, the images are not floating-point, or the
            crop leaves no pixels.
    """
    sr, hr = _cropped("psnr", sr, hr, crop_border)
    mse = (sr - hr).square_().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(mse)


def ssim(sr: Tensor, hr: Tensor, *, crop_border: int) -> Tensor:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004), as in the authors' ``ssim_index.m``.

    11x11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, population covariances; only
    windows that lie fully inside the cropped image count.

    Args:
        sr: Results ``(N, C, H, W)`` in [0, 1].
        hr: Ground truth, same shape as ``sr``.
        crop_border: Pixels dropped at every edge; papers use the scale.

    Returns:
        ``(N,)`` in float64, the mean over channels; 1 where the two images are equal.

    Raises:
        ValueError: As in `psnr`, or if the crop leaves fewer than 11x11 pixels.
    """
    height, width = hr.shape[-2:]
    sr, hr = _cropped("ssim", sr, hr, crop_border)
    if min(hr.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim: crop_border={crop_border} leaves {hr.shape[-1]}x{hr.shape[-2]} pixels of a "
            f"{width}x{height} image; the window needs {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    rows = hr.shape[-2] - SSIM_WINDOW + 1  # number of rows of windows
    at_once = max(SSIM_WINDOW, _CACHED * hr.shape[-2] // hr.numel()) if hr.device.type == "cpu" else rows
    total = hr.new_zeros(len(hr))
    for top in range(0, rows, at_once):
        strip = slice(top, top + at_once + SSIM_WINDOW - 1)
        total += _ssim_map(sr[..., strip, :], hr[..., strip, :]).sum(dim=(1, 2, 3))
    return total / (hr.shape[1] * rows * (hr.shape[-1] - SSIM_WINDOW + 1))


def _ssim_map(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM of every whole window: ``(N, C, H, W) -> (N, C, H - 10, W - 10)``.

    With s = sr + hr and d = sr - hr, 4 sr hr = s^2 - d^2 and 2 (sr^2 + hr^2) = s^2 + d^2. Using s and d takes
    the means of four images instead of five, and loses no digits where sr and hr are alike.
    """
    moments = hr.new_empty(4, *hr.shape)
    torch.add(sr, hr, out=moments[0])
    torch.sub(sr, hr, out=moments[1])
    torch.mul(moments[:2], moments[:2], out=moments[2:])
    moments = _gaussian_mean(moments)
    variances = moments[2:].addcmul_(moments[:2], moments[:2], value=-1)
    (mean_sum, mean_difference), (var_sum, var_difference) = moments[:2].square_(), variances
    luminance: Tensor = (
        (mean_sum - mean_difference).add_(2 * _C1).div_(mean_sum.add_(mean_difference).add_(2 * _C1))
    )
    structure: Tensor = (
        (var_sum - var_difference).add_(2 * _C2).div_(var_sum.add_(var_difference).add_(2 * _C2))
    )
    return luminance.mul_(structure)


def _cropped(name: str, sr: Tensor, hr: Tensor, crop_border: int) -> tuple[Tensor, Tensor]:
    """Check a pair of images and drop their borders; float64, without gradient."""
    if sr.shape != hr.shape or hr.ndim != 4:
        raise ValueError(
            f"{name}: sr and hr must have the same shape (N, C, H, W), "
            f"got {tuple(sr.shape)} and {tuple(hr.shape)}"
        )
    if not (sr.is_floating_point() and hr.is_floating_point()):
        raise ValueError(f"{name}: expects floating-point images in [0, 1], got {sr.dtype} and {hr.dtype}")
    height, width = hr.shape[-2:]
    if crop_border < 0:
        raise ValueError(f"{name}: crop_border must be at least 0, got {crop_border}")
    if 2 * crop_border >= min(height, width):
        raise ValueError(f"{name}: crop_border={crop_border} leaves no pixels of a {width}x{height} image")
    window = (..., slice(crop_border, height - crop_border), slice(crop_border, width - crop_border))
    return sr[window].detach().double(), hr[window].detach().double()


def _gaussian_mean(images: Tensor) -> Tensor:
    """Weighted mean of every whole window: ``(..., H, W) -> (..., H - 10, W - 10)``."""
    weights = [math.exp(-((k - SSIM_WINDOW // 2) ** 2) / (2 * _SSIM_SIGMA**2)) for k in range(SSIM_WINDOW)]
    for axis in (-2, -1):
        # The window is separable; in float64 on the CPU, adding shifted images is 7 times as fast as conv2d.
        length = images.shape[axis] - SSIM_WINDOW + 1
        mean = images.narrow(axis, 0, length) * (weights[0] / sum(weights))
        for k, weight in enumerate(weights[1:], start=1):
            mean.add_(images.narrow(axis, k, length), alpha=weight / sum(weights))
        images = mean
    return images
