"""PSNR and SSIM of single images, as published super-resolution figures are measured."""

import math

import torch
from torch import Tensor

SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_C1 = 0.01**2  # (K1 * data range)^2
_C2 = 0.03**2


def quantise(image: Tensor) -> Tensor:
    """Round images to the values that an 8-bit file can hold.

    Args:
        image: Floating images of any shape; values outside [0, 1] are clipped.

    Returns:
        The same shape and dtype, values k / 255; halves are rounded up, as MATLAB does.
    """
    return (image.clamp(0, 1) * 255 + 0.5).floor() / 255


def psnr(sr: Tensor, hr: Tensor, *, crop_border: int) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for peak value 1.

    Args:
        sr: Restored images ``(N, C, H, W)`` in [0, 1].
        hr: Ground truth, same shape as ``sr``.
        crop_border: Pixels dropped at every edge; papers use the scale.

    Returns:
        ``(N,)`` in float64, the squared error pooled over channels; ``inf`` where the two images are equal.

    Raises:
        ValueError: The shapes differ or are not ``(N, C, H, W)``, the images are not floating, or the crop
            leaves no pixels.
    """
    sr, hr = _cropped("psnr", sr, hr, crop_border)
    mse = (sr - hr).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(mse)


def ssim(sr: Tensor, hr: Tensor, *, crop_border: int) -> Tensor:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004), as in the authors' ``ssim_index.m``.

    11x11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, covariances of the population;
    only windows that lie wholly inside the cropped image count.

    Args:
        sr: Restored images ``(N, C, H, W)`` in [0, 1].
        hr: Ground truth, same shape as ``sr``.
        crop_border: Pixels dropped at every edge; papers use the scale.

    Returns:
        ``(N,)`` in float64, the mean over channels, 1 where the two images are equal.

    Raises:
        ValueError: As `psnr`, or the crop leaves less than 11x11 pixels.
    """
    height, width = hr.shape[-2:]
    sr, hr = _cropped("ssim", sr, hr, crop_border)
    if min(hr.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim: crop_border={crop_border} leaves {hr.shape[-2]}x{hr.shape[-1]} pixels of a "
            f"{height}x{width} image; the window needs {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    moments = _gaussian_mean(torch.stack((sr, hr, sr * sr, hr * hr, sr * hr)))
    mean_sr, mean_hr, mean_sr2, mean_hr2, mean_product = moments.unbind()
    variances = mean_sr2 - mean_sr.square() + mean_hr2 - mean_hr.square()
    covariance = mean_product - mean_sr * mean_hr
    luminance = (2 * mean_sr * mean_hr + _C1) / (mean_sr.square() + mean_hr.square() + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _cropped(name: str, sr: Tensor, hr: Tensor, crop_border: int) -> tuple[Tensor, Tensor]:
    """Check a pair of images and drop their borders, in float64."""
    if sr.shape != hr.shape or hr.ndim != 4:
        raise ValueError(
            f"{name}: sr and hr must have one shape (N, C, H, W), got {tuple(sr.shape)} and {tuple(hr.shape)}"
        )
    if not (sr.is_floating_point() and hr.is_floating_point()):
        raise ValueError(f"{name}: expects floating images in [0, 1], got {sr.dtype} and {hr.dtype}")
    height, width = hr.shape[-2:]
    if crop_border < 0:
        raise ValueError(f"{name}: crop_border must be at least 0, got {crop_border}")
    if 2 * crop_border >= min(height, width):
        raise ValueError(f"{name}: crop_border={crop_border} leaves no pixels of a {height}x{width} image")
    window = (..., slice(crop_border, height - crop_border), slice(crop_border, width - crop_border))
    return sr[window].double(), hr[window].double()


def _gaussian_mean(images: Tensor) -> Tensor:
    """Weighted mean of every whole window: ``(..., H, W) -> (..., H - 10, W - 10)``."""
    weights = [math.exp(-((k - SSIM_WINDOW // 2) ** 2) / (2 * _SSIM_SIGMA**2)) for k in range(SSIM_WINDOW)]
    for axis in (-2, -1):
        # The window is separable; in float64 on the CPU, adding shifted images is 7 times as fast as conv2d.
        length = images.shape[axis] - SSIM_WINDOW + 1
        mean = torch.zeros_like(images.narrow(axis, 0, length))
        for k, weight in enumerate(weights):
            mean.add_(images.narrow(axis, k, length), alpha=weight / sum(weights))
        images = mean
    return images
