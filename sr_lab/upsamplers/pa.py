"""Nearest-neighbour upscaling with pixel attention, the tail of PAN."""

from torch import Tensor, nn

from sr_lab.layers.attention import PA
from sr_lab.upsamplers.stepwise import steps_to


class PAUpsampler(nn.Module):
    """Tail of PAN and A2N, in stages, with a Conv3x3 to the image at the end.

    A stage consists of nearest-neighbour upscaling, Conv3x3, pixel attention and Conv3x3.

    At x3 a single stage upscales by 3; at any other scale each stage upscales by 2. Most of the cost is at
    output size.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r: 3, or a power of 2.
        num_up_feat: Inner channels.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If ``scale`` is neither 3 nor a power of 2.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int, num_up_feat: int = 24) -> None:
        super().__init__()
        factors = steps_to(scale)
        widths = [num_feat] + [num_up_feat] * len(factors)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Upsample(scale_factor=factor, mode="nearest"),
                    nn.Conv2d(num_in_ch, num_up_feat, 3, padding=1),
                    PA(num_up_feat),
                    nn.LeakyReLU(0.2, inplace=True),
                    nn.Conv2d(num_up_feat, num_up_feat, 3, padding=1),
                    nn.LeakyReLU(0.2, inplace=True),
                )
                for num_in_ch, factor in zip(widths, factors, strict=False)
            )
        )
        self.last = nn.Conv2d(num_up_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages, then convolve to the image."""
        return self.last(self.stages(x))
