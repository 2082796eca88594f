"""The standard degradation of the field: MATLAB's bicubic ``imresize`` of 8-bit images."""

from torch import Tensor, nn

from sr_lab.ops.resize import Border, downscale_uint8


class BicubicDegradation(nn.Module):
    """Downscale 8-bit images as MATLAB does, rounding after each axis.

    Args:
        scale: Downscaling factor.
        border: How the image continues beyond its edge, see `sr_lab.ops.resize.imresize`.

    Shape:
        hr uint8 ``(N, 3, rH, rW)`` -> lr uint8 ``(N, 3, H, W)``, r = ``scale``.
    """

    def __init__(self, *, scale: int, border: Border = "symmetric") -> None:
        super().__init__()
        self.scale = scale
        self.border = border

    @property
    def name(self) -> str:
        """Identifies the settings other than the scale that the LR images depend on, to name their cache."""
        return f"bicubic-{self.border}"

    def forward(self, hr: Tensor) -> Tensor:
        """Make the LR images."""
        return downscale_uint8(hr, scale=self.scale, border=self.border)
