"""IMDN: Lightweight Image SR with Information Multi-distillation Network (Hui et al., ACM MM 2019)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.distillation import IMDB
from sr_lab.layers.image import upscaled
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class IMDN(nn.Module):
    """Information multi-distillation network, as its authors' code builds it (github.com/Zheng222/IMDN).

    The defaults are IMDN; IMDN-RTC, which won the challenge AI in RTC with 20 K parameters, has
    ``variant="rtc"``, ``num_feat=12`` and ``num_block=5``.

    Cost: at x4 40.9 G multiply-adds, 34.2 G of them in the 3x3 convolutions of the blocks.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of IMDBs.
        distillation_rate: Share of the channels that each step of an IMDB keeps aside, in (0, 1).
        cca_reduction: Squeeze of the channel attention.
        variant: ``imdn``, or ``rtc``, whose blocks have no channel attention, and which fuses the output of
            the last block only, by one 1x1 convolution.
        image_skip: Adds the bicubically enlarged lr to the output, so that a short training starts near
            bicubic instead of near black. Not in the paper. Its kernel is torch's antialiased one (a = -0.5,
            MATLAB's), not torch's default (a = -0.75).
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``variant`` is unknown, a rate or reduction leaves no channel, or ``cca_reduction`` is
            set for ``variant="rtc"``.

    Note:
        The paper's text was not available; the source is the authors' code, whose checkpoints load.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

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
        super().__init__()
        if variant not in ("imdn", "rtc"):
            raise ConfigError(f"IMDN: has no such variant, got variant={variant}; allowed: imdn, rtc")
        if variant == "rtc" and cca_reduction != 16:
            raise ConfigError(
                f"IMDN: variant=rtc has no channel attention, got cca_reduction={cca_reduction}; "
                "drop it or take variant=imdn"
            )
        make_tail = SubpixelUpsampler if upsampler is None else upsampler
        self.scale = scale
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
            nn.Sequential(
                nn.Conv2d(num_block * num_feat, num_feat, 1),
                nn.LeakyReLU(0.05, inplace=True),
                nn.Conv2d(num_feat, num_feat, 3, padding=1),
            )
            if self.fuses_all
            else nn.Conv2d(num_feat, num_feat, 1)
        )
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: the outputs of the blocks are fused, then the tail."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = shallow
        stages = []
        for block in self.body:
            feat = block(feat)
            stages.append(feat)
        fused = self.fusion(torch.cat(stages, dim=1) if self.fuses_all else feat)  # (N, C, H, W)
        sr: Tensor = self.tail(fused + shallow)  # (N, 3, rH, rW)
        if self.image_skip:
            sr = sr + upscaled(lr, self.scale, antialias=True)
        return sr


# The authors' names and ours. Their blocks count from 1, those of IMDN-RTC from 0, its fusion behind them.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^model\.0\.", "head."),
    (r"^model\.1\.sub\.(\d+)\.c", r"body.\1.c"),
    (r"^model\.1\.sub\.\d+\.", "fusion."),
    (r"^model\.2\.", "tail.0."),
    (r"^fea_conv\.", "head."),
    (r"^IMDB(\d+)\.", lambda match: f"body.{int(match[1]) - 1}."),
    (r"^(body\.\d+)\.c([1-4])\.", r"\1.conv\2."),
    (r"^(body\.\d+)\.c5\.", r"\1.fusion."),
    (r"\.cca\.conv_du\.", ".cca.excite."),
    (r"^c\.0\.", "fusion.0."),
    (r"^LR_conv\.", "fusion.2."),
    (r"^upsampler\.", "tail."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/Zheng222/IMDN.

    Args:
        state: Tensors under the authors' names, without a ``module.`` prefix.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``IMDN``.
    """
    return rename(state, _OFFICIAL_KEYS)
