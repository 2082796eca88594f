"""RFDN: Residual Feature Distillation Network for Lightweight Image SR (Liu et al., ECCVW 2020).

Authors' code: github.com/njulj/RFDN (MIT).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import ESA
from sr_lab.layers.distillation import RFDB, stage_fusion
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.ops.renaming import ESA_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class RFDN(SRNetwork):
    """Residual feature distillation network: the paper's network, or E-RFDN, which won AIM 2020.

    The defaults are RFDN; RFDN-L has ``num_feat=52``. E-RFDN, whose code is published, has ``num_feat=50``,
    ``num_block=4``, ``attention="esa"`` and ``residual=False``.

    Cost at x4: 31.1 G multiply-adds, 27.9 G of them in the blocks; E-RFDN takes 23.8 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of RFDBs.
        attention: The attention at the end of the RFDBs: ``cca`` over channels, or ``esa`` over positions.
        residual: Whether an RFDB adds its input.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15 with
        ``attention="esa"``.

    Raises:
        ConfigError: If ``attention`` is unknown; in ``forward``, if lr is too small.

    Note:
        E-RFDN follows the authors' code, whose checkpoint loads. Stated for the paper's network: the widths,
        CCA, and the residual around the block. Fitted to the paper's counts: CCA's reduction of 4. Inferred:
        CCA is where E-RFDN has ESA, and the range is 0..255 as in E-RFDN.
    """

    multi_adds_rule = "conv"
    min_size = 1  # for the published network; more with ESA

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 48,
        num_block: int = 6,
        attention: Literal["cca", "esa"] = "cca",
        residual: bool = True,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.min_size = ESA.min_size if attention == "esa" else 1
        self.image_range = ImageRange(mean=(0, 0, 0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            RFDB(num_feat, attention=attention, residual=residual) for _ in range(num_block)
        )
        self.fusion = stage_fusion(num_feat, num_block)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the outputs of all blocks, then apply the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W)
        return self.image_range.restore(self.tail(fused + shallow))  # (N, 3, rH, rW)


_RFDB_NAMES: Names = {
    "c4": "distil4",
    "c5": "fusion",
    "c{j}_d": "distil{j}",
    "c{j}_r": "refine{j}",
    "esa": ("esa", ESA_NAMES),
}

# Weight names in the authors' E-RFDN.
OFFICIAL_NAMES: Names = {
    "fea_conv": "head",
    "B{i+1}": ("body.{i}", _RFDB_NAMES),
    "c.0": "fusion.0",
    "LR_conv": "fusion.2",
    "upsampler": "tail",
}
