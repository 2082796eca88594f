"""MREN: Spatial-Channel Adaptive Coordination of Multilevel Refinement Enhancement Network (Cai et al.).

Built from the paper; the authors' code was not available.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import WSILBV
from sr_lab.layers.image import upscaled
from sr_lab.layers.network import SRNetwork, check_choice, through
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.rbwa import RBWAUpsampler

SCACBMode: TypeAlias = Literal["full", "scnc", "osa", "oca"]
Exchange: TypeAlias = Literal["running", "final"]
Message: TypeAlias = Literal["raw", "fused"]


class MREN(SRNetwork):
    """Multilevel refinement enhancement network (MREN, Fig. 1, Eqs. 1 to 4); MREN-L is ``num_feat=84``.

    Cost at x4: 49.0 G multiply-adds, 38.1 G of them in the tail, which works at 2 and 4 times the LR size,
    and 10.9 G in the body. At x2 the tail takes 61.2 G of 105.1 G. The largest maps are in the tail, which
    interpolates before it convolves: num_feat channels at output size.

    Args:
        scale: Upscaling factor r: 2, 3, 4, 8 or 16 with the paper's tail; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (C), at least 6; the paper uses 60.
        num_block: Number of MREBs (n); Table 1 compares 3 to 8.
        scacb: Which parts the SCACBs have (Table 3), see ``SCACB``.
        scacb_exchange: How the two parts of a SCACB exchange their maps, see ``SCACB``.
        communication_weight: Weight of the previous attention map in a DRACB (W), 0 to 1 as in Table 2;
            with 0, a DRACB has no jump connection (Table 4).
        dracb_sigmoid: Whether a DRACB multiplies its map by the map's own sigmoid (Table 4).
        dracb_message: Which map a DRACB passes on, see ``DRACB``.
        upsampler: Factory for the tail; ``None`` builds the paper's RBWAs (Eq. 3).

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_feat`` is below 6, W is outside 0 to 1, or a choice is unknown or applies to a
            part that is switched off.

    Note:
        Inferred: the positions of the GELUs, and the residuals of SCACB and MREB, as in RFDN. The bicubic
        skip of Eq. 4 is torch's (a = -0.75, not MATLAB's -0.5). Widths other than 60 and 10, including
        MREN-L's, are fitted to the printed counts.
    """

    multi_adds_rule = "op_counter"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 60,
        num_block: int = 6,
        scacb: SCACBMode = "full",
        scacb_exchange: Exchange = "running",
        communication_weight: float = 0.2,
        dracb_sigmoid: bool = True,
        dracb_message: Message = "raw",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_feat < 6:
            raise ConfigError(f"MREN: a SCACB needs num_feat of at least 6, got num_feat={num_feat}")
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        make_scacb = partial(SCACB, num_feat, mode=scacb, exchange=scacb_exchange)
        make_dracb = partial(
            DRACB,
            num_feat,
            num_feat // 4,
            communication_weight=communication_weight,
            sigmoid=dracb_sigmoid,
            message=dracb_message,
        )
        self.body = nn.ModuleList(
            MREB(num_feat, make_scacb=make_scacb, make_dracb=make_dracb) for _ in range(num_block)
        )
        self.tail = (upsampler or RBWAUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, Eqs. 1 to 4."""
        shallow = self.head(lr)  # F_0 (N, C, H, W), Eq. 1
        feat = through(self.body, shallow)  # F_n, Eq. 2
        sr: Tensor = self.tail(feat + shallow)  # (N, 3, rH, rW), Eq. 3
        return sr + upscaled(lr, self.scale)  # Eq. 4


class MREB(nn.Module):
    """Multilevel refinement enhancement block (MREN, Fig. 4, Sec. 3.4).

    RFDN's distillation: three SCACBs refine the features, and a DRACB distils a quarter of the channels
    before the first SCACB and after each of them. Each SCACB has 8.3 K of the block's 34.0 K parameters.

    Args:
        num_feat: Input and output channels (C).
        make_scacb: Builds a SCACB.
        make_dracb: Builds a DRACB that distils C // 4 channels.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Fitted to the printed counts: three SCACBs, four DRACBs of C // 4 channels. Inferred: the residual,
        and that no message passes from one MREB to the next.
    """

    def __init__(
        self, num_feat: int, *, make_scacb: Callable[[], nn.Module], make_dracb: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.scacbs = nn.ModuleList(make_scacb() for _ in range(3))
        self.dracbs = nn.ModuleList(make_dracb() for _ in range(4))
        self.fusion = nn.Conv2d(4 * (num_feat // 4), num_feat, 1)
        self.attention = WSILBV(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Refine and distil three times, fuse the distilled features, weight the channels."""
        distilled, message = self.dracbs[0](x, None)
        kept, refined = [distilled], x
        for scacb, dracb in zip(self.scacbs, self.dracbs[1:], strict=True):
            refined = scacb(refined)
            distilled, message = dracb(refined, message)
            kept.append(distilled)
        fused = self.fusion(torch.cat(kept, dim=1))  # (N, 4 * (C // 4), H, W) -> (N, C, H, W)
        return self.attention(fused) + x


class DRACB(nn.Module):
    """Double refinement attention communication block (MREN, Fig. 3, Eqs. 5 and 6).

    A 1x1 convolution gives a map that serves as features and as attention: ``F' = W * F_{l-1} + F_l``, then
    ``F' * sigmoid(F')``. Only the convolution has parameters.

    Args:
        num_feat: Input channels.
        num_distilled: Output channels.
        communication_weight: W, 0 to 1; 0 ignores the previous map.
        sigmoid: Whether to apply Eq. 6; if off, F' is the output.
        message: The map that the next block gets as F_{l-1}: this block's own map F_l (``raw``), or F'
            (``fused``, which needs W above 0).

    Shape:
        ``(N, num_feat, H, W)`` and the previous map ``(N, num_distilled, H, W)``, ``None`` for the first
        block -> output and message, both ``(N, num_distilled, H, W)``.

    Raises:
        ConfigError: If W is outside 0 to 1, ``message`` is unknown, or W is 0 and ``message`` is not ``raw``.

    Note:
        Inferred: ``raw``. Eq. 5 calls F_{l-1} "generated" by the previous block and F' "fused".
    """

    def __init__(
        self,
        num_feat: int,
        num_distilled: int,
        *,
        communication_weight: float,
        sigmoid: bool,
        message: Message,
    ) -> None:
        super().__init__()
        check_choice("MREN", "dracb_message", message, "raw", "fused")
        if not 0 <= communication_weight <= 1:
            raise ConfigError(f"MREN: got communication_weight={communication_weight}; allowed: 0 to 1")
        if communication_weight == 0 and message != "raw":
            raise ConfigError(
                "MREN: with communication_weight=0 the messages between blocks are ignored, got "
                f"dracb_message={message}; allowed: raw, or a communication_weight above 0"
            )
        self.conv = nn.Conv2d(num_feat, num_distilled, 1)
        self.communication_weight = communication_weight
        self.sigmoid = sigmoid
        self.message = message

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """Distil, add the previous block's map, multiply the sum by its sigmoid."""
        own = self.conv(x)  # F_l
        fused = own
        if previous is not None and self.communication_weight != 0:
            fused = torch.add(own, previous, alpha=self.communication_weight)  # F', Eq. 5
        out = F.silu(fused) if self.sigmoid else fused  # Eq. 6: silu(F') = F' * sigmoid(F')
        return out, own if self.message == "raw" else fused


class SCACB(nn.Module):
    """Space-channel adaptive coordination block (MREN, Fig. 2, Sec. 3.2).

    Squeezed to C // 6 channels, the features go through a spatial part (depthwise convolutions) and a channel
    part (ordinary ones). Each part has three levels, with receptive fields of 1x1, 3x3 and 5x5 pixels, which
    a 1x1 convolution aggregates. At each level the parts exchange their maps. The 1x1 convolutions have 6.2 K
    of the 8.3 K parameters.

    Args:
        num_feat: Input and output channels (C).
        mode: ``full`` has both parts and the exchange, ``scnc`` has both without the exchange. ``osa`` and
            ``oca`` (Table 3) have only the spatial or the channel part, twice as wide, without aggregation.
        exchange: Where the sums replace the maps: at each level, so that the third level builds on the second
            one's sum (``running``), or only in the concatenation (``final``, only with ``full``).

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If ``mode`` or ``exchange`` is unknown, or ``final`` is set without an exchange.

    Note:
        The exchange gives both parts the same map c_i + s_i, so the map is computed once. Fitted to the
        printed counts: a second 3x3 in place of a 5x5, a depthwise 1x1 in the spatial part, and the forms of
        ``osa`` and ``oca``. Inferred: the shared squeeze, the residual, ``running``.
    """

    def __init__(self, num_feat: int, *, mode: SCACBMode = "full", exchange: Exchange = "running") -> None:
        super().__init__()
        check_choice("MREN", "scacb", mode, "full", "scnc", "osa", "oca")
        check_choice("MREN", "scacb_exchange", exchange, "running", "final")
        if mode != "full" and exchange != "running":
            raise ConfigError(
                f"MREN: with scacb={mode} no maps are exchanged, got scacb_exchange={exchange}; "
                "allowed: running, or scacb=full"
            )
        num_levels = 6 * (num_feat // 6)  # channels of all levels of all parts
        two_parts = mode in ("full", "scnc")
        num_squeezed = num_levels // 6 if two_parts else num_levels // 3
        self.mode = mode
        self.exchange = exchange
        self.squeeze = nn.Sequential(nn.Conv2d(num_feat, num_squeezed, 1), nn.GELU())
        if mode != "oca":
            self.spatial = Levels(num_squeezed, groups=num_squeezed)
        if mode != "osa":
            self.channel = Levels(num_squeezed, groups=1)
        self.aggregate = nn.Sequential()
        if two_parts:
            # One convolution for both aggregations, which read the same three maps, or three maps each.
            num_in_ch, groups = (num_levels // 2, 1) if mode == "full" else (num_levels, 2)
            self.aggregate.extend((nn.Conv2d(num_in_ch, num_levels, 1, groups=groups), nn.GELU()))
        self.expand = nn.Conv2d(num_levels, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, compute three levels, aggregate, expand."""
        squeezed = self.squeeze(x)  # (N, q, H, W)
        if self.mode == "full":
            levels = self._exchange(squeezed)
        elif self.mode == "scnc":
            levels = (*self.spatial(squeezed), *self.channel(squeezed))
        else:
            levels = (self.spatial if self.mode == "osa" else self.channel)(squeezed)
        aggregated = self.aggregate(torch.cat(levels, dim=1))  # (N, 3q or 6q, H, W) -> (N, 6q, H, W)
        return self.expand(aggregated) + x

    def _exchange(self, squeezed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three levels ``(N, q, H, W)`` of both parts after the exchange."""
        if self.exchange == "final":
            maps = zip(self.spatial(squeezed), self.channel(squeezed), strict=True)
            first, second, third = (spatial + channel for spatial, channel in maps)
            return first, second, third
        first = self.spatial.level1(squeezed) + self.channel.level1(squeezed)
        second = self.spatial.level2(squeezed) + self.channel.level2(squeezed)
        third = self.spatial.level3(second) + self.channel.level3(second)
        return first, second, third


class Levels(nn.Module):
    """One part of a SCACB (MREN, Fig. 2): the features at receptive fields of 1x1, 3x3 and 5x5 pixels.

    Args:
        num_feat: Channels of the input and of each level (q).
        groups: 1 for the channel part, ``num_feat`` for the spatial part.

    Shape:
        ``(N, q, H, W)`` -> three maps of the same shape.
    """

    def __init__(self, num_feat: int, *, groups: int) -> None:
        super().__init__()

        def level(kernel_size: int) -> nn.Sequential:
            conv = nn.Conv2d(num_feat, num_feat, kernel_size, padding=kernel_size // 2, groups=groups)
            return nn.Sequential(conv, nn.GELU())

        self.level1 = level(1)
        self.level2 = level(3)
        self.level3 = level(3)  # follows level 2, which makes its receptive field 5x5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the three levels, without exchange."""
        second = self.level2(x)
        return self.level1(x), second, self.level3(second)
