"""RLFN: Residual Local Feature Network for Efficient Super-Resolution (Kong et al., CVPRW 2022).

Authors' code: github.com/bytedance/RLFN (Apache-2.0).
"""

from torch import Tensor, nn

from sr_lab.layers.attention import ESA
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, through
from sr_lab.ops.renaming import RLFN_ESA_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class RLFN(SRNetwork):
    """Residual local feature network, as in its authors' code.

    RFDN without distillation and without fusion of the stages, for speed. The defaults are RLFN; RLFN-S
    has ``num_feat=48``; the network that won NTIRE 2022 has ``num_feat=46``, ``num_mid_feat=48`` and
    ``num_block=4``.

    Cost at x4: 29.8 G multiply-adds, 27.0 G of them in the blocks; RLFN-S takes 25.6 G.

    Args:
        scale: Upscaling factor r; the paper uses 2 and 4.
        num_feat: Width of the trunk.
        num_mid_feat: Inner width of the RLFBs; ``None`` uses ``num_feat``.
        num_block: Number of RLFBs.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15.

    Raises:
        ConfigError: In ``forward``, if lr is too small.

    Note:
        Everything follows the authors' code; the range of 0..255 is from the test script of the challenge
        network. Inferred: RLFN and RLFN-S have that range too.
    """

    min_size = ESA.min_size
    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 52,
        num_mid_feat: int | None = None,
        num_block: int = 6,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(mean=(0, 0, 0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            RLFB(num_feat, num_mid_feat=num_feat if num_mid_feat is None else num_mid_feat)
            for _ in range(num_block)
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a residual in feature space, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = through(self.body, shallow)
        return self.image_range.restore(self.tail(self.fusion(feat) + shallow))  # (N, 3, rH, rW)


class RLFB(nn.Module):
    """Residual local feature block (RLFN): three convolutions, a residual, spatial attention.

    Args:
        num_feat: Input and output channels (C).
        num_mid_feat: Channels between the convolutions.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least ``ESA.min_size``.
    """

    def __init__(self, num_feat: int, *, num_mid_feat: int) -> None:
        super().__init__()
        self.refine = nn.Sequential(
            nn.Conv2d(num_feat, num_mid_feat, 3, padding=1),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_mid_feat, num_mid_feat, 3, padding=1),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_mid_feat, num_feat, 3, padding=1),
            nn.LeakyReLU(0.05, inplace=True),
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 1)
        self.esa = ESA(num_feat, form="rlfn")

    def forward(self, x: Tensor) -> Tensor:
        """Refine, then weight the positions."""
        return self.esa(self.fusion(self.refine(x) + x))


_RLFB_NAMES: Names = {"c5": "fusion", "c{j+1}_r": "refine.{2j}", "esa": ("esa", RLFN_ESA_NAMES)}

# Weight names in the authors' code, and in the challenge's (github.com/ofsoundof/NTIRE2022_ESR, team04_rlfn).
OFFICIAL_NAMES: Names = {
    "conv_1": "head",
    "block_{i+1}": ("body.{i}", _RLFB_NAMES),
    "conv_2": "fusion",
    "upsampler": "tail",
    "fea_conv": "head",
    "B{i+1}": ("body.{i}", _RLFB_NAMES),
    "LR_conv": "fusion",
}
