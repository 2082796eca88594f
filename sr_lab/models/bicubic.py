"""Bicubic interpolation as a model: the row that every table of results starts with."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class Bicubic(nn.Module):
    """MATLAB's bicubic ``imresize`` (a = -0.5). Nothing to train.

    Args:
        scale: Upscaling factor r.
        upsampler: ``None``; there is no tail to replace.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)``, not clamped; each channel by itself.

    Raises:
        ConfigError: If ``upsampler`` is given.
    """

    colour: ClassVar[str] = "any"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

    def __init__(self, *, scale: int, upsampler: UpsamplerFactory | None = None) -> None:
        super().__init__()
        native_only("bicubic interpolation", upsampler)
        self.scale = scale

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr."""
        return imresize(lr, numerator=self.scale)
