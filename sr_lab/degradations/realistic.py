"""Second-order degradation of Real-ESRGAN (Wang et al., ICCVW 2021, arXiv 2107.10833)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_lab.degradations.operations import (
    KERNEL,
    Draws,
    RandomDegradation,
    add_noise,
    blur,
    jpeg,
    normalised,
    radius,
    squared_distance,
    within,
)

# Shares of isotropic and anisotropic Gaussian, generalised Gaussian and plateau kernels (kernel_prob).
_KINDS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


@dataclass(frozen=True)
class _Stage:
    """Settings of one round of blur, resize and noise, from options/train_realesrgan_x4plus.yml."""

    blur_share: float
    sigma: tuple[float, float]  # sigma of the blur, in pixels
    resize: tuple[float, float, float]  # shares of upscaling, downscaling and keeping the size
    factor: tuple[float, float]
    noise: tuple[float, float]  # standard deviation on 0..255
    poisson: tuple[float, float]


_FIRST = _Stage(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0))
_SECOND = _Stage(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5))
_SINC_SHARE = 0.1  # share of sinc kernels in each of the two blurs
_FINAL_SINC_SHARE = 0.8
_POISSON_SHARE, _GREY_SHARE = 0.5, 0.4
_QUALITY = (30.0, 95.0)
_REACH = 2  # pixels that a cubic kernel needs beyond the border


class RealisticDegradation(RandomDegradation):
    """Blur, resize, noise and JPEG, twice, and a sinc filter before or after the last JPEG step.

    Kernels, shares and ranges are those of Real-ESRGAN's ``train_realesrgan_x4plus.yml``: kernels of 7 to 21
    pixels, 10 % of them sinc; factors 0.15 to 1.5 and 0.3 to 1.2; sigma of the noise 1 to 30 and 1 to 25;
    quality 30 to 95; the second blur and the final sinc filter each apply to 80 % of images.

    Args:
        scale: Downscaling factor.

    Note:
        Real-ESRGAN draws one resize factor for a whole batch, takes batches from a queue of 180 images, and
        sharpens HR images. Here each image has its own factor, drawn from its key, and HR images are not
        sharpened. The area resize takes the exact mean over a pixel's area.
    """

    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """Apply all operations.

        An image smaller than its canvas is at the top left; the rest of the canvas repeats the image's edge.
        """
        whole = image.shape[-1]
        final = whole // self.scale
        length = torch.full((len(image),), whole)
        image, length = self._stage(_FIRST, image, length, whole, draws)
        image = jpeg(image, draws.uniform(*_QUALITY).round())
        image, length = self._stage(_SECOND, image, length, final, draws)
        sinc = _sinc(draws, _size(draws), draws.chance(_FINAL_SINC_SHARE), lowest=math.pi / 3)
        quality, mode = draws.uniform(*_QUALITY).round(), _mode(draws)
        (last,) = draws.to_device(draws.chance(0.5))
        target, canvas = torch.full_like(length, final), image.shape[-1]
        jpeg_last = last[..., None] > 0
        sized = blur(resize(image, length, target, canvas, mode, draws), sinc)
        coded = jpeg(torch.where(jpeg_last, sized, image), quality)
        sized = blur(resize(coded, length, target, canvas, mode, draws), sinc)
        return torch.where(jpeg_last, coded, sized)[..., :final, :final]

    def _stage(
        self, stage: _Stage, image: Tensor, length: Tensor, base: int, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Blur, resize to about ``base``, add noise; returns the images and their new sides."""
        image = blur(image, _kernels(stage, draws))
        up, down = draws.uniform(1.0, stage.factor[1]), draws.uniform(stage.factor[0], 1.0)
        kind = draws.choice(stage.resize)
        factor = torch.where(kind == 0, up, torch.where(kind == 1, down, torch.ones(())))
        new = (factor * base).floor().long()
        canvas = int(stage.factor[1] * base)
        image = resize(image, length, new, canvas, _mode(draws), draws)
        image = add_noise(
            image,
            draws,
            sigma=stage.noise,
            poisson_share=_POISSON_SHARE,
            poisson=stage.poisson,
            grey_share=_GREY_SHARE,
        )
        return image, new

    def describe(self) -> str:
        """See `RandomDegradation`."""
        return (
            "realistic: second-order blur, resize, noise, JPEG and sinc with the ranges of Real-ESRGAN "
            "(arXiv 2107.10833), HR not sharpened; 8 bits"
        )


def _mode(draws: Draws) -> Tensor:
    """A resize mode for each image: 0 area, 1 bilinear, 2 bicubic, with equal probability."""
    return draws.choice((1 / 3, 1 / 3, 1 / 3))


def _size(draws: Draws) -> Tensor:
    """Sides of the kernels: odd numbers from 7 to 21."""
    return 7 + 2 * draws.uniform(0, (KERNEL - 7) / 2 + 1).floor()


def _kernels(stage: _Stage, draws: Draws) -> Tensor:
    """Blur kernels of a stage, ``(N, KERNEL, KERNEL)``."""
    kind, size = draws.choice(_KINDS), _size(draws)
    first, second = draws.uniform(*stage.sigma), draws.uniform(*stage.sigma)
    second = torch.where(kind % 2 == 1, second, first)  # anisotropic kinds are odd
    shape = torch.where(kind >= 4, _beta(draws, 1.0, 2.0), _beta(draws, 0.5, 4.0))
    shape = torch.where(kind < 2, torch.ones(()), shape)
    angle = draws.uniform(-math.pi, math.pi)
    sinc, keep = draws.chance(_SINC_SHARE), ~draws.chance(stage.blur_share)
    first, second, angle, shape, side, plateau, is_sinc, kept = draws.to_device(
        first, second, angle, shape, size, kind >= 4, sinc, keep
    )
    distance = squared_distance(first, second, angle).pow(shape)
    bell = torch.where(plateau > 0, 1 / (distance + 1), (-distance / 2).exp())
    kernels = normalised(bell * within(side))
    lowest = torch.where(size < 13, math.pi / 3, math.pi / 5)
    kernels = torch.where(is_sinc > 0, _sinc(draws, size, sinc, lowest=lowest), kernels)
    return torch.where(kept > 0, (radius(side) == 0).float(), kernels)


def _beta(draws: Draws, low: float, high: float) -> Tensor:
    """Exponent of a generalised or plateau kernel: below or above 1 with equal probability."""
    return torch.where(draws.chance(0.5), draws.uniform(low, 1.0), draws.uniform(1.0, high))


def _sinc(draws: Draws, size: Tensor, filtered: Tensor, *, lowest: Tensor | float) -> Tensor:
    """Circular low-pass kernels with ringing where ``filtered`` is true, identity kernels elsewhere.

    The cutoff is drawn from ``lowest`` to pi.
    """
    cutoff, side, filters = draws.to_device(lowest + (math.pi - lowest) * draws.uniform(), size, filtered)
    distance = radius(side)
    wave = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance.clamp_min(0.5))
    kernels = normalised(torch.where(distance == 0, cutoff.square() / (4 * math.pi), wave) * within(side))
    return torch.where(filters > 0, kernels, (distance == 0).float())


def resize(image: Tensor, old: Tensor, new: Tensor, canvas: int, mode: Tensor, draws: Draws) -> Tensor:
    """Resize square images of different sizes together, with two matrix products per image.

    Args:
        image: ``(N, 3, H, H)``: an image in the first ``old`` rows and columns; other pixels repeat its
            edge.
        old: Old sides, ``(N,)`` on the CPU.
        new: New sides, ``(N,)``.
        canvas: Side of the result, at least the largest of ``new``; pixels beyond repeat the edge.
        mode: 0 area, 1 bilinear, 2 bicubic (a = -0.75, not antialiased, like torch's), ``(N,)``.
        draws: Moves the sides and modes to the device.

    Returns:
        ``(N, 3, canvas, canvas)``.
    """
    before, after, kind = draws.to_device(old, new, mode)
    step = before / after  # input pixels per output pixel
    place = torch.arange(canvas, device=image.device, dtype=torch.float32).view(1, -1, 1)
    source = (torch.minimum(place, after - 1) + 0.5) * step - 0.5
    pixel = torch.arange(-_REACH, image.shape[-1] + _REACH, device=image.device, dtype=torch.float32)
    distance = (source - pixel).abs()  # (N, canvas, H + 2 _REACH)
    area = ((step + 1) / 2 - distance).clamp_min(0).minimum(step.clamp_max(1))
    weights = torch.where(
        kind == 0, area, torch.where(kind == 1, (1 - distance).clamp_min(0), _cubic(distance))
    )
    weights = (weights / weights.sum(-1, keepdim=True))[:, None]  # (N, 1, canvas, H + 2 _REACH)
    return weights @ F.pad(image, (_REACH,) * 4, mode="replicate") @ weights.transpose(-1, -2)


def _cubic(distance: Tensor) -> Tensor:
    """Keys's cubic kernel with torch's a = -0.75."""
    near = (1.25 * distance - 2.25) * distance * distance + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
