"""Operations of random degradations, batched on the device, with random numbers from each image's key.

Parameters (a sigma, a quality) are drawn on the CPU, so that nothing waits for the device; noise is drawn on
the device. Blur and JPEG come from kornia. Images are float32 ``(N, 3, H, W)`` in [0, 1].
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
_NUMBERS = 64  # random numbers drawn for each image; no degradation needs more


class Draws:
    """Random numbers for N images.

    Args:
        keys: Key of each image; the same key gives the same numbers in any batch.
        device: The device on which noise is drawn, with torch's generator; a CPU and a GPU draw different
            noise of the same strength.
    """

    def __init__(self, keys: Sequence[int], device: torch.device) -> None:
        self.device = device
        generators = [torch.Generator().manual_seed(key) for key in keys]
        self._columns = iter(torch.stack([torch.rand(_NUMBERS, generator=g) for g in generators]).unbind(1))
        if device.type != "cpu":
            generators = [torch.Generator(device).manual_seed(key) for key in keys]
        self.generators = generators

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform random numbers in [low, high), ``(N,)`` on the CPU."""
        return low + (high - low) * next(self._columns)

    def chance(self, probability: float) -> Tensor:
        """Booleans that are true with this probability, ``(N,)`` on the CPU."""
        return next(self._columns) < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """Positions in ``weights``, drawn with these probabilities, ``(N,)`` on the CPU."""
        limits = torch.tensor(weights).cumsum(0)[:-1].contiguous()
        return torch.bucketize(next(self._columns).contiguous(), limits, right=True)

    def to_device(self, *numbers: Tensor) -> list[Tensor]:
        """Move tensors ``(N,)`` to the device as float32 ``(N, 1, 1)``, in one asynchronous transfer."""
        table = torch.stack([number.float() for number in numbers])
        if self.device.type == "cuda":
            table = table.pin_memory()
        return list(table.to(self.device, non_blocking=True)[..., None, None].unbind(0))


class RandomDegradation(nn.Module, ABC):
    """Base class of degradations that differ from sample to sample and are therefore applied in every batch.

    Args:
        scale: Downscaling factor.

    Shape:
        hr uint8 ``(N, 3, r(p + 2 margin), r(p + 2 margin))`` -> lr uint8 ``(N, 3, p, p)``, r = ``scale``: the
        LR patch at the centre of the window. The margin keeps border effects out of the patch.

    Note:
        The LR image is rounded to 8 bits once, at the end, as when an image file is written.
    """

    margin = 8  # LR pixels; a 21x21 blur and a cubic kernel reach 7 at x2, 5 at x4

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, hr: Tensor, keys: Sequence[int]) -> Tensor:
        """Make the LR patches; ``keys`` are 64-bit integers, one for each image."""
        with torch.no_grad(), exact_float32(), torch.autocast(hr.device.type, enabled=False):
            lr = self.degrade(hr.float() / 255, Draws(keys, hr.device))
            lr = lr[..., self.margin : -self.margin, self.margin : -self.margin]
            return (lr.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)

    @abstractmethod
    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """``(N, 3, rH, rW)`` in [0, 1] -> ``(N, 3, H, W)``, not clamped."""

    @abstractmethod
    def describe(self) -> str:
        """One sentence to print above a table, which states the operations and their ranges."""


def check_range(name: str, values: Sequence[float], low: float, high: float = math.inf) -> None:
    """Check that a setting consists of two numbers in [low, high], the smaller one first.

    Raises:
        ConfigError: The setting is not such a range; the error names it and its values.
    """
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(
            f"degradation.{name}: must be a range [smallest, largest] from {low:g} up{upper}, "
            f"got {list(values)}"
        )


def check_share(name: str, *shares: float) -> None:
    """Check that shares are in [0, 1].

    Raises:
        ConfigError: A share is outside [0, 1]; the error names the setting and its values.
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise ConfigError(f"degradation.{name}: must be from 0 to 1, got {', '.join(map(str, shares))}")


def shrink(image: Tensor, scale: int) -> Tensor:
    """Bicubic downscaling with MATLAB's antialiased kernel, in float32.

    Equal to `sr_lab.ops.resize.imresize` except at the border, which lies in the margin.
    """
    size = (image.shape[-2] // scale, image.shape[-1] // scale)
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Filter each image with its own kernel ``(N, k, k)`` of sum 1; images are mirrored at their border."""
    return filter2d(image, kernels)


def squared_distance(sigma_u: Tensor, sigma_v: Tensor, angle: Tensor) -> Tensor:
    """Squared Mahalanobis distance from the centre of a kernel, ``(N, KERNEL, KERNEL)``.

    Args:
        sigma_u: Deviation along the first axis, in pixels, ``(N, 1, 1)`` like the other arguments.
        sigma_v: Deviation along the second axis.
        angle: Angle between the first axis and the rows, in radians.
    """
    x, y = _grid(angle)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return (u / sigma_u).square() + (v / sigma_v).square()


def normalised(kernels: Tensor) -> Tensor:
    """The kernels, scaled to sum to 1."""
    return kernels / kernels.sum((-2, -1), keepdim=True)


def gaussian_kernels(sigma_u: Tensor, sigma_v: Tensor, angle: Tensor) -> Tensor:
    """Gaussian kernels ``(N, KERNEL, KERNEL)``; for the arguments see `squared_distance`."""
    return normalised((-squared_distance(sigma_u, sigma_v, angle) / 2).exp())


def _grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and rows of a kernel, counted from its centre."""
    axis = torch.arange(KERNEL, device=like.device, dtype=torch.float32) - KERNEL // 2
    return axis.view(1, 1, -1), axis.view(1, -1, 1)


def radius(like: Tensor) -> Tensor:
    """Distance from the centre of a kernel in pixels, ``(1, KERNEL, KERNEL)``, on the device of ``like``."""
    x, y = _grid(like)
    return (x.square() + y.square()).sqrt()


def within(size: Tensor) -> Tensor:
    """Mask of the largest kernel's central ``size`` x ``size`` part; ``size`` is odd, ``(N, 1, 1)``."""
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
        sigma: Range of the standard deviation of Gaussian noise, on 0..255.
        poisson_share: Share of images that get Poisson noise instead.
        poisson: Range of the strength s of Poisson noise: the deviation at the grey level g of 0..255 is
            s * sqrt(g * 255 / 256), as in BasicSR for an image with all grey levels.
        grey_share: Share of images with the same noise in all channels: the noise of the first channel or,
            for Poisson noise, the noise of the channels' mean.
    """
    takes_poisson = draws.chance(poisson_share)
    grey = draws.chance(grey_share).tolist()
    strength = torch.where(takes_poisson, draws.uniform(*poisson), draws.uniform(*sigma) / 255).tolist()
    levels = (image.clamp(0, 1) * 255).round()
    noise = torch.empty_like(image)
    for number, generator in enumerate(draws.generators):  # each image has its own random stream
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
        image: The images; sides that are not multiples of 16 are padded by repeating the edge.
        quality: libjpeg's quality, ``(N,)`` on the CPU, where kornia checks it.

    Returns:
        Images in [0, 1].

    Note:
        kornia's codec is differentiable: it rounds coefficients softly, so its PSNR is 0.3 to 0.9 dB
        higher than libjpeg's. The two decoded images agree to 40 dB or more, while either has only 28
        to 38 dB against the uncompressed image.
    """
    decoded: Tensor = jpeg_codec_differentiable(image.clamp(0, 1), quality)
    return decoded
