"""RCAN: Image SR Using Very Deep Residual Channel Attention Networks (Zhang et al., ECCV 2018).

Authors' code: github.com/yulunzhang/RCAN (no licence stated).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from sr_lab.layers.attention import CA
from sr_lab.layers.image import MeanShift
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.residual import ResidualBlock
from sr_lab.ops.renaming import BASICSR_NAMES, CA_NAMES, EDSR_TAIL_NAMES, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


class RCAN(SRNetwork):
    """Residual channel attention network, as in its authors' code.

    Residual in residual: skips around every block, every group of blocks, and all groups.

    Cost at x4: 916.9 G multiply-adds, nearly all in the 3x3 convolutions of the blocks.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3, 4 and 8.
        num_feat: Width of the trunk (C).
        num_group: Number of residual groups (G).
        num_block: Number of RCABs in a group (B).
        reduction: Reduction of the channel attention.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, which is EDSR's.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        The range of 255 and the mean shifts, which are trained rather than frozen, follow the authors' code.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_group: int = 10,
        num_block: int = 20,
        reduction: int = 16,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.sub_mean = MeanShift(sign=-1)
        self.add_mean = MeanShift(sign=1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            ResidualGroup(num_feat, num_block=num_block, reduction=reduction) for _ in range(num_group)
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or StepwiseUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    @property
    def residual_units(self) -> list[nn.Module]:
        """The RCABs of all groups."""
        return [block for group in self.body for block in group.get_submodule("blocks").children()]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: groups in series within a global skip, then the tail."""
        shallow = self.head(self.sub_mean(lr * 255))  # F_0 (N, C, H, W)
        feat = through(self.body, shallow)
        return self.add_mean(self.tail(self.fusion(feat) + shallow)) / 255  # (N, 3, rH, rW)


class ResidualGroup(nn.Module):
    """Residual group (RG): RCABs and a convolution within a skip.

    An RCAB is EDSR's residual block with a channel attention on its residual.

    Args:
        num_feat: Input and output channels.
        num_block: Number of RCABs.
        reduction: Reduction of their channel attention.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_block: int, reduction: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResidualBlock(num_feat, attention=CA(num_feat, reduction=reduction)) for _ in range(num_block))
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks and the convolution, then add the input."""
        return x + self.conv(self.blocks(x))


def _with_mean_shift(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Add the mean shifts, since BasicSR keeps DIV2K's mean outside the weights."""
    shifts = {"sub_mean": MeanShift(sign=-1), "add_mean": MeanShift(sign=1)}
    added = {
        f"{name}.{key}": value
        for name, shift in shifts.items()
        for key, value in shift.state_dict().items()
        if "conv_first.weight" in state
    }
    return added | dict(state)  # a shift in the file takes precedence


# Weight names in BasicSR and in the authors' code, which counts the convolution after the blocks or groups as
# one more block or group.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "sub_mean": "sub_mean",
            "head.0": "head",
            "body.{n}": "fusion",
            "body.{i}.body.{m}": "body.{i}.conv",
            "body.{i}.body.{j}.body": (
                "body.{i}.blocks.{j}",
                {"0": "conv1", "2": "conv2", "3": ("attention", CA_NAMES)},
            ),
            **EDSR_TAIL_NAMES,
            "add_mean": "add_mean",
        },
        {"n": "body", "m": "body.0.blocks", "t": "tail"},
    ),
    OfficialNames(
        {
            "sub_mean": "sub_mean",
            **BASICSR_NAMES,
            "body.{i}.conv": "body.{i}.conv",
            "body.{i}.residual_group.{j}.rcab": (
                "body.{i}.blocks.{j}",
                {
                    "0": "conv1",
                    "2": "conv2",
                    "3.attention.1": "attention.excite.0",
                    "3.attention.3": "attention.excite.2",
                },
            ),
            "add_mean": "add_mean",
        },
        {"t": "tail"},
        _with_mean_shift,
    ),
)
