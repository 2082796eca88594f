"""EDSR: Enhanced Deep Residual Networks for Single Image SR (Lim et al., CVPRW 2017).

Authors' code: github.com/sanghyun-son/EDSR-PyTorch (MIT).
"""

from functools import partial

from torch import Tensor, nn

from sr_lab.layers.image import ImageRange, without_mean_shift
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.residual import ResidualBlock
from sr_lab.ops.renaming import BASICSR_NAMES, EDSR_TAIL_NAMES, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


class EDSR(SRNetwork):
    """Enhanced deep residual network, as in its authors' code.

    The defaults are EDSR-baseline, with which lightweight networks are compared. The full EDSR has 256
    channels, 32 blocks and a ``res_scale`` of 0.1.

    Cost at x4: 114.2 G multiply-adds, 67.9 G of them in the blocks and 42.5 G in the tail's steps; the full
    EDSR takes 2.89 T.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (F).
        num_block: Number of residual blocks (B).
        res_scale: Factor of each block's residual; a factor below 1 stabilises the training of wide networks.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, which upscales in steps.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        The range of 255 around DIV2K's mean and the convolution after the blocks follow the authors' code.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 16,
        res_scale: float = 1.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(num_feat, res_scale=res_scale) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or StepwiseUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: blocks in series within a global skip, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = through(self.body, shallow)
        return self.image_range.restore(self.tail(self.fusion(feat) + shallow))  # (N, 3, rH, rW)


# Weight names in BasicSR and in the authors' code, which counts the convolution after the blocks as a block.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "head.0": "head",
            "body.{n}": "fusion",
            "body.{i}": ("body.{i}", {"body.0": "conv1", "body.2": "conv2"}),
            **EDSR_TAIL_NAMES,
        },
        {"n": "body", "t": "tail"},
        partial(without_mean_shift, gain=255),
    ),
    OfficialNames({**BASICSR_NAMES, "body": "body"}, {"t": "tail"}),
)
