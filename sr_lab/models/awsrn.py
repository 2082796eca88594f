"""AWSRN: Lightweight Image SR with Adaptive Weighted Learning Network (Wang et al., arXiv:1904.02358).

Authors' code: github.com/ChaofWang/AWSRN (no licence stated).
"""

from torch import Tensor, nn

from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.weighted import LFB, AWMSUpsampler, WNSubpixelUpsampler, wn_conv
from sr_lab.ops.renaming import AWMS_NAMES, LFB_NAMES, Names
from sr_lab.types import UpsamplerFactory


class AWSRN(SRNetwork):
    """Adaptive weighted SR network, as in its authors' code.

    A chain of local fusion blocks of residual units, in which every sum has learned factors, then a tail of
    four parallel convolutions of different kernel sizes. One more convolution upscales the image, and its
    output is added.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3, 4 and 8.
        num_feat: Width of the trunk; 16 in AWSRN-SD.
        num_block: Number of LFBs: 4 in AWSRN, 3 in AWSRN-M, 1 in AWSRN-S and AWSRN-SD.
        num_unit: AWRUs in each LFB; 8 in AWSRN-SD.
        num_mid_feat: Inner channels of the AWRUs.
        upsampler: Factory for the tail; ``None`` builds the paper's AWMS with all four branches.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        Everything follows the authors' ``awsrn.py`` and ``awsrnd.py``, the code of their published weights.
        Their later ``awsrnv2.py`` is a different network: an LFB's skip starts at its last AWRU, not at its
        input.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 4,
        num_unit: int = 4,
        num_mid_feat: int = 128,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(gain=2.0)
        self.head = wn_conv(3, num_feat)
        self.body = nn.ModuleList(
            LFB(num_feat, num_mid_feat=num_mid_feat, num_unit=num_unit) for _ in range(num_block)
        )
        self.tail = (upsampler or AWMSUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.skip = WNSubpixelUpsampler(num_feat=3, num_out_ch=3, scale=scale)

    @property
    def residual_units(self) -> list[nn.Module]:
        """The AWRUs of the blocks."""
        return [unit for block in self.body for unit in block.get_submodule("units").children()]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the tail's output, plus the image upscaled by one convolution."""
        image = self.image_range(lr)
        feat = through(self.body, self.head(image))  # (N, C, H, W)
        return self.image_range.restore(self.tail(feat) + self.skip(image))  # (N, 3, rH, rW)


# Weight names in the authors' code.
OFFICIAL_NAMES: Names = {
    "head.0": "head",
    "body.{i}": ("body.{i}", LFB_NAMES),
    "tail": ("tail.0", AWMS_NAMES),
    "skip": "skip",
}
