"""What networks do with the image itself: shift and stretch its range, enlarge it beside the features."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Mean of DIV2K's training images, in [0, 1]; the constants of EDSR, CARN and RCAN.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class ImageRange(nn.Module):
    """The range that a network works in: ``(image - mean) * gain`` on its way in, the inverse on its way out.

    The mean is a buffer outside the state dict, where authors keep frozen 1x1 convolutions.

    Args:
        mean: Value of each channel that is subtracted, in [0, 1].
        gain: Stretch; 255 gives networks of the EDSR family their 0..255.

    Shape:
        ``(N, C, H, W)`` -> the same, with as many channels as ``mean`` has values.
    """

    mean: Tensor

    def __init__(self, *, mean: Sequence[float] = DIV2K_MEAN, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.gain = gain

    def forward(self, image: Tensor) -> Tensor:
        """From [0, 1] into the network's range."""
        return (image - self.mean) * self.gain

    def restore(self, image: Tensor) -> Tensor:
        """From the network's range back to [0, 1]."""
        return image / self.gain + self.mean


def enlarged(
    image: Tensor,
    scale: int,
    *,
    mode: Literal["bicubic", "bilinear", "nearest"] = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """An image enlarged by torch, as skip connections around a network do it.

    Args:
        image: ``(N, C, H, W)`` of any range.
        scale: Factor r.
        mode: Interpolation; corners are not aligned.
        antialias: Cubic kernel with a = -0.5, MATLAB's, instead of torch's -0.75.

    Returns:
        ``(N, C, rH, rW)`` of the dtype of ``image``.
    """
    # In float32: torch has no bicubic kernel in half precision on the CPU.
    larger = F.interpolate(image.float(), scale_factor=scale, mode=mode, antialias=antialias)
    return larger.to(image.dtype)
