"""Shallow EDSR: the baseline of Table 1 of "Two Strategies Toward Lightweight Image SR" (Du et al.).

Built from the paper; the authors' code was not available.
"""

from typing import Literal

from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CA, CCA, ESA, SA
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.residual import ResidualBlock
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class ShallowEDSR(SRNetwork):
    """EDSR with 8 blocks, no convolution after them and a sub-pixel tail, for comparing attentions.

    Args:
        scale: Upscaling factor r; the paper uses 4.
        num_feat: Width of the trunk, at least 16 with ``ca`` and ``cca``.
        num_block: Number of residual blocks.
        attention: The attention that weights each residual before it is added: channel attention (``ca``),
            contrast-aware channel attention (``cca``), spatial attention (``sa``) or enhanced spatial
            attention (``esa``).
        share_attention: Whether all blocks use one attention module; if off, each has its own.
        upsampler: Factory for the tail; ``None`` builds the sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15 with
        ``esa``.

    Raises:
        ConfigError: If ``attention`` is unknown, or ``share_attention`` is false and there is no attention;
            in ``forward``, if lr is too small.

    Note:
        Stated: 8 blocks. Fitted to the printed 620 K: the width, the tail, and the missing convolution after
        the blocks. The printed sizes with attention (620 to 622 K) fit a single attention module, but the run
        times (CA +94 %) fit one in every block; shared weights explain both. The 622 K printed for ESA
        implies C // 16 inner channels; ESA's own paper has C // 4. Inferred: EDSR's range, and the position
        of the attention as in RCAN.
    """

    multi_adds_rule = "conv"
    min_size = 1  # without ESA

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 8,
        attention: Literal["none", "ca", "cca", "sa", "esa"] = "none",
        share_attention: bool = True,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if attention == "none" and not share_attention:
            raise ConfigError(
                "edsr_shallow: share_attention=false has no effect with attention=none; "
                "allowed: attention=ca, cca, sa, esa; choose one, or leave share_attention out"
            )
        self.min_size = ESA.min_size if attention == "esa" else 1
        attentions = (
            [_make_attention(attention, num_feat)] * num_block
            if share_attention
            else [_make_attention(attention, num_feat) for _ in range(num_block)]
        )
        self.image_range = ImageRange(gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(num_feat, attention=part) for part in attentions)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: blocks in series within a global skip, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = through(self.body, shallow)
        return self.image_range.restore(self.tail(feat + shallow))  # (N, 3, rH, rW)


def _make_attention(attention: str, num_feat: int) -> nn.Module | None:
    match attention:
        case "none":
            return None
        case "ca":
            return CA(num_feat)
        case "cca":
            return CCA(num_feat)
        case "sa":
            return SA()
        case "esa":
            return ESA(num_feat, num_squeezed=max(1, num_feat // 16), form="rfdn")
    raise ConfigError(
        f"edsr_shallow: unknown attention, got attention={attention}; allowed: none, ca, cca, sa, esa"
    )
