"""EDSR: Enhanced Deep Residual Networks for Single Image SR (Lim et al., CVPRW 2017)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.layers.image import ImageRange, without_mean_shift
from sr_lab.layers.residual import ResidualBlock
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler, steps_to


class EDSR(nn.Module):
    """Enhanced deep residual network, as its authors' code builds it (github.com/sanghyun-son/EDSR-PyTorch).

    The defaults are the baseline, which lightweight networks are compared with. The full EDSR has 256
    channels, 32 blocks and a ``res_scale`` of 0.1.

    Cost: at x4 114.2 G multiply-adds, 67.9 G of them in the blocks and 42.5 G in the tail's steps; the full
    EDSR 2.89 T.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk (F).
        num_block: Number of residual blocks (B).
        res_scale: Factor of each block's residual; below 1 it steadies the training of wide networks.
        upsampler: Factory for the tail; ``None`` builds the paper's, which enlarges in steps.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        From the authors' code: the range of 255 around DIV2K's mean, and the convolution behind the blocks.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 16,
        res_scale: float = 1.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        make_tail = StepwiseUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.image_range = ImageRange(gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(num_feat, res_scale=res_scale) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: blocks in series around a global skip, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = shallow
        for block in self.body:
            feat = block(feat)
        sr: Tensor = self.tail(self.fusion(feat) + shallow)  # (N, 3, rH, rW)
        return self.image_range.restore(sr)


# The authors' names and ours: their Sequentials number the layers, the convolution behind the blocks as well.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^head\.0\.", "head."),
    (r"^body\.\d+\.(weight|bias)$", r"fusion.\1"),
    (r"^(body\.\d+)\.body\.0\.", r"\1.conv1."),
    (r"^(body\.\d+)\.body\.2\.", r"\1.conv2."),
)

# BasicSR's names (github.com/XPixelGroup/BasicSR); its blocks are named as ours.
_BASICSR_KEYS: tuple[KeyRule, ...] = (
    (r"^conv_first\.", "head."),
    (r"^conv_after_body\.", "fusion."),
    (r"^upsample\.", "tail."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/sanghyun-son/EDSR-PyTorch, or of BasicSR's EDSR.

    Args:
        state: Tensors under the authors' or BasicSR's names, without a ``module.`` prefix.
        scale: Upscaling factor of the network, which tells where its tail ends.

    Returns:
        The same tensors under the names of ``EDSR``, without the frozen mean shifts.
    """
    last = f"tail.{2 * len(steps_to(scale))}."
    tail: tuple[KeyRule, ...] = (
        (r"^tail\.1\.", last),
        (r"^tail\.0\.(\d+\.)", r"tail.\1"),
        (r"^conv_last\.", last),
    )
    return rename(without_mean_shift(state, gain=255), (*tail, *_BASICSR_KEYS, *_OFFICIAL_KEYS))
