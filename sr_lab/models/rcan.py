"""RCAN: Image SR Using Very Deep Residual Channel Attention Networks (Zhang et al., ECCV 2018)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.layers.attention import CA
from sr_lab.layers.image import MeanShift
from sr_lab.layers.residual import ResidualBlock
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler, steps_to


class RCAN(nn.Module):
    """Residual channel attention network, as its authors' code builds it (github.com/yulunzhang/RCAN).

    A residual in residual: skips around every block, around every group of blocks, and around all groups.

    Cost: at x4 916.9 G multiply-adds, nearly all in the 3x3 convolutions of the blocks.

    Args:
        scale: Upscaling factor r; the paper has 2, 3, 4 and 8.
        num_feat: Width of the trunk (C).
        num_group: Number of residual groups (G).
        num_block: Number of RCABs in a group (B).
        reduction: Squeeze of the channel attention.
        upsampler: Factory for the tail; ``None`` builds the paper's, EDSR's.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        From the authors' code: the range of 255, and mean shifts that are trained, not frozen.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

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
        super().__init__()
        make_tail = StepwiseUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.sub_mean = MeanShift(sign=-1)
        self.add_mean = MeanShift(sign=1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            ResidualGroup(num_feat, num_block=num_block, reduction=reduction) for _ in range(num_group)
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    @property
    def residual_units(self) -> list[nn.Module]:
        """The RCABs of all groups."""
        return [block for group in self.body for block in group.get_submodule("blocks").children()]

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: groups in series around a global skip, then the tail."""
        shallow = self.head(self.sub_mean(lr * 255))  # F_0 (N, C, H, W)
        feat = shallow
        for group in self.body:
            feat = group(feat)
        sr: Tensor = self.tail(self.fusion(feat) + shallow)  # (N, 3, rH, rW)
        shifted: Tensor = self.add_mean(sr)
        return shifted / 255


class ResidualGroup(nn.Module):
    """Residual group (RG): RCABs and a convolution around a skip.

    An RCAB is EDSR's residual block with a channel attention on its residual.

    Args:
        num_feat: Channels in and out.
        num_block: Number of RCABs.
        reduction: Squeeze of their attention.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
    """

    def __init__(self, num_feat: int, *, num_block: int, reduction: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResidualBlock(num_feat, attention=CA(num_feat, reduction=reduction)) for _ in range(num_block))
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The blocks, the convolution, the skip."""
        residual: Tensor = self.conv(self.blocks(x))
        return x + residual


# The authors' names and ours: their Sequentials number the layers, the convolutions behind them as well.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^head\.0\.", "head."),
    (r"^body\.\d+\.(weight|bias)$", r"fusion.\1"),
    (r"^(body\.\d+)\.body\.\d+\.(weight|bias)$", r"\1.conv.\2"),
    (r"^(body\.\d+)\.body\.(\d+)\.body\.", r"\1.blocks.\2."),
    (r"(?<=blocks)(\.\d+)\.0\.", r"\1.conv1."),
    (r"(?<=blocks)(\.\d+)\.2\.", r"\1.conv2."),
    (r"(?<=blocks)(\.\d+)\.3\.conv_du\.", r"\1.attention.excite."),
)

# BasicSR's names (github.com/XPixelGroup/BasicSR), where they are not the authors'.
_BASICSR_KEYS: tuple[KeyRule, ...] = (
    (r"^conv_first\.", "head."),
    (r"^conv_after_body\.", "fusion."),
    (r"^upsample\.", "tail."),
    (r"\.residual_group\.(\d+)\.rcab\.", r".blocks.\1."),
    (r"(?<=blocks)(\.\d+)\.3\.attention\.1\.", r"\1.attention.excite.0."),
    (r"(?<=blocks)(\.\d+)\.3\.attention\.3\.", r"\1.attention.excite.2."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/yulunzhang/RCAN, or of BasicSR's RCAN.

    Args:
        state: Tensors under the authors' or BasicSR's names, without a ``module.`` prefix.
        scale: Upscaling factor of the network, which tells where its tail ends.

    Returns:
        The same tensors under the names of ``RCAN``, with DIV2K's mean where BasicSR keeps it outside.
    """
    last = f"tail.{2 * len(steps_to(scale))}."
    tail: tuple[KeyRule, ...] = (
        (r"^tail\.1\.", last),
        (r"^tail\.0\.(\d+\.)", r"tail.\1"),
        (r"^conv_last\.", last),
    )
    renamed = rename(state, (*tail, *_BASICSR_KEYS, *_OFFICIAL_KEYS))
    if "conv_first.weight" in state:  # BasicSR's
        for name, shift in (("sub_mean", MeanShift(sign=-1)), ("add_mean", MeanShift(sign=1))):
            renamed |= {f"{name}.{key}": value for key, value in shift.state_dict().items()}
    return renamed
