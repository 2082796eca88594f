"""ShuffleMixer: An Efficient ConvNet for Image Super-Resolution (Sun et al., NeurIPS 2022).

Authors' code: github.com/sunny2109/ShuffleMixer (MIT).
"""

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.image import upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.norm import ChannelNorm
from sr_lab.ops.renaming import Names, OfficialNames
from sr_lab.types import UpsamplerFactory

_GROUPS = 8  # groups of the channel shuffle


class ShuffleMixer(SRNetwork):
    """ShuffleMixer, as in its authors' code.

    Cost at x4: 27.7 G multiply-adds, 6.3 G of them in the tail, whose second step works on upscaled features.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, a multiple of 8; 32 in the tiny network.
        num_block: Number of feature mixing blocks.
        kernel_size: Kernel size of the depthwise convolutions, odd; 3 in the tiny network.
        upsampler: Factory for the tail; ``None`` builds the paper's tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_feat`` is not a multiple of 8, or ``kernel_size`` is even.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 5,
        kernel_size: int = 7,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_feat % _GROUPS:
            raise ConfigError(
                f"ShuffleMixer: cannot shuffle num_feat={num_feat} channels in {_GROUPS} groups; "
                f"allowed: multiples of {_GROUPS}"
            )
        if kernel_size % 2 == 0:
            raise ConfigError(f"ShuffleMixer: kernel_size must be odd, got {kernel_size}")
        self.head = nn.Conv2d(3, num_feat, 3, padding=1, bias=False)
        self.body = nn.ModuleList(FMB(num_feat, kernel_size) for _ in range(num_block))
        self.tail = (upsampler or ShuffleMixerUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a chain of blocks and the tail, plus the bilinearly upscaled image."""
        feat = through(self.body, self.head(lr))  # (N, C, H, W)
        return self.tail(feat) + upscaled(lr, self.scale, mode="bilinear")  # (N, 3, rH, rW)


class FMB(nn.Module):
    """Feature mixing block: two shuffle mixer layers, then a fused MBConv, each with a residual.

    Args:
        num_feat: Input and output channels; the MBConv has 16 more inner channels.
        kernel_size: Kernel size of the depthwise convolutions.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, kernel_size: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(*(ShuffleMixerLayer(num_feat, kernel_size) for _ in range(2)))
        self.conv = nn.Sequential(
            nn.Conv2d(num_feat, num_feat + 16, 3, padding=1),
            nn.SiLU(inplace=True),
            nn.Conv2d(num_feat + 16, num_feat, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run both mixer layers, then the MBConv."""
        x = x + self.mix(x)
        return x + self.conv(x)


class ShuffleMixerLayer(nn.Module):
    """Shuffle mixer layer: mixes the channels at each position, the positions, then the channels again.

    Args:
        num_feat: Input and output channels, a multiple of 8.
        kernel_size: Kernel size of the depthwise convolution, the only part without a residual.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(num_feat, bias=False)
        self.mlp1 = SplitMLP(num_feat)
        self.depthwise = nn.Conv2d(num_feat, num_feat, kernel_size, padding=kernel_size // 2, groups=num_feat)
        self.norm2 = ChannelNorm(num_feat, bias=False)
        self.mlp2 = SplitMLP(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels, positions, then channels again."""
        x = self.depthwise(x + self.mlp1(self.norm1(x)))
        return x + self.mlp2(self.norm2(x))


class SplitMLP(nn.Module):
    """An MLP at each position on half of the channels, then a shuffle of all channels.

    Args:
        num_feat: Input and output channels, a multiple of 8; the MLP has as many inner channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        half = num_feat // 2
        self.mlp = nn.Sequential(
            nn.Conv2d(half, num_feat, 1), nn.SiLU(inplace=True), nn.Conv2d(num_feat, half, 1)
        )
        self.shuffle = nn.ChannelShuffle(_GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        """Split, mix, shuffle."""
        mixed, kept = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((self.mlp(mixed), kept), dim=1))


class ShuffleMixerUpsampler(nn.Sequential):
    """The tail of ShuffleMixer: [Conv1x1, PixelShuffle, SiLU] once, or twice at x4, then a Conv3x3.

    Args:
        num_feat: Channels of the input and after every step.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r; only x4 is split into steps of 2.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int) -> None:
        layers: list[nn.Module] = []
        for step in (2, 2) if scale == 4 else (scale,):
            layers += [
                nn.Conv2d(num_feat, num_feat * step**2, 1),
                nn.PixelShuffle(step),
                nn.SiLU(inplace=True),
            ]
        super().__init__(*layers, nn.Conv2d(num_feat, num_out_ch, 3, padding=1))


_LAYER_NAMES: Names = {
    "norm{i}.body": "norm{i}",
    "mlp{i}.fc": "mlp{i}.mlp",
    "spatial": "depthwise",
}

# Weight names in the authors' code, which misspells one of them.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "to_feat": "head",
            "blocks.{i}": ("body.{i}", {"net.{j}": ("mix.{j}", _LAYER_NAMES), "conv": "conv"}),
            "tail": "tail.{t-1}",
            "upsapling": "tail",
        },
        {"t": "tail"},
    ),
)
