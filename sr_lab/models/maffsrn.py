"""MAFFSRN: Ultra Lightweight Image SR with Multi-Attention Layers (Muqeet et al., ECCVW 2020).

Authors' code: github.com/AbdulMoqeet/MAFFSRN (no licence stated).
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.layers.image import check_min_size, upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.weighted import AWMSUpsampler, LearnedScale, wn_conv
from sr_lab.ops.renaming import AWMS_NAMES, Names
from sr_lab.types import UpsamplerFactory


class MAFFSRN(SRNetwork):
    """Multi-attentive feature fusion network, as in its authors' code.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, at least 4.
        num_block: Number of feature fusion groups: 4 in MAFFSRN, 8 in MAFFSRN-L.
        upsampler: Factory for the tail; ``None`` builds the paper's tail of a 3x3 and a 5x5 branch.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 13.

    Raises:
        ConfigError: In ``forward``, if lr is too small.

    Note:
        Everything follows the authors' code, which takes images in [0, 1] without a mean shift.
    """

    min_size = 13  # needed by the pooling in CEA
    multi_adds_rule = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 32, num_block: int = 4, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        make_tail = partial(AWMSUpsampler, kernel_sizes=(3, 5)) if upsampler is None else upsampler
        self.head = wn_conv(3, num_feat)
        self.body = nn.ModuleList(FFG(num_feat) for _ in range(num_block))
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the groups and the tail, plus the bicubically upscaled image."""
        feat = through(self.body, self.head(lr))  # (N, C, H, W)
        return self.tail(feat) + upscaled(lr, self.scale)  # (N, 3, rH, rW)


class FFG(nn.Module):
    """Feature fusion group (MAFFSRN): four MABs in a row, with their outputs fused one by one.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.

    Note:
        In the authors' code, only the two middle MABs have a skip connection.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MAB(num_feat) for _ in range(4))
        self.fusions = nn.ModuleList(wn_conv(2 * num_feat, num_feat, 1) for _ in range(3))
        self.res_scale = LearnedScale()
        self.x_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of the fused chain and the input."""
        feat1 = self.blocks[0](x)
        feat2 = self.blocks[1](feat1) + feat1
        feat3 = self.blocks[2](feat2) + feat2
        feat4 = self.blocks[3](feat3)
        fused = feat1
        for fusion, feat in zip(self.fusions, (feat2, feat3, feat4), strict=True):
            # The channels of both maps alternate, as after a channel shuffle of their concatenation.
            fused = fusion(torch.stack((fused, feat), dim=2).flatten(1, 2))  # (N, 2C, H, W) -> (N, C, H, W)
        return self.res_scale(fused) + self.x_scale(x)


class MAB(nn.Module):
    """Multi-attention block (MAFFSRN): two 3x3 convolutions, then the attention.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )
        self.attention = CEA(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then weight."""
        return self.attention(self.features(x))


class CEA(nn.Module):
    """Cost-efficient attention (MAFFSRN): weights from a wide neighbourhood, times weights from a 5x5 window.

    A strided convolution and a wide max pooling shrink the map sixfold; the next two convolutions, one of
    them dilated, therefore have a large receptive field.

    Args:
        num_feat: Input and output channels (C); the shrunken map has C // 4.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least ``min_size``.

    Raises:
        ConfigError: In ``forward``, if the map is smaller than ``min_size``.

    Note:
        In the authors' code a ReLU precedes the sigmoid of the wide weights, so they are never below 0.5.
    """

    # A padded 3x3 convolution of stride 2 must leave 7 pixels for the pooling.
    min_size: ClassVar[int] = 13

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_squeezed = num_feat // 4
        self.squeeze = nn.Conv2d(num_feat, num_squeezed, 1)
        self.shrink = nn.Sequential(
            nn.Conv2d(num_squeezed, num_squeezed, 3, stride=2, padding=1), nn.MaxPool2d(7, stride=3)
        )
        self.near = nn.Conv2d(num_squeezed, num_squeezed, 3, padding=1)
        self.far = nn.Conv2d(num_squeezed, num_squeezed, 3, padding=2, dilation=2)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.excite = nn.Sequential(nn.Conv2d(num_squeezed, num_feat, 1), nn.ReLU(), nn.Sigmoid())
        self.local = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 1),
            nn.Conv2d(num_feat, num_feat, 5, padding=2, groups=num_feat),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight channels and positions."""
        check_min_size(x, self.min_size, "CEA: the pooling")
        squeezed = self.squeeze(x)  # (N, C/4, H, W)
        shrunken = self.shrink(squeezed)  # (N, C/4, about H/6, about W/6)
        context = self.act(self.far(shrunken)) + self.act(self.near(shrunken))
        context = F.interpolate(context, size=x.shape[-2:], mode="nearest")
        return x * self.excite(context + squeezed) * self.local(x)


_MAB_NAMES: Names = {
    "conv01.0": "features.0",
    "conv00.0": "features.2",
    "reduce_channels": "attention.squeeze",
    "reduce_spatial_size": "attention.shrink.0",
    "conv1.0": "attention.near",
    "conv2.0": "attention.far",
    "increase_channels.0": "attention.excite.0",
    "bottom11.0": "attention.local.0",
    "bottom11_dw.0": "attention.local.1",
}

_FFG_NAMES: Names = {
    "b{i}": ("blocks.{i}", _MAB_NAMES),
    "reduction{i+1}": "fusions.{i}",
    "res_scale": "res_scale",
    "x_scale": "x_scale",
}

# Weight names in the authors' code, where conv01 precedes conv00.
OFFICIAL_NAMES: Names = {
    "head.0": "head",
    "body.{i}": ("body.{i}", _FFG_NAMES),
    "tail": ("tail.0", AWMS_NAMES),
}
