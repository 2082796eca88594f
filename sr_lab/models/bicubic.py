"""Bicubic interpolation as a model, the first row of every results table."""

from torch import Tensor

from sr_lab.layers.network import SRNetwork
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class Bicubic(SRNetwork):
    """MATLAB's bicubic ``imresize`` (a = -0.5). It has no parameters.

    Args:
        scale: Upscaling factor r.
        upsampler: Must be ``None``: there is no tail to replace.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)``, not clamped. C may be any number.

    Raises:
        ConfigError: If ``upsampler`` is given.
    """

    colour = "any"
    multi_adds_rule = "conv"

    def __init__(self, *, scale: int, upsampler: UpsamplerFactory | None = None) -> None:
        super().__init__(scale=scale)
        native_only("bicubic interpolation", upsampler)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr."""
        return imresize(lr, numerator=self.scale)
