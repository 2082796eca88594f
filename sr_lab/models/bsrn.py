"""BSRN: Blueprint Separable Residual Network for Efficient Image SR (Li et al., CVPRW 2022).

Authors' code: github.com/xiaom233/BSRN (MIT).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import CCA, ESA
from sr_lab.layers.bsconv import BSConv
from sr_lab.layers.network import SRNetwork, check_choice, stages_of
from sr_lab.ops.renaming import Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler

_NUM_COPIES = 4


class BSRN(SRNetwork):
    """Blueprint separable residual network, as in its authors' code.

    RFDN with blueprint separable convolutions; the head gets four copies of the image. The defaults are BSRN;
    BSRN-S, the winner of NTIRE 2022's model complexity track, has ``form="bsrn_s"``, ``num_feat=48`` and
    ``num_block=5``.

    Cost at x4: 19.4 G multiply-adds, 15.6 G of them in the blocks; BSRN-S takes 8.5 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, at least 16 with ``form="bsrn"``.
        num_block: Number of ESDBs.
        form: ``bsrn``, or ``bsrn_s`` for the blocks and convolutions of BSRN-S, see ``ESDB``.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15.

    Raises:
        ConfigError: If ``form`` is unknown, or ``num_feat`` is too small for the channel attention; in
            ``forward``, if lr is too small.

    Note:
        Everything follows the authors' code; their checkpoints of BSRN load.
    """

    min_size = ESA.min_size
    multi_adds_rule = "torchinfo"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 8,
        form: Literal["bsrn", "bsrn_s"] = "bsrn",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        check_choice("BSRN", "form", form, "bsrn", "bsrn_s")
        pointwise_bias = form == "bsrn_s"
        self.head = BSConv(3 * _NUM_COPIES, num_feat, pointwise_bias=pointwise_bias)
        self.body = nn.ModuleList(ESDB(num_feat, form=form) for _ in range(num_block))
        self.fusion = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1),
            nn.GELU(),
            BSConv(num_feat, num_feat, pointwise_bias=pointwise_bias),
        )
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the outputs of all blocks, then apply the tail."""
        shallow = self.head(torch.cat([lr] * _NUM_COPIES, dim=1))  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W)
        return self.tail(fused + shallow)  # (N, 3, rH, rW)


class ESDB(nn.Module):
    """Efficient separable distillation block (BSRN): an RFDB built from BSConvs, with two attentions.

    Args:
        num_feat: Input and output channels (C).
        form: ``bsrn`` weights the channels by a CCA. ``bsrn_s`` has a ``ChannelScale`` instead, and a bias in
            both convolutions of a BSConv.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least ``ESA.min_size``.
    """

    def __init__(self, num_feat: int, *, form: Literal["bsrn", "bsrn_s"]) -> None:
        super().__init__()
        num_kept = num_feat // 2
        pointwise_bias = form == "bsrn_s"
        self.distil1 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil2 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil3 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil4 = BSConv(num_feat, num_kept, pointwise_bias=pointwise_bias)
        self.refine1 = BSConv(num_feat, num_feat, pointwise_bias=pointwise_bias)
        self.refine2 = BSConv(num_feat, num_feat, pointwise_bias=pointwise_bias)
        self.refine3 = BSConv(num_feat, num_feat, pointwise_bias=pointwise_bias)
        self.act = nn.GELU()
        self.fusion = nn.Conv2d(4 * num_kept, num_feat, 1)
        self.esa = ESA(num_feat, num_squeezed=num_feat // 4, form=form)
        self.cca = CCA(num_feat) if form == "bsrn" else ChannelScale(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Distil three times, fuse the kept features, weight positions and channels."""
        refined1 = self.act(self.refine1(x) + x)
        refined2 = self.act(self.refine2(refined1) + refined1)
        refined3 = self.act(self.refine3(refined2) + refined2)
        kept = (self.distil1(x), self.distil2(refined1), self.distil3(refined2), self.distil4(refined3))
        distilled = self.act(torch.cat(kept, dim=1))  # (N, 4 * num_kept, H, W)
        return self.cca(self.esa(self.fusion(distilled))) + x


class ChannelScale(nn.Module):
    """BSRN-S's replacement for the CCA: one learned factor per channel, then a 1x1 convolution.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, num_feat, 1, 1).normal_(1, 0.2))
        self.conv = nn.Conv2d(num_feat, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels, then mix them."""
        return self.conv(x * self.weight)


_BSCONV_NAMES: Names = {"pw": "pointwise", "dw": "depthwise"}

# Every 3x3 convolution of ESA is a BSConv, except the strided one in BSRN-S.
_ESA_NAMES: Names = {
    "conv1": "squeeze",
    "conv2.pw": "shrink.0.pointwise",
    "conv2.dw": "shrink.0.depthwise",
    "conv2": "shrink.0",
    "conv_max": ("context.0", _BSCONV_NAMES),
    "conv3": ("context.2", _BSCONV_NAMES),
    "conv3_": ("context.4", _BSCONV_NAMES),
    "conv_f": "skip",
    "conv4": "excite.0",
}

_ESDB_NAMES: Names = {
    "c4": ("distil4", _BSCONV_NAMES),
    "c5": "fusion",
    "c{j}_d": "distil{j}",
    "c{j}_r": ("refine{j}", _BSCONV_NAMES),
    "esa": ("esa", _ESA_NAMES),
    "cca.conv_du": "cca.excite",
    "cw": "cca.weight",
    "conv_out": "cca.conv",
}


def _as_convolutions(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Reshape the weights of BSRN-S's linear layers, which are 1x1 convolutions here."""
    return {name: value[..., None, None] if value.ndim == 2 else value for name, value in state.items()}


# Weight names in the authors' code.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "fea_conv": ("head", _BSCONV_NAMES),
            "B{i+1}": ("body.{i}", _ESDB_NAMES),
            "c1": "fusion.0",
            "c2": ("fusion.2", _BSCONV_NAMES),
            "upsampler.upsampleOneStep": "tail",
        },
        prepare=_as_convolutions,
    ),
)
