"""What networks do with the image itself: shift and scale its range, and upscale it for a skip connection."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.precision import at_full_precision, widened

# Mean of DIV2K's training images, in [0, 1], as used by EDSR, CARN and RCAN.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class ImageRange(nn.Module):
    """The range that a network works in: ``(image - mean) * gain`` at its input, the inverse at its output.

    The mean is a buffer outside the state dict; many authors keep it in frozen 1x1 convolutions.

    Args:
        mean: Value subtracted from each channel, in [0, 1].
        gain: Factor; 255 gives networks of the EDSR family their range of 0..255.

    Shape:
        ``(N, C, H, W)`` -> the same shape, with as many channels as ``mean`` has values.
    """

    mean: Tensor

    def __init__(self, *, mean: Sequence[float] = DIV2K_MEAN, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.gain = gain

    def forward(self, image: Tensor) -> Tensor:
        """Convert from [0, 1] to the network's range."""
        return (image - self.mean) * self.gain

    def restore(self, image: Tensor) -> Tensor:
        """Convert from the network's range back to [0, 1]."""
        return image / self.gain + self.mean


class MeanShift(nn.Conv2d):
    """Subtracts or adds DIV2K's mean, as a trainable 1x1 convolution.

    RCAN's code sets ``requires_grad`` on the module, which freezes nothing. LBNet and FDIWN copied that code,
    so their checkpoints contain trained values.

    Args:
        sign: -1 subtracts, 1 adds.

    Shape:
        ``(N, 3, H, W)`` in 0..255 -> the same shape, at full precision.
    """

    def __init__(self, *, sign: int) -> None:
        super().__init__(3, 3, 1)
        nn.init.dirac_(self.weight)
        assert self.bias is not None
        with torch.no_grad():
            self.bias.copy_(sign * 255 * torch.tensor(DIV2K_MEAN))

    def forward(self, image: Tensor) -> Tensor:
        """Shift without autocast, since half precision would round 8-bit values."""
        with at_full_precision(image):
            return super().forward(image.to(self.weight.dtype))


def without_mean_shift(state: Mapping[str, Tensor], *, gain: float) -> dict[str, Tensor]:
    """Drop the frozen 1x1 convolutions in which authors keep DIV2K's mean, since `ImageRange` subtracts it.

    Args:
        state: Weights with the authors' key names, including ``sub_mean.*`` and ``add_mean.*``.
        gain: Maximum of the authors' image range: 1 or 255.

    Returns:
        The remaining weights. A shift that is not DIV2K's is among them: dropping the shift would change the
        result, and with the shift the checkpoint is refused.
    """
    mean = torch.tensor(DIV2K_MEAN)
    fixed = {"weight": torch.eye(3).view(3, 3, 1, 1), "sub.bias": -gain * mean, "add.bias": gain * mean}
    rest = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"(sub|add)_mean\.(?:shifter\.)?(weight|bias)", name)
        expected = fixed.get(found[2], fixed.get(f"{found[1]}.{found[2]}")) if found else None
        if (
            expected is None
            or expected.shape != tensor.shape
            or not tensor.to(expected).allclose(expected, rtol=1e-3, atol=1e-3)
        ):
            rest[name] = tensor
    return rest


def check_min_size(x: Tensor, min_size: int, needed_by: str) -> None:
    """Refuse an LR image or a feature map with a side below ``min_size`` pixels.

    Args:
        x: ``(N, C, H, W)``.
        min_size: Smallest height and width.
        needed_by: The part that needs this size, for the message.

    Raises:
        ConfigError: If a side is smaller.
    """
    height, width = x.shape[-2:]
    if min(height, width) < min_size:
        raise ConfigError(
            f"{needed_by} needs an LR image of at least {min_size}x{min_size} pixels, got {width}x{height}; "
            "use a larger image or patch"
        )


def upscaled(
    image: Tensor,
    scale: int,
    *,
    mode: Literal["bicubic", "bilinear", "nearest"] = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """An image upscaled by torch, as in skip connections around a network.

    Args:
        image: ``(N, C, H, W)`` of any range.
        scale: Factor r.
        mode: Interpolation mode of torch, used with ``align_corners=False``.
        antialias: Use the cubic kernel with MATLAB's a = -0.5 instead of torch's -0.75.

    Returns:
        ``(N, C, rH, rW)`` of the dtype of ``image``.
    """
    # Interpolates in float32 at least: torch has no bicubic kernel in half precision on the CPU.
    larger = F.interpolate(widened(image), scale_factor=scale, mode=mode, antialias=antialias)
    return larger.to(image.dtype)
