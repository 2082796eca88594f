"""The reconstruction blocks of MREN as a tail."""

from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import WSILBV

_STAGES: dict[int, tuple[float, ...]] = {2: (2,), 3: (2, 1.5), 4: (2, 2), 8: (2, 2, 2), 16: (2, 2, 2, 2)}


class RBWAUpsampler(nn.Module):
    """A chain of RBWAs and a Conv3x3 to the image (MREN, Fig. 1, Eqs. 3 and 4 without the image skip).

    Each stage works at its output size, so this tail costs more than a lightweight body: with 60 features at
    x4 it takes 38.1 G multiply-adds for a 1280x720 image, while the sub-pixel tail takes 1.5 G.

    Args:
        num_feat: Input channels (C).
        num_out_ch: Channels of the image, 3 or 1.
        scale: Upscaling factor r: 2, 3, 4, 8 or 16.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If there are no stages for ``scale``.

    Note:
        Fitted to the printed counts: the first stage keeps C channels, the second halves them. Not stated in
        the paper; chosen here: later stages (x8, x16) halve them again, ``align_corners=False``, and x3
        takes a stage of x2 and then one of x1.5, as in the same authors' PMDN, whose count fits.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int) -> None:
        super().__init__()
        if scale not in _STAGES:
            raise ConfigError(
                f"upsampler=rbwa: no stages for scale={scale}; allowed: {', '.join(map(str, _STAGES))}; "
                "use another scale or another upsampler"
            )
        factors = _STAGES[scale]
        widths = [num_feat] + [max(1, num_feat >> stage) for stage in range(len(factors))]
        self.stages = nn.Sequential(
            *(
                RBWA(num_in_ch, num_stage_out, factor=factor)
                for num_in_ch, num_stage_out, factor in zip(widths, widths[1:], factors, strict=False)
            )
        )
        self.last = nn.Conv2d(widths[-1], num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages, then convolve to the image."""
        return self.last(self.stages(x))


class RBWA(nn.Module):
    """Reconstruction block with attention (MREN, Fig. 1, Sec. 3.5).

    Bilinear interpolation, Conv3x3, WSILB-V, Conv3x3.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Channels of the output and between the convolutions.
        factor: Upscaling factor; factor * H and factor * W must be integers.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, factor * H, factor * W)``.

    Note:
        Inferred: a GELU after the attention, where PMDN has its activation.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, *, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1)
        self.attention = WSILBV(num_out_ch)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(num_out_ch, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate, convolve, weight the channels, convolve."""
        x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return self.conv2(self.act(self.attention(self.conv1(x))))
