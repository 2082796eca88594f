"""A2F: Lightweight SISR Network with Attentive Auxiliary Feature Learning (Wang et al., ACCV 2020).

Authors' code: github.com/wxxxxxxh/A2F-SR (no licence stated).
"""

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import CA
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork
from sr_lab.layers.weighted import LearnedScale, WNSubpixelUpsampler, wn_conv
from sr_lab.ops.renaming import CA_NAMES, Names
from sr_lab.types import UpsamplerFactory


class A2F(SRNetwork):
    """Attentive auxiliary feature network, as in its authors' code.

    Every block also gets the features of all earlier blocks, through a 1x1 convolution and a channel
    attention. The image itself reaches the output through one convolution.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk; 16 in A2F-SD.
        num_block: Number of blocks: 12 in A2F-M, 4 in A2F-S, 8 in A2F-SD, 16 in A2F-L.
        num_mid_feat: Inner channels of the blocks' residuals.
        upsampler: Factory for the tail; ``None`` builds the paper's weight-normalised sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        Everything follows the authors' code and settings; their checkpoints load.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 12,
        num_mid_feat: int = 128,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(gain=2.0)
        self.head = wn_conv(3, num_feat)
        self.body = nn.ModuleList(
            AAFBlock(num_feat, num_mid_feat=num_mid_feat, num_state=k + 1) for k in range(num_block)
        )
        self.tail = (upsampler or WNSubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.skip = WNSubpixelUpsampler(num_feat=3, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the tail's output, plus the image upscaled by one convolution."""
        image = self.image_range(lr)
        states = [self.head(image)]  # (N, C, H, W)
        for block in self.body:
            states.append(block(states[-1], torch.cat(states, dim=1)))
        return self.image_range.restore(self.tail(states[-1]) + self.skip(image))  # (N, 3, rH, rW)


class AAFBlock(nn.Module):
    """Attentive auxiliary feature block (A2F): a weighted sum of identity, residual and auxiliary features.

    Args:
        num_feat: Input and output channels (C).
        num_mid_feat: Channels between the two convolutions of the residual.
        num_state: Number of feature maps that the block receives (S), including its own input.

    Shape:
        x ``(N, C, H, W)`` and states ``(N, S * C, H, W)`` -> ``(N, C, H, W)``.
    """

    def __init__(self, num_feat: int, *, num_mid_feat: int, num_state: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            wn_conv(num_feat, num_mid_feat), nn.ReLU(inplace=True), wn_conv(num_mid_feat, num_feat)
        )
        self.fusion = nn.Conv2d(num_state * num_feat, num_feat, 1, bias=False)
        self.attention = CA(num_feat, reduction=1)
        self.x_scale = LearnedScale()
        self.res_scale = LearnedScale()
        self.aux_scale = LearnedScale()

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """The weighted sum of identity, residual and auxiliary features."""
        auxiliary = self.attention(self.fusion(states))
        return self.x_scale(x) + self.res_scale(self.residual(x)) + self.aux_scale(auxiliary)


# Weight names in the authors' code, which misspells one of them.
OFFICIAL_NAMES: Names = {
    "head.0": "head",
    "body.{i}.body": "body.{i}.residual",
    "x_scale_list.{i}": "body.{i}.x_scale",
    "res_scale_list.{i}": "body.{i}.res_scale",
    "auxilary_scale_list.{i}": "body.{i}.aux_scale",
    "fusion_conv_list.{i}.0": "body.{i}.fusion",
    "fusion_conv_list.{i}.1": ("body.{i}.attention", CA_NAMES),
    "tail": "tail",
    "skip": "skip",
}
