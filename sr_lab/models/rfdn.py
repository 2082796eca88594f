"""RFDN: Residual Feature Distillation Network for Lightweight Image SR (Liu et al., ECCVW 2020)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import ESA
from sr_lab.layers.distillation import RFDB
from sr_lab.layers.image import ImageRange
from sr_lab.ops.renaming import ESA_KEYS, KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class RFDN(nn.Module):
    """Residual feature distillation network: the paper's, or the one that won AIM 2020 (E-RFDN).

    The defaults are RFDN; RFDN-L has ``num_feat=52``. E-RFDN, whose code is published
    (github.com/njulj/RFDN), has ``num_feat=50``, ``num_block=4``, ``attention="esa"`` and ``residual=False``.

    Cost: at x4 31.1 G multiply-adds, 27.9 G of them in the blocks; E-RFDN 23.8 G.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of RFDBs.
        attention: What the RFDBs end with: ``cca`` over channels, or ``esa`` over positions.
        residual: Whether an RFDB adds its input.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W of at least 15 with
        ``attention="esa"``.

    Raises:
        ConfigError: If ``attention`` is neither; in ``forward``, if lr is too small.

    Note:
        From the authors' code, whose checkpoint loads: all of E-RFDN. Stated of the paper's network: widths,
        CCA, residual around the block. Fitted to its counts: CCA's reduction of 4. Inferred: that CCA stands
        where E-RFDN's ESA does, and that the range is 0..255 too.
    """

    colour: ClassVar[str] = "rgb"
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"
    min_size: int = 1  # of the published network; more with ESA

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
        super().__init__()
        make_tail = SubpixelUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.min_size = ESA.min_size if attention == "esa" else 1
        self.image_range = ImageRange(mean=(0, 0, 0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            RFDB(num_feat, attention=attention, residual=residual) for _ in range(num_block)
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: the outputs of all blocks are fused, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = shallow
        stages = []
        for block in self.body:
            feat = block(feat)
            stages.append(feat)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W)
        sr: Tensor = self.image_range.restore(self.tail(fused + shallow))  # (N, 3, rH, rW)
        return sr


# The authors' names and ours. Their blocks count from 1.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^fea_conv\.", "head."),
    (r"^B(\d+)\.", lambda match: f"body.{int(match[1]) - 1}."),
    (r"^(body\.\d+)\.c([1-3])_d\.", r"\1.distil\2."),
    (r"^(body\.\d+)\.c([1-3])_r\.", r"\1.refine\2."),
    (r"^(body\.\d+)\.c4\.", r"\1.distil4."),
    (r"^(body\.\d+)\.c5\.", r"\1.fusion."),
    *ESA_KEYS,
    (r"^c\.0\.", "fusion.0."),
    (r"^LR_conv\.", "fusion.2."),
    (r"^upsampler\.", "tail."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/njulj/RFDN.

    Args:
        state: Tensors under the authors' names, without a ``module.`` prefix.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``RFDN``.
    """
    return rename(state, _OFFICIAL_KEYS)
