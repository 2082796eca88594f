"""IMDN: Lightweight Image SR with Information Multi-distillation Network (Hui et al., ACM MM 2019).

Authors' code: github.com/Zheng222/IMDN (no licence stated).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.distillation import IMDB, stage_fusion
from sr_lab.layers.image import upscaled
from sr_lab.layers.network import SRNetwork, check_choice, stages_of
from sr_lab.ops.renaming import CA_NAMES, Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class IMDN(SRNetwork):
    """Information multi-distillation network, as in its authors' code.

    The defaults are IMDN; IMDN-RTC, which won the "AI in RTC" challenge with 20 K parameters, has
    ``variant="rtc"``, ``num_feat=12`` and ``num_block=5``.

    Cost at x4: 40.9 G multiply-adds, 34.2 G of them in the 3x3 convolutions of the blocks.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of IMDBs.
        distillation_rate: Share of the channels that each step of an IMDB sets aside, in (0, 1).
        cca_reduction: Reduction of the channel attention.
        variant: ``imdn``, or ``rtc``: no channel attention in the blocks, and instead of the fusion of all
            outputs a 1x1 convolution on the last block's output.
        image_skip: Add the bicubically upscaled lr to the output, so that a short training run starts near
            the bicubic image instead of near black. This is not in the paper. The kernel is torch's
            antialiased one (a = -0.5, as in MATLAB), not torch's default (a = -0.75).
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``variant`` is unknown, the rate or the reduction leaves no channels, or
            ``cca_reduction`` is set for ``variant="rtc"``.

    Note:
        The paper's text was not available; everything follows the authors' code, whose checkpoints load.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 6,
        distillation_rate: float = 0.25,
        cca_reduction: int = 16,
        variant: Literal["imdn", "rtc"] = "imdn",
        image_skip: bool = False,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        check_choice("IMDN", "variant", variant, "imdn", "rtc")
        if variant == "rtc" and cca_reduction != 16:
            raise ConfigError(
                f"IMDN: variant=rtc has no channel attention, got cca_reduction={cca_reduction}; "
                "leave cca_reduction out or set variant=imdn"
            )
        self.fuses_all = variant == "imdn"
        self.image_skip = image_skip
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            IMDB(
                num_feat,
                distillation_rate=distillation_rate,
                cca_reduction=cca_reduction if variant == "imdn" else None,
            )
            for _ in range(num_block)
        )
        self.fusion = (
            stage_fusion(num_feat, num_block) if self.fuses_all else nn.Conv2d(num_feat, num_feat, 1)
        )
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the outputs of all blocks, then apply the tail."""
        shallow = self.head(lr)  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = self.fusion(torch.cat(stages, dim=1) if self.fuses_all else stages[-1])  # (N, C, H, W)
        sr: Tensor = self.tail(fused + shallow)  # (N, 3, rH, rW)
        if self.image_skip:
            sr = sr + upscaled(lr, self.scale, antialias=True)
        return sr


_IMDB_NAMES: Names = {"c5": "fusion", "c{j}": "conv{j}", "cca": ("cca", CA_NAMES)}

# Weight names in the authors' IMDN and IMDN-RTC; the latter numbers the fusion as a block.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "fea_conv": "head",
            "IMDB{i+1}": ("body.{i}", _IMDB_NAMES),
            "c.0": "fusion.0",
            "LR_conv": "fusion.2",
            "upsampler": "tail",
        }
    ),
    OfficialNames(
        {
            "model.0": "head",
            "model.1.sub.{n}": "fusion",
            "model.1.sub.{i}": ("body.{i}", _IMDB_NAMES),
            "model.2": "tail.0",
        },
        {"n": "body"},
    ),
)
