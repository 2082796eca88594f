"""What random degradations are made of: batched on the device, each image by random numbers of its own key.

Numbers that choose (a sigma, a quality) are drawn on the CPU, so that the device is never waited for; noise
is drawn on the device. Blur and JPEG are kornia's. Images are float32 ``(N, 3, H, W)`` in [0, 1].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import filter2d
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.system.devices import exact_float32

KERNEL = 21  # side of the largest blur kernel, as in IKC, DASR and Real-ESRGAN
_NUMBERS = 64  # drawn for each image; no degradation takes more


class Draws:
    """Random numbers of N images.

    Args:
        keys: Key of each image; the same key gives the same numbers in any batch.
        device: Where noise is drawn, by torch's generator there: a CPU and a GPU see other noise of the same
            strength.
    """

    def __init__(self, keys: Sequence[int], device: torch.device) -> None:
        self.device = device
        generators = [torch.Generator().manual_seed(key) for key in keys]
        self._columns = iter(torch.stack([torch.rand(_NUMBERS, generator=g) for g in generators]).unbind(1))
        if device.type != "cpu":
            generators = [torch.Generator(device).manual_seed(key) for key in keys]
        self.generators = generators

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """``(N,)`` on the CPU, in [low, high)."""
        return low + (high - low) * next(self._columns)

    def chance(self, probability: float) -> Tensor:
        """``(N,)`` bool on the CPU."""
        return next(self._columns) < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """``(N,)`` on the CPU: positions in ``weights``, whose sum is 1."""
        limits = torch.tensor(weights).cumsum(0)[:-1].contiguous()
        return torch.bucketize(next(self._columns).contiguous(), limits, right=True)

    def to_device(self, *numbers: Tensor) -> list[Tensor]:
        """Each ``(N,)`` as ``(N, 1, 1)`` float32 on the device, in one transfer that nobody waits for."""
        table = torch.stack([number.float() for number in numbers])
        if self.device.type == "cuda":
            table = table.pin_memory()
        return list(table.to(self.device, non_blocking=True)[..., None, None].unbind(0))


class RandomDegradation(nn.Module, ABC):
    """Base of degradations that differ from sample to sample and are therefore made anew in every batch.

    Args:
        scale: Factor of reduction.

    Shape:
        hr uint8 ``(N, 3, r(p + 2 margin), r(p + 2 margin))`` -> lr uint8 ``(N, 3, p, p)``, r = ``scale``: the
        LR patch of the window's middle. What lies around keeps borders of blur, resize and JPEG out of it.

    Note:
        The LR image is rounded to 8 bits once, at the end, as an image file would be.
    """

    margin = 8  # LR pixels; a blur of 21 and a cubic kernel reach 7 of them at x2, 5 at x4

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, hr: Tensor, keys: Sequence[int]) -> Tensor:
        """Make the LR patches; ``keys`` are whole numbers of 64 bits, one for each image."""
        with torch.no_grad(), exact_float32(), torch.autocast(hr.device.type, enabled=False):
            lr = self.degrade(hr.float() / 255, Draws(keys, hr.device))
            lr = lr[..., self.margin : -self.margin, self.margin : -self.margin]
            return (lr.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)

    @abstractmethod
    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """``(N, 3, rH, rW)`` in [0, 1] -> ``(N, 3, H, W)``, not clamped."""

    @abstractmethod
    def describe(self) -> str:
        """One sentence for the head of a table: what was done, in which ranges."""


def check_range(name: str, values: Sequence[float], low: float, high: float = math.inf) -> None:
    """Refuse what is not two rising numbers in [low, high].

    Raises:
        ConfigError: With the name and the values.
    """
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(
            f"degradation.{name}: must be a range [smallest, largest] from {low:g} up{upper}, "
            f"got {list(values)}"
        )


def check_share(name: str, *shares: float) -> None:
    """Refuse a share that is not in [0, 1].

    Raises:
        ConfigError: With the name and the values.
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise ConfigError(f"degradation.{name}: must be from 0 to 1, got {', '.join(map(str, shares))}")


def shrink(image: Tensor, scale: int) -> Tensor:
    """Bicubic reduction with MATLAB's antialiased kernel, in float32.

    Equal to `sr_lab.ops.resize.imresize` away from the border, of which the margin keeps clear.
    """
    size = (image.shape[-2] // scale, image.shape[-1] // scale)
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Filter each image with its own kernel ``(N, k, k)`` of sum 1; the image is mirrored at its border."""
    return filter2d(image, kernels)


def squared_distance(sigma_u: Tensor, sigma_v: Tensor, angle: Tensor) -> Tensor:
    """Squared Mahalanobis distance from the middle of a kernel, ``(N, KERNEL, KERNEL)``.

    Args:
        sigma_u: Deviation along the first axis, in pixels, ``(N, 1, 1)`` as all.
        sigma_v: Deviation along the second.
        angle: Of the first axis to the rows, in radians.
    """
    x, y = _grid(angle)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return (u / sigma_u).square() + (v / sigma_v).square()


def normalised(kernels: Tensor) -> Tensor:
    """The kernels with sum 1."""
    return kernels / kernels.sum((-2, -1), keepdim=True)


def gaussian_kernels(sigma_u: Tensor, sigma_v: Tensor, angle: Tensor) -> Tensor:
    """Gaussian kernels ``(N, KERNEL, KERNEL)``; arguments as those of `squared_distance`."""
    return normalised((-squared_distance(sigma_u, sigma_v, angle) / 2).exp())


def _grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and rows of a kernel, counted from its middle."""
    axis = torch.arange(KERNEL, device=like.device, dtype=torch.float32) - KERNEL // 2
    return axis.view(1, 1, -1), axis.view(1, -1, 1)


def radius(like: Tensor) -> Tensor:
    """Distance from the middle of a kernel in pixels, ``(1, KERNEL, KERNEL)``, on the device of ``like``."""
    x, y = _grid(like)
    return (x.square() + y.square()).sqrt()


def within(size: Tensor) -> Tensor:
    """Where a kernel of the odd side ``size`` ``(N, 1, 1)`` lies inside the largest, bool."""
    x, y = _grid(size)
    return torch.maximum(x.abs(), y.abs()) <= size / 2


def add_noise(
    image: Tensor,
    draws: Draws,
    *,
    sigma: tuple[float, float],
    poisson_share: float,
    poisson: tuple[float, float],
    grey_share: float = 0.0,
) -> Tensor:
    """Add Gaussian or Poisson noise; the result is clipped to [0, 1].

    Args:
        image: The images.
        draws: Random numbers.
        sigma: Range of the deviation of Gaussian noise, on 0..255.
        poisson_share: Share of images that get Poisson noise instead.
        poisson: Range of the strength s of Poisson noise: the deviation at the grey level g of 0..255 is
            s * sqrt(g * 255 / 256), that of BasicSR for an image with all grey levels.
        grey_share: Share of images in which all channels get the noise of the first (Poisson: of
            their mean).
    """
    takes_poisson = draws.chance(poisson_share)
    grey = draws.chance(grey_share).tolist()
    strength = torch.where(takes_poisson, draws.uniform(*poisson), draws.uniform(*sigma) / 255).tolist()
    levels = (image.clamp(0, 1) * 255).round()
    noise = torch.empty_like(image)
    for number, generator in enumerate(draws.generators):  # each its own stream: a few kernels an image
        own, rates = noise[number], levels[number]
        if takes_poisson[number]:
            rates = rates * (256 / 255)
            if grey[number]:
                rates = rates.mean(0, keepdim=True)
            own.copy_((torch.poisson(rates, generator=generator) - rates) / 256)
        elif grey[number]:
            own.copy_(torch.empty_like(own[:1]).normal_(generator=generator))
        else:
            own.normal_(generator=generator)
        own.mul_(strength[number])
    return noise.add_(image).clamp_(0, 1)


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Encode and decode as JPEG with 4:2:0 chroma.

    Args:
        image: The images; a side that is no multiple of 16 is continued by its edge.
        quality: libjpeg's quality, ``(N,)`` on the CPU: kornia looks at the numbers.

    Returns:
        Images within [0, 1].

    Note:
        kornia's codec is differentiable: it rounds coefficients softly, which leaves errors 0.3 to 0.9 dB
        smaller than libjpeg's. The two results are 40 dB and more apart, at errors of 28 to 38 dB.
    """
    decoded: Tensor = jpeg_codec_differentiable(image.clamp(0, 1), quality)
    return decoded
