"""FDIWN: Feature Distillation Interaction Weighting Network for Lightweight SR (Gao et al., AAAI 2022).

Authors' code: github.com/IVIPLab/FDIWN (no licence stated).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CC
from sr_lab.layers.image import MeanShift
from sr_lab.layers.network import SRNetwork
from sr_lab.layers.precision import widened
from sr_lab.layers.weighted import LearnedScale, wn_conv
from sr_lab.ops.renaming import Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class FDIWN(SRNetwork):
    """Feature distillation interaction weighting network, as in its authors' code.

    The groups run in the order 1, 1, 2, 3, 2, 3; each run after the first gets the sum of the outputs of all
    earlier runs. A second path takes the image straight to the output through two convolutions.

    Cost at x4: 71.2 G multiply-adds. The printed 28.4 G omits the weight-normalised convolutions.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, a multiple of 8.
        num_block: Number of groups (FSWG), each with its own weights.
        upsampler: Factory for the tail of the features; ``None`` builds the paper's sub-pixel tail. The
            second path keeps its own tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_feat`` is not a multiple of 8.

    Note:
        Everything follows the authors' code, which has one file per scale: x4 has wider units and a narrower
        tail than x2 and x3, and its second path gets the mean-shifted image, while at x2 and x3 the second
        path gets the image without the shift. In that code, the mean shifts were meant to be frozen but are
        trained, so they are weights here. With another number of groups than 3, the order of the runs is our
        choice: the first group runs twice, then all others run in order, twice.
    """

    multi_adds_rule = "torchinfo"

    def __init__(
        self, *, scale: int, num_feat: int = 24, num_block: int = 3, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        if num_feat < 8 or num_feat % 8:
            raise ConfigError(
                f"model=fdiwn: got num_feat={num_feat}; allowed: multiples of 8, since the units divide "
                "the channels by 8"
            )
        large = scale >= 4
        expansions = (2.5, 4.5, 2.25) if large else (2.0, 4.0, 2.0)
        num_tail_feat = num_feat * (4 if large else 8) // 3
        self.raw_skip = not large
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(FSWG(num_feat, expansions=expansions) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_feat, num_tail_feat, 3, padding=1, bias=False)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_tail_feat, num_out_ch=3, scale=scale)
        self.skip = nn.Sequential(
            nn.Conv2d(3, num_tail_feat, 3, padding=1),
            SubpixelUpsampler(num_feat=num_tail_feat, num_out_ch=3, scale=scale),
        )
        self.add_mean = MeanShift(sign=1)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the groups and their tail, plus the second path."""
        image = lr * 255
        shifted = self.sub_mean(image)
        first, *rest = self.body
        feat = first(self.head(shifted))  # (N, C, H, W)
        for group in (first, *rest, *rest):
            feat = feat + group(feat)
        sr = self.tail(self.fusion(feat)) + self.skip(image if self.raw_skip else shifted)  # (N, 3, rH, rW)
        return self.add_mean(sr) / 255


class FSWG(nn.Module):
    """Feature shuffle weighted group: three WDIBs, fused by grouped convolutions of shuffled channels.

    Args:
        num_feat: Input and output channels (C).
        expansions: Inner widths of the wide units, see ``WDIB``.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, expansions: tuple[float, float, float]) -> None:
        super().__init__()
        self.block1 = WDIB(num_feat, expansions=expansions)
        self.block2 = WDIB(num_feat, expansions=expansions)
        self.block3 = WDIB(num_feat, expansions=expansions)
        self.conv = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.shuffle = nn.ChannelShuffle(4)
        self.mix1 = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1, groups=4, bias=False)
        self.mix2 = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1, groups=4, bias=False)
        self.residual = WIRW(num_feat, expansion=expansions[0])
        self.scale_mixed = LearnedScale(0.5)
        self.scale_residual = LearnedScale(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Run three blocks, mix their outputs, add the weighted residual."""
        first = self.block1(x)
        second = self.block2(first)
        third = self.block3(second + self.conv(first))
        mixed = self.mix1(self.shuffle(torch.cat((first, second), dim=1)))  # (N, C, H, W)
        mixed = self.mix2(self.shuffle(torch.cat((mixed, third), dim=1)))
        return self.scale_mixed(mixed + third) + self.scale_residual(self.residual(x))


class WDIB(nn.Module):
    """Wide-residual distillation interaction block.

    Two branches exchange features as in a lattice block. Each starts with a wide unit; the second half of the
    unit's channels is widened again, and the first half gates the branch later.

    Args:
        num_feat: Input and output channels (C), even.
        expansions: Inner widths of a WIRW, of the WCRW that widens and of the WCRW that fuses, as multiples
            of the input's width.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, expansions: tuple[float, float, float]) -> None:
        super().__init__()
        half = num_feat // 2
        identical, widening, fusing = expansions
        self.enter_a = WIRW(num_feat, expansion=identical)
        self.enter_b = WIRW(num_feat, expansion=identical)
        self.widen_a = WCRW(half, num_feat, num_narrow=half, expansion=widening)
        self.widen_b = WCRW(half, num_feat, num_narrow=half, expansion=widening)
        self.cc_a1 = _coefficients(num_feat)
        self.cc_x = _coefficients(num_feat)
        self.cc_a2 = _coefficients(num_feat)
        self.cc_b = _coefficients(num_feat)
        self.gate_a = nn.Conv2d(half, num_feat, 3, padding=1, bias=False)
        self.gate_b = nn.Conv2d(half, num_feat, 3, padding=1, bias=False)
        self.leave_a = WIRW(num_feat, expansion=identical)
        self.leave_b = WIRW(num_feat, expansion=identical)
        self.scf = SCF(num_feat, expansion=fusing)
        self.attention = ShuffleAttention(num_feat)
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        """Run branch a and branch b, then fuse them."""
        kept_a, rest = self.act(self.enter_a(x)).chunk(2, dim=1)  # (N, C / 2, H, W) each
        wide = self.widen_a(rest)  # (N, C, H, W)
        b = x + self.cc_a1(wide) * wide
        a = wide + self.cc_x(x) * x
        kept_b, rest = self.act(self.enter_b(b)).chunk(2, dim=1)
        wide = self.widen_b(rest)
        b = wide + self.cc_a2(a) * a
        a = a + self.cc_b(wide) * wide
        a = a * torch.sigmoid(self.gate_a(kept_a))
        b = b * torch.sigmoid(self.gate_b(kept_b))
        return self.attention(self.scf(self.leave_a(a), self.leave_b(b)) + x)


def _coefficients(num_feat: int) -> CC:
    return CC(num_feat, num_squeezed=num_feat // 8, unbiased=False, relu=True)


class WCRW(nn.Module):
    """Wide convolutional residual weighting unit: a wide residual plus a Conv3x3, each with a learned factor.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        num_narrow: Channels before the 3x3 of the wide residual.
        expansion: Width after the first 1x1 of the wide residual, as a multiple of the input's width.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, *, num_narrow: int, expansion: float) -> None:
        super().__init__()
        num_wide = int(num_in_ch * expansion)
        self.wide = nn.Sequential(
            wn_conv(num_in_ch, num_wide, 1),
            nn.ReLU(inplace=True),
            wn_conv(num_wide, num_narrow, 1),
            wn_conv(num_narrow, num_out_ch, 3),
            ShuffleAttention(num_out_ch),
        )
        self.skip: nn.Module = nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1)
        self.scale_wide = LearnedScale()
        self.scale_skip = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of the wide residual and the skip."""
        return self.scale_wide(self.wide(x)) + self.scale_skip(self.skip(x))


class WIRW(WCRW):
    """Wide identical residual weighting unit: a WCRW with the identity in place of its Conv3x3.

    Args:
        num_feat: Input and output channels (C).
        expansion: Width after the first 1x1, as a multiple of the input's width.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, expansion: float) -> None:
        super().__init__(num_feat, num_feat, num_narrow=num_feat // 2, expansion=expansion)
        self.skip = nn.Identity()


class SCF(nn.Module):
    """Self-calibration fusion of the two branches of a WDIB.

    Args:
        num_feat: Channels of each branch (C).
        expansion: Inner width of the WCRW, as a multiple of its input (2C).

    Shape:
        Twice ``(N, C, H, W)`` -> ``(N, C, H, W)``.
    """

    def __init__(self, num_feat: int, *, expansion: float) -> None:
        super().__init__()
        self.scale_a = LearnedScale()
        self.scale_b = LearnedScale()
        self.wcrw = WCRW(2 * num_feat, num_feat, num_narrow=num_feat, expansion=expansion)
        self.gate = nn.Conv2d(2 * num_feat, num_feat, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The fused branches, plus b times a gate computed from both."""
        joined = torch.cat((self.scale_a(a), self.scale_b(b)), dim=1)  # (N, 2C, H, W)
        return self.wcrw(joined) + torch.sigmoid(self.gate(joined)) * b


class ShuffleAttention(nn.Module):
    """Shuffle attention (SA-Net, Zhang and Yang, ICASSP 2021).

    In each group, one half of the channels is weighted according to its means and the other half, at each
    position, according to its values normalised over the image; a shuffle then mixes the halves.

    Args:
        num_feat: Channels (C), even.
        groups: Maximum number of groups; the largest number up to it that divides C / 2 is used.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, groups: int = 6) -> None:
        super().__init__()
        self.groups = next(g for g in range(groups, 0, -1) if num_feat % (2 * g) == 0)
        num_half = num_feat // (2 * self.groups)
        self.channel_weight = nn.Parameter(torch.zeros(1, num_half, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, num_half, 1, 1))
        self.position_weight = nn.Parameter(torch.zeros(1, num_half, 1, 1))
        self.position_bias = nn.Parameter(torch.ones(1, num_half, 1, 1))
        self.norm = nn.GroupNorm(num_half, num_half)

    def forward(self, x: Tensor) -> Tensor:
        """Weight channels and positions, then shuffle."""
        groups = x.reshape(x.shape[0] * self.groups, -1, *x.shape[2:])  # (N * groups, C / groups, H, W)
        by_channel, by_position = groups.chunk(2, dim=1)
        # Sums over an image need float32.
        mean = widened(by_channel).mean(dim=(2, 3), keepdim=True).to(x.dtype)
        by_channel = by_channel * torch.sigmoid(self.channel_weight * mean + self.channel_bias)
        normed = self.position_weight * self.norm(by_position) + self.position_bias
        by_position = by_position * torch.sigmoid(normed)
        out = torch.cat((by_channel, by_position), dim=1).reshape(x.shape)
        return F.channel_shuffle(out, 2)


_SA_NAMES: Names = {
    "cweight": "channel_weight",
    "cbias": "channel_bias",
    "sweight": "position_weight",
    "sbias": "position_bias",
    "gn": "norm",
}

_WCRW_NAMES: Names = {
    "body": "wide",
    "SAlayer": ("wide.4", _SA_NAMES),
    "conv": "skip",
    "res_scale": "scale_wide",
    "x_scale": "scale_skip",
}

_CC_NAMES: Names = {
    "upper_branch.1": "of_mean.0",
    "upper_branch.3": "of_mean.2",
    "lower_branch": "of_deviation",
}

_WDIB_NAMES: Names = {
    "srb1": ("enter_a", _WCRW_NAMES),
    "srb2": ("enter_b", _WCRW_NAMES),
    "rb1": ("widen_a", _WCRW_NAMES),
    "rb2": ("widen_b", _WCRW_NAMES),
    "A1_coffconv": ("cc_a1", _CC_NAMES),
    "B1_coffconv": ("cc_x", _CC_NAMES),
    "A2_coffconv": ("cc_a2", _CC_NAMES),
    "B2_coffconv": ("cc_b", _CC_NAMES),
    "conv_distilled2": "gate_a",
    "conv_distilled1": "gate_b",
    "srb3": ("leave_a", _WCRW_NAMES),
    "srb4": ("leave_b", _WCRW_NAMES),
    "scale_x1": "scf.scale_a",
    "scale_x2": "scf.scale_b",
    "fuse1": ("scf.wcrw", _WCRW_NAMES),
    "fuse2": "scf.gate",
    "SAlayer": ("attention", _SA_NAMES),
}

_FSWG_NAMES: Names = {
    "MY{i}": ("block{i}", _WDIB_NAMES),
    "conv": "conv",
    "conv{i}": "mix{i}",
    "rb1": ("residual", _WCRW_NAMES),
    "scale_x": "scale_mixed",
    "scale_res": "scale_residual",
}

# Weight names in the authors' code, where gate 1 belongs to branch b.
OFFICIAL_NAMES: Names = {
    "Sub_mean": "sub_mean",
    "head": "head",
    "Li{i+1}": ("body.{i}", _FSWG_NAMES),
    "conv1": "fusion",
    "UP1": "tail",
    "conv2": "skip.0",
    "UP2": "skip.1",
    "Add_mean": "add_mean",
}
