"""SPAN: Swift Parameter-free Attention Network for Efficient SR (Wan et al., CVPRW 2024).

Authors' code: github.com/hongyuanyu/SPAN (Apache-2.0).
"""

import torch
from torch import Tensor, nn

from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork
from sr_lab.layers.reparam import Kernel, RepConv
from sr_lab.ops.renaming import Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class SPAN(SRNetwork):
    """Swift parameter-free attention network, as in its authors' code.

    Args:
        scale: Upscaling factor r.
        num_feat: Width of the trunk; 52 in the larger network.
        num_block: Number of SPABs.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        As in the authors' code, the first layer gets (lr - mean) * 255, and the last layer gives an image in
        [0, 1]. The fusion gets the last block's inner features after their activation, since the authors'
        activation works in place and overwrites the features.
    """

    multi_adds_rule = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 48, num_block: int = 6, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(gain=255)
        self.head = Conv3XC(3, num_feat)
        self.body = nn.ModuleList(SPAB(num_feat) for _ in range(num_block))
        self.last = Conv3XC(num_feat, num_feat)
        self.fusion = nn.Conv2d(4 * num_feat, num_feat, 1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the features of the head, the first and the last block, then apply the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = shallow
        outputs: list[Tensor] = []
        for block in self.body:
            feat, middle = block(feat)
            outputs.append(feat)
        stages = (shallow, self.last(feat), outputs[0], middle)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, 4C, H, W) -> (N, C, H, W)
        return self.tail(fused)  # (N, 3, rH, rW)


class SPAB(nn.Module):
    """Swift parameter-free attention block: three convolutions, whose output also gives the attention.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> output and features after the first activation, both of the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = Conv3XC(num_feat, num_feat)
        self.conv2 = Conv3XC(num_feat, num_feat)
        self.conv3 = Conv3XC(num_feat, num_feat)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the input and the residual, weighted by an odd function of the residual."""
        middle = self.act(self.conv1(x))
        refined = self.conv3(self.act(self.conv2(middle)))
        return (refined + x) * (torch.sigmoid(refined) - 0.5), middle


class Conv3XC(RepConv):
    """A 3x3 convolution, trained as a 3x3 of twice the width between two 1x1 convolutions plus a 1x1 skip.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(num_in_ch, num_out_ch, 1)
        self.expand = nn.Conv2d(num_in_ch, 2 * num_in_ch, 1, padding=1)
        self.conv = nn.Conv2d(2 * num_in_ch, 2 * num_out_ch, 3)
        self.reduce = nn.Conv2d(2 * num_out_ch, num_out_ch, 1)

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the chain and the skip."""
        return self.reduce(self.conv(self.expand(x))) + self.skip(x)

    def merged(self) -> Kernel:
        """The convolution equivalent to the chain plus the skip."""
        chain = Kernel.of(self.conv).after(Kernel.of(self.expand)).before(Kernel.of(self.reduce))
        return chain + Kernel.of(self.skip)


_TRAINED_NAMES: Names = {
    "sk": "skip",
    "conv.0": "expand",
    "conv.1": "conv",
    "conv.2": "reduce",
    "eval_conv": None,  # the authors' code computes it again at every inference
}
_FOLDED_NAMES: Names = {"eval_conv": "folded"}

# Weight names in the authors' code: in the trained network, and in a file with only the merged convolutions.
OFFICIAL_NAMES = tuple(
    OfficialNames(
        {
            "conv_1": ("head", conv),
            "block_{i+1}.c{j}_r": ("body.{i}.conv{j}", conv),
            "conv_2": ("last", conv),
            "conv_cat": "fusion",
            "upsampler": "tail",
        }
    )
    for conv in (_TRAINED_NAMES, _FOLDED_NAMES)
)
