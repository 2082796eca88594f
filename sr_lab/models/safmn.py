"""SAFMN: Spatially-Adaptive Feature Modulation for Efficient Image SR (Sun et al., ICCV 2023).

Authors' code: github.com/sunny2109/SAFMN (no licence stated).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.image import check_min_size
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.norm import ChannelNorm
from sr_lab.ops.renaming import Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class SAFMN(SRNetwork):
    """Spatially-adaptive feature modulation network, as in its authors' code.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, a multiple of 4; 128 in the large network.
        num_block: Number of feature mixing modules; 16 in the large network.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 8.

    Raises:
        ConfigError: If ``num_feat`` is not a multiple of 4; in ``forward``, if lr is too small.
    """

    min_size = 8
    multi_adds_rule = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 36, num_block: int = 8, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(FMM(num_feat) for _ in range(num_block))
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a chain of modules within one residual, then the tail."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = through(self.body, shallow)
        return self.tail(feat + shallow)  # (N, 3, rH, rW)


class FMM(nn.Module):
    """Feature mixing module: SAFM, then a convolutional channel mixer, each with its own norm and residual.

    Args:
        num_feat: Input and output channels; the mixer has twice as many.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape; H and W must be at least 8.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(num_feat, eps=1e-6)
        self.safm = SAFM(num_feat)
        self.norm2 = ChannelNorm(num_feat, eps=1e-6)
        self.ccm = nn.Sequential(
            nn.Conv2d(num_feat, 2 * num_feat, 3, padding=1), nn.GELU(), nn.Conv2d(2 * num_feat, num_feat, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Modulate, then mix."""
        x = x + self.safm(self.norm1(x))
        return x + self.ccm(self.norm2(x))


class SAFM(nn.Module):
    """Spatially-adaptive feature modulation: each quarter of the channels is processed at a different size.

    Args:
        num_feat: Input and output channels, a multiple of 4.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape; H and W must be at least 8.

    Raises:
        ConfigError: If ``num_feat`` is not a multiple of 4; in ``forward``, if the map is too small.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        if num_feat % 4:
            raise ConfigError(
                f"SAFM: cannot share num_feat={num_feat} channels among 4 sizes; allowed: multiples of 4"
            )
        width = num_feat // 4
        self.levels = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(4))
        self.fusion = nn.Sequential(nn.Conv2d(num_feat, num_feat, 1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Weight the features according to smaller copies of them."""
        height, width = x.shape[-2:]
        check_min_size(x, 8, "SAFM: the third halving")
        parts = []
        for halvings, (part, conv) in enumerate(zip(x.chunk(4, dim=1), self.levels, strict=True)):
            if halvings == 0:
                parts.append(conv(part))
            else:
                smaller = conv(self._pool(part, halvings))
                parts.append(F.interpolate(smaller, size=(height, width), mode="nearest"))
        return self.fusion(torch.cat(parts, dim=1)) * x

    def _pool(self, x: Tensor, halvings: int) -> Tensor:
        """Maximum of each cell; torch has no deterministic CUDA kernel for the adaptive form's gradient."""
        height, width = x.shape[-2:]
        side = 1 << halvings
        if self.training and height % side == width % side == 0:
            return F.max_pool2d(x, side)
        return F.adaptive_max_pool2d(x, (height >> halvings, width >> halvings))


_FMM_NAMES: Names = {
    "norm{i}": "norm{i}",
    "safm.mfr": "safm.levels",
    "safm.aggr": "safm.fusion.0",
    "ccm.ccm": "ccm",
}

# Weight names in the authors' code.
OFFICIAL_NAMES: Names = {"to_feat": "head", "feats.{i}": ("body.{i}", _FMM_NAMES), "to_img": "tail"}
