"""LBNet: Lightweight Bimodal Network via Symmetric CNN and Recursive Transformer (Gao et al., IJCAI 2022).

Authors' code: github.com/IVIPLab/LBNet (no licence stated).
"""

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import CA, SA
from sr_lab.layers.image import MeanShift
from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.layers.precision import at_full_precision
from sr_lab.layers.transformer import ET
from sr_lab.ops.renaming import CA_NAMES, ET_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class LBNet(SRNetwork):
    """Lightweight bimodal network, as in its authors' code.

    The same fusion modules run twice, the second time with the weighted features of the first run added; two
    recursive transformers follow.

    Cost at x4: 462 G multiply-adds, 38.9 G of them in the convolutions (the value that the paper prints) and
    the rest in the transformers, whose attention products grow with the square of the image area.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (C), even; 18 in LBNet-T.
        num_block: Number of LFFMs, each used twice.
        num_transformer: Number of recursive transformers.
        num_head: Number of attention heads; 6 in LBNet-T.
        num_segment: Number of segments of the image, in raster order; attention stays within a segment.
        attention_reduction: Squeeze factor of the tokens before the attention; LBNet-T does not squeeze them.
        num_repeat: How many times a transformer's tokens pass through the same weights.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If no channel is left for the channel attentions or the heads.

    Note:
        Everything follows the authors' code; their checkpoints load. In that code, the mean shifts were meant
        to be frozen but are trained (24 parameters, which the printed counts include). The length of a
        segment is rounded down, so results depend on the size of the image. After the transformers, autocast
        is off, and sr has the dtype of the weights, since the features there may exceed the range of float16.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 3,
        num_transformer: int = 2,
        num_head: int = 8,
        num_segment: int = 16,
        attention_reduction: int = 2,
        num_repeat: int = 3,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(LFFM(num_feat) for _ in range(num_block))
        self.attentions = nn.ModuleList(CA(num_feat) for _ in range(num_block))
        self.fusion = nn.Conv2d(2 * num_block * num_feat, num_feat, 1)
        self.transformers = nn.ModuleList(
            ET(
                num_feat,
                num_head=num_head,
                num_segment=num_segment,
                reduction=attention_reduction,
                mlp_ratio=0.25,
                form="esrt",
                num_repeat=num_repeat,
            )
            for _ in range(num_transformer)
        )
        self.transformer_convs = nn.ModuleList(
            nn.Conv2d(num_feat, num_feat, 3, padding=1) for _ in range(num_transformer)
        )
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.add_mean = MeanShift(sign=1)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the symmetric CNN, the recursive transformers, the tail."""
        shallow = self.head(self.sub_mean(lr * 255))  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        for block, attention, first in zip(self.body, self.attentions, tuple(stages), strict=True):
            stages.append(block(stages[-1] + attention(first)))
        feat = self.fusion(torch.cat(stages, dim=1))  # (N, 2 * num_block * C, H, W) -> (N, C, H, W)
        for transformer, conv in zip(self.transformers, self.transformer_convs, strict=True):
            feat = transformer(feat)
            with at_full_precision(lr):
                feat = conv(feat)
        with at_full_precision(lr):
            sr = self.tail((feat + shallow).to(self.head.weight.dtype))  # (N, 3, rH, rW)
            return self.add_mean(sr) / 255


class LFFM(nn.Module):
    """Local feature fusion module: three FRDABs, densely connected by 1x1 convolutions, within one residual.

    Args:
        num_feat: Input and output channels (C), even.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FRDAB(num_feat) for _ in range(3))
        self.fusions = nn.ModuleList(
            nn.Conv2d(num_map * num_feat, num_feat, 1, groups=groups)
            for num_map, groups in ((2, 2), (3, 2), (4, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Every fusion gets the input and the outputs of all blocks so far."""
        feat = x
        maps = [x]
        for block, fusion in zip(self.blocks, self.fusions, strict=True):
            maps.append(block(feat))
            feat = fusion(torch.cat(maps, dim=1))  # (N, 2C, 3C or 4C, H, W) -> (N, C, H, W)
        return x + feat


class FRDAB(nn.Module):
    """Feature refinement dual-attention block: channel and spatial attention, summed.

    Args:
        num_feat: Input and output channels (C), even.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_half = num_feat // 2
        self.conv1 = nn.Conv2d(num_feat, num_feat, 1)
        self.conv2 = nn.Conv2d(num_feat, num_half, 3, padding=1)
        self.conv3 = nn.Conv2d(num_feat, num_half, 3, padding=1)
        self.conv4 = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1)
        self.conv5 = nn.Conv2d(num_half, num_half, 3, padding=1)
        self.conv6 = nn.Conv2d(2 * num_feat, num_feat, 1)
        self.ca = CA(2 * num_feat)
        self.sa = SA()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Refine and weight the features and two copies of half their width, merge all, add the input."""
        whole = self.act(self.conv1(x))  # (N, C, H, W)
        left = self.act(self.conv2(whole))  # (N, C/2, H, W)
        right = self.act(self.conv3(whole))
        joined = torch.cat((whole, left, right), dim=1)  # (N, 2C, H, W)
        refined = self.act(self.conv4(joined))  # (N, C, H, W)
        joined = torch.cat((left, self.conv5(right), refined), dim=1)  # (N, 2C, H, W)
        return x + self.conv6(self.ca(joined) + self.sa(joined))


_FRDAB_NAMES: Names = {"c{i}": "conv{i}", "se": ("ca", CA_NAMES), "sa.conv1": "sa.conv"}
_LFFM_NAMES: Names = {"b{i+1}": ("blocks.{i}", _FRDAB_NAMES), "c{i+1}": "fusions.{i}"}

# Weight names in the authors' code, where the first transformer has no number.
OFFICIAL_NAMES: Names = {
    "sub_mean": "sub_mean",
    "head": "head",
    "r{i+1}": ("body.{i}", _LFFM_NAMES),
    "se{i+1}": ("attentions.{i}", CA_NAMES),
    "c1": "fusion",
    "attention": ("transformers.0", ET_NAMES),
    "attention{i+1}": ("transformers.{i}", ET_NAMES),
    "c{i+2}": "transformer_convs.{i}",
    "tail": "tail",
    "add_mean": "add_mean",
}
