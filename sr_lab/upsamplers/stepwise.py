"""Sub-pixel convolution in steps, the tail of EDSR and its family."""

from torch import nn

from sr_lab.errors import ConfigError


def steps_to(scale: int) -> list[int]:
    """The upscaling factor of each step: one step of 3 at x3, else steps of 2.

    Args:
        scale: Upscaling factor r: 3, or a power of 2.

    Raises:
        ConfigError: If ``scale`` is neither 3 nor a power of 2.
    """
    if scale < 2 or (scale != 3 and scale & (scale - 1)):
        raise ConfigError(f"upsampler: no steps reach scale={scale}; allowed: 3, or a power of 2")
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


class StepwiseUpsampler(nn.Sequential):
    """EDSR's tail (Lim et al., CVPRW 2017): [Conv3x3, PixelShuffle(2)] per factor of 2, then a Conv3x3.

    x3 takes one step of 3. The last convolutions work on upscaled features, which makes this tail expensive:
    at x4 it takes two fifths of EDSR-baseline's multiply-adds.

    Args:
        num_feat: Channels of the input and after every step.
        num_out_ch: Channels of the image, 3 or 1.
        scale: Upscaling factor r: 3, or a power of 2.
        groups: Groups of the convolutions before the shuffles (4 in CARN-M).
        act: Put a ReLU between each convolution and its shuffle (CARN).

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If ``scale`` is neither 3 nor a power of 2.
    """

    def __init__(
        self, *, num_feat: int, num_out_ch: int, scale: int, groups: int = 1, act: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for step in steps_to(scale):
            layers.append(nn.Conv2d(num_feat, num_feat * step**2, 3, padding=1, groups=groups))
            layers += [nn.ReLU(inplace=True)] if act else []
            layers.append(nn.PixelShuffle(step))
        super().__init__(*layers, nn.Conv2d(num_feat, num_out_ch, 3, padding=1))
