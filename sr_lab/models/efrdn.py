"""EFRDN: An Efficient Feature Reuse Distillation Network for Lightweight Image SR (Liu et al., CVIU 2024).

Built from the paper; the authors' code was not available.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CA, ESA, SA, mean_and_contrast
from sr_lab.layers.distillation import IMDB, RFDB
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, check_choice
from sr_lab.layers.norm import is_batch_norm
from sr_lab.layers.precision import at_full_precision
from sr_lab.layers.reparam import Kernel
from sr_lab.layers.transformer import ET
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class EFRDN(SRNetwork):
    """Efficient feature reuse distillation network (EFRDN, Fig. 1, Eqs. 1 to 9).

    Four distillation modules, then two transformers over 3x3 patches. In both parts, every module or
    transformer gets the sum of all features before it. A second tail upscales the shallow features.

    Cost at x4: 293 G multiply-adds, of which the convolutions take 28.1 G (the paper prints 27.9 G), the
    transformers' linear layers 25.7 G and their attention products 239 G. Attention products grow with the
    square of the image area, so a large image is cheaper in tiles; memory grows only with the area.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, a multiple of 8 and at least 16.
        num_block: Number of distillation modules.
        num_transformer: Number of efficient transformers.
        block: The distillation module: the paper's ACDM, or the IMDB or RFDB of Table 2.
        parameter_sharing: Whether module k shares the weights of module k - 2; ``None`` shares the weights of
            ACDMs only, which fits the counts of Table 2.
        acrb: Asymmetric convolutions on the features that an ACDM distils (Table 3); ``conv`` replaces them
            with a 3x3 convolution.
        fflb: Lattice blocks in the ACDMs (Table 3).
        mscc: Self-calibrated convolutions at the end of an ACDM (Table 3).
        gcrb: Group convolutions in the two branches of an FFLB (Table 4); the EFFB keeps its own.
        effb: Feature fusion at the end of an FFLB (Table 4).
        cc: Combination coefficients of an FFLB (Table 4); if off, the sums are plain.
        cnn_dc: Dense connections between the distillation modules (Table 5); if off, C_out is the last
            module's output.
        cnn_skip: Add F_S to C_out when ``cnn_dc`` is off.
        transformer_dc: Dense connections between the transformers (Table 5).
        effb_mode: Form of the third GCRB of an EFFB, see ``EFFB``.
        num_head: Number of attention heads.
        num_segment: Number of segments of the image, in raster order; attention stays within a segment.
        attention_reduction: Factor by which tokens are squeezed before queries, keys and values are computed.
        mlp_ratio: Inner width of the transformer's MLP, as a multiple of a token's width.
        rgb_range: Value of white in the network's range.
        upsampler: Factory for both tails; ``None`` builds the paper's sub-pixel tails (Eq. 8).

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15 with
        lattice blocks or RFDBs.

    Raises:
        ConfigError: If a width or a choice is invalid, or a switch applies to a part that is switched off; in
            ``forward``, if lr is too small.

    Note:
        In the text, features are "concatenated" where the equations sum them; this code sums them. The inner
        sum of Eq. 2 repeats one term; it is read as the sum of all F_An. The 768 K that the paper prints for
        x2 and x3 belong to x4. The transformers' sizes are not given; Table 2 implies 224 K parameters for
        each transformer. The defaults give that number, without biases; ESRT's own reduction of 2 and ratio
        of 1/4 would give 188 K. Inferred: the composition of those 224 K; four segments, as in
        ESRT; the mean shift and a range of 255, as in the same group's LBNet.

        Without dense connections the network is a plain chain, with F_S added at its end (Eq. 7). Eq. 3 can
        be read in two ways: its sum has the form of the dense sums of Eq. 2, so F_S is removed along with the
        dense sums (the default); or F_S is a separate skip, as the text calls it in Eq. 7, and remains
        (``cnn_skip``).

        After the transformers, autocast is off, and sr has the dtype of the weights: the features there
        exceed the range of float16, so ``.half()`` overflows, but ``.bfloat16()`` does not.
    """

    multi_adds_rule = "conv"
    min_size = ESA.min_size  # for the published network; 1 without ESA

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 4,
        num_transformer: int = 2,
        block: Literal["acdm", "imdb", "rfdb"] = "acdm",
        parameter_sharing: bool | None = None,
        acrb: bool | Literal["conv"] = True,
        fflb: bool = True,
        mscc: bool = True,
        gcrb: bool = True,
        effb: bool = True,
        cc: bool = True,
        cnn_dc: bool = True,
        cnn_skip: bool = False,
        transformer_dc: bool = True,
        effb_mode: Literal["tied", "three", "two"] = "tied",
        num_head: int = 8,
        num_segment: int = 4,
        attention_reduction: int = 4,
        mlp_ratio: float = 1.0,
        rgb_range: float = 255.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_feat < 16 or num_feat % 8 != 0:
            raise ConfigError(f"EFRDN: num_feat must be a multiple of 8 and at least 16, got {num_feat}")
        if num_block < 1:
            raise ConfigError(f"EFRDN: needs at least one distillation module, got num_block={num_block}")
        _check_switches(block, acrb, fflb=fflb, mscc=mscc, gcrb=gcrb, effb=effb, cc=cc, effb_mode=effb_mode)
        if cnn_dc and cnn_skip:
            raise ConfigError(
                "EFRDN: with cnn_dc=true, C_out always contains F_S, got cnn_skip=true; leave cnn_skip "
                "out or set cnn_dc=false"
            )
        make_fflb = partial(FFLB, num_feat, gcrb=gcrb, effb=effb, cc=cc, effb_mode=effb_mode)
        blocks: dict[str, Callable[[], nn.Module]] = {
            "acdm": partial(ACDM, num_feat, acrb=acrb, make_fflb=make_fflb if fflb else None, mscc=mscc),
            "imdb": partial(IMDB, num_feat),
            "rfdb": partial(RFDB, num_feat),
        }
        make_transformer = partial(
            ET,
            num_feat,
            num_head=num_head,
            num_segment=num_segment,
            reduction=attention_reduction,
            mlp_ratio=mlp_ratio,
        )
        make_tail = SubpixelUpsampler if upsampler is None else upsampler
        sharing = block == "acdm" if parameter_sharing is None else parameter_sharing
        self.min_size = ESA.min_size if block == "rfdb" or (block == "acdm" and fflb) else 1
        self.cnn_dc = cnn_dc
        self.cnn_skip = cnn_skip
        self.transformer_dc = transformer_dc
        self.image_range = ImageRange(gain=rgb_range)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)  # G_S
        self.body = nn.ModuleList(blocks[block]() for _ in range(min(num_block, 2) if sharing else num_block))
        self.convs = _convolutions(num_feat, num_block)
        self.transformers = nn.ModuleList(make_transformer() for _ in range(num_transformer))
        self.transformer_convs = _convolutions(num_feat, num_transformer)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)  # H_r,1
        self.shallow_tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)  # H_r,2

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, Eqs. 1 to 8."""
        shallow = self.head(self.image_range(lr))  # F_S (N, C, H, W), Eq. 1
        feat = total = shallow
        for k, conv in enumerate(self.convs):
            feat = self.body[k % len(self.body)](feat)
            feat = conv(feat + total if self.cnn_dc else feat)  # F_Ak, Eq. 2
            total = total + feat if self.cnn_dc else feat  # C_out in the end, Eq. 3
        if self.cnn_skip:
            total = total + shallow
        for transformer, conv in zip(self.transformers, self.transformer_convs, strict=True):
            feat = transformer(total)
            with at_full_precision(lr):
                feat = conv(feat)  # T_out, Eqs. 4 and 6
                total = total + feat if self.transformer_dc else feat  # T_add, Eqs. 5 and 7
        with at_full_precision(lr):
            total, shallow = total.to(self.head.weight.dtype), shallow.to(self.head.weight.dtype)
            sr: Tensor = self.tail(total + shallow) + self.shallow_tail(shallow)  # (N, 3, rH, rW), Eq. 8
        return self.image_range.restore(sr)


def _check_switches(
    block: str,
    acrb: bool | Literal["conv"],
    *,
    fflb: bool,
    mscc: bool,
    gcrb: bool,
    effb: bool,
    cc: bool,
    effb_mode: str,
) -> None:
    """Refuse unknown choices, and switches for parts that the network does not have."""
    check_choice("EFRDN", "effb_mode", effb_mode, "tied", "three", "two")
    if not fflb and not (gcrb and effb and cc):
        raise ConfigError(
            f"EFRDN: gcrb, effb and cc are parts of the FFLB, which fflb=false switches off, got "
            f"gcrb={gcrb}, effb={effb}, cc={cc}; leave gcrb, effb and cc out or set fflb=true"
        )
    check_choice("EFRDN", "block", block, "acdm", "imdb", "rfdb")
    if block != "acdm" and not (acrb is True and fflb and mscc and gcrb and effb and cc):
        raise ConfigError(
            f"EFRDN: acrb, fflb, mscc, gcrb, effb and cc are parts of the ACDM, which block={block} "
            "replaces; leave them out or set block=acdm"
        )
    if effb_mode != "tied" and not (block == "acdm" and fflb and effb):
        raise ConfigError(
            f"EFRDN: effb_mode configures the EFFB, but the network has no EFFB with block={block}, "
            f"fflb={fflb}, effb={effb}, got effb_mode={effb_mode}; leave effb_mode out or switch the EFFB on"
        )


def _convolutions(num_feat: int, number: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(num_feat, num_feat, 3, padding=1) for _ in range(number))


class ACDM(nn.Module):
    """Asymmetric convolution distillation module (EFRDN, Fig. 1, Eqs. 17 to 27).

    Each of three steps splits off a quarter of the channels and refines the rest.

    Args:
        num_feat: Input and output channels (C).
        acrb, mscc: See ``EFRDN``.
        make_fflb: Builds a lattice block; ``None`` leaves the lattice blocks out.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The counts fit IMDN's split into quarters, a last refinement of 3C/4 channels, and no inner residual.
    """

    def __init__(
        self,
        num_feat: int,
        *,
        acrb: bool | Literal["conv"],
        make_fflb: Callable[[], nn.Module] | None,
        mscc: bool,
    ) -> None:
        super().__init__()
        num_kept = num_feat // 4
        num_rest = num_feat - num_kept
        self.split_sizes = [num_rest, num_kept]

        def refine() -> nn.Module:
            conv = nn.Conv2d(num_rest, num_feat, 3, padding=1)
            return conv if make_fflb is None else nn.Sequential(conv, make_fflb())

        self.distil = nn.ModuleList(_distil(num_kept, acrb) for _ in range(3))
        self.refine = nn.ModuleList(refine() for _ in range(3))
        self.last = nn.Conv2d(num_feat, num_rest, 3, padding=1)  # G_conv4
        self.fusion = nn.Conv2d(3 * num_kept + num_rest, num_feat, 3, padding=1)
        self.mscc = MSCC(num_feat) if mscc else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Eqs. 17 to 27."""
        remain = x
        kept = []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            remain, split = torch.split(remain, self.split_sizes, dim=1)
            kept.append(distil(split))  # X_distill, Eqs. 18, 21 and 24
            remain = refine(remain)  # X_remain, Eqs. 19, 22 and 25
        fused = self.fusion(torch.cat((*kept, self.last(remain)), dim=1))  # (N, 3C/2, H, W) -> (N, C, H, W)
        return x + self.mscc(fused)  # Eq. 27


def _distil(num_feat: int, acrb: bool | Literal["conv"]) -> nn.Module:
    """Build the layers that an ACDM applies to the features it keeps, see Table 3."""
    if acrb is True:
        return ACRB(num_feat)
    if acrb is False:
        return nn.Identity()
    if acrb == "conv":
        return nn.Conv2d(num_feat, num_feat, 3, padding=1)
    raise ConfigError(f"EFRDN: unknown distillation, got acrb={acrb}; allowed: true, false, conv")


class ACRB(nn.Module):
    """Asymmetric convolution residual block (EFRDN, Fig. 3).

    ``x + act(BN(conv1x3(x) + conv3x3(x) + conv3x1(x)))``

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Inferred: one batch norm after the sum (only Table 3 mentions it), and LeakyReLU of slope 0.05.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.row = nn.Conv2d(num_feat, num_feat, (1, 3), padding=(0, 1))
        self.square = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.column = nn.Conv2d(num_feat, num_feat, (3, 1), padding=(1, 0))
        self.norm: nn.Module = nn.BatchNorm2d(num_feat)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.is_fused = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply three parallel kernels within one residual."""
        feat = self.square(x) if self.is_fused else self.row(x) + self.square(x) + self.column(x)
        return x + self.act(self.norm(feat))

    def fuse(self) -> None:
        """Merge the three kernels and the norm, for inference; the paper counts them separately."""
        if not self.is_fused:
            assert is_batch_norm(self.norm)
            kernel = Kernel.of(self.row) + Kernel.of(self.square) + Kernel.of(self.column)
            merged = kernel.conv(like=self.square.weight).eval()
            self.square = fuse_conv_bn_eval(merged, self.norm.eval())
            self.norm = nn.Identity()
            del self.row, self.column
            self.is_fused = True


class FFLB(nn.Module):
    """Feature fusion lattice block (EFRDN, Fig. 1, Eqs. 10 to 16): two butterflies, then a fusion.

    Args:
        num_feat: Input and output channels (C).
        gcrb, effb, cc, effb_mode: See ``EFRDN``.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least ``ESA.min_size``.

    Note:
        X_in in Eq. 11 is read as E_in. Inferred: S_1 and S_2 are scalars that start at 1. The printed counts
        fit four CCs with one MLP each, as here, or two CCs with two MLPs each. Not stated in the paper;
        chosen here: ESA in RFDN's form, with C // 4 inner channels, which fits the counts.
    """

    def __init__(
        self,
        num_feat: int,
        *,
        gcrb: bool = True,
        effb: bool = True,
        cc: bool = True,
        effb_mode: Literal["tied", "three", "two"] = "tied",
    ) -> None:
        super().__init__()

        def branch() -> nn.Module:
            esa = ESA(num_feat, num_squeezed=num_feat // 4, form="rfdn")
            return nn.Sequential(GCRB(num_feat), esa) if gcrb else esa

        def coefficient() -> nn.Module:
            return CC(num_feat) if cc else nn.Identity()

        self.branch1 = branch()
        self.a1, self.b1 = coefficient(), coefficient()
        self.branch2 = branch()
        self.a2, self.b2 = coefficient(), coefficient()
        self.s1 = nn.Parameter(torch.ones(()))
        self.s2 = nn.Parameter(torch.ones(()))
        self.effb = EFFB(num_feat, mode=effb_mode) if effb else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Eqs. 10 to 16."""
        lower = self.branch1(x)  # l_{i-1}, Eq. 10
        upper = x + self.b1(lower)  # U_{i-1}, Eq. 11
        lower = lower + self.a1(x)  # L_{i-1}, Eq. 12
        inner = self.branch2(upper)  # u_i, Eq. 13
        upper = inner + self.b2(lower)  # U_i, Eq. 14
        lower = lower + self.a2(inner)  # L_i, Eq. 15
        return x + self.effb(self.s1 * upper + self.s2 * lower)  # Eq. 16


class CC(nn.Module):
    """Combination coefficient (LatticeNet, Luo et al., TPAMI 2023; EFRDN, Fig. 4): weights the channels.

    ``x * (MLP(mean of x) + MLP(standard deviation of x)) / 2``

    Args:
        num_feat: Input and output channels (C), at least 16.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The counts fit one MLP for both statistics, see ``FFLB``. Inferred: the population standard deviation.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(num_feat, num_feat // 16, 1),
            nn.ReLU(),
            nn.Conv2d(num_feat // 16, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels."""
        statistics = torch.cat(mean_and_contrast(x)).to(x.dtype)  # (2N, C, 1, 1)
        weights = self.mlp(statistics).unflatten(0, (2, -1)).mean(dim=0)  # (N, C, 1, 1)
        return x * weights


class GCRB(nn.Module):
    """Group convolution residual block (EFRDN, Fig. 1): 1x1 to C/4, depthwise 3x3, 1x1 back.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The counts of Table 4 fit 1x1 convolutions in two groups, without bias before the batch norms.
        Inferred: LeakyReLU of slope 0.05.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_squeezed = num_feat // 4
        self.layers = nn.Sequential(
            nn.Conv2d(num_feat, num_squeezed, 1, groups=2, bias=False),
            nn.BatchNorm2d(num_squeezed),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_squeezed, num_squeezed, 3, padding=1, groups=num_squeezed, bias=False),
            nn.BatchNorm2d(num_squeezed),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_squeezed, num_feat, 1, groups=2, bias=False),
            nn.BatchNorm2d(num_feat),
            nn.LeakyReLU(0.05, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of three convolutions to the input."""
        return x + self.layers(x)


class EFFB(nn.Module):
    """Enhanced feature fusion block (EFRDN, Fig. 1): chained GCRBs, fused and self-calibrated twice.

    Args:
        num_feat: Input and output channels (C).
        mode: Form of the third GCRB: with ``tied``, it shares the weights of the second GCRB; with ``three``,
            it has its own weights; with ``two``, the third GCRB is left out, and the output of the second is
            used instead.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The text has three GCRBs; the printed counts cover the weights of two. Inferred: the chain, the sum
        with the third output, and convolutions in four groups on interleaved inputs.
    """

    def __init__(self, num_feat: int, *, mode: Literal["tied", "three", "two"] = "tied") -> None:
        super().__init__()
        self.tied = mode == "tied"
        self.gcrb1 = GCRB(num_feat)
        self.gcrb2 = GCRB(num_feat)
        self.gcrb3 = GCRB(num_feat) if mode == "three" else nn.Identity()
        self.fusion1 = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1, groups=4)
        self.scsa = SelfCalibrated(num_feat, SA())
        self.fusion2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=4)
        self.scca = SelfCalibrated(num_feat, CA(num_feat // 2, reduction=4))

    def forward(self, x: Tensor) -> Tensor:
        """Run the GCRBs, fuse the first two outputs, add the third, fuse again."""
        first = self.gcrb1(x)
        second = self.gcrb2(first)
        third = self.gcrb2(second) if self.tied else self.gcrb3(second)
        fused = self.scsa(self.fusion1(_interleave(first, second)))
        return self.scca(self.fusion2(fused + third))


class MSCC(nn.Module):
    """Multiple self-calibrated convolutions (EFRDN, Fig. 3): SCSA, then SCCA twice, plus the input.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Inferred: how the last unit "weights" the output; here it is one more SCCA.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            SelfCalibrated(num_feat, SA()),
            SelfCalibrated(num_feat, CA(num_feat // 2, reduction=4)),
            SelfCalibrated(num_feat, CA(num_feat // 2, reduction=4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of three units to the input."""
        return x + self.units(x)


class SelfCalibrated(nn.Module):
    """Self-calibrated convolution with spatial or channel attention (EFRDN, Fig. 2: SCSA, SCCA).

    Half of the channels are weighted and the other half convolved; a 3x3 convolution merges both, and the
    input is added.

    Args:
        num_feat: Input and output channels (C).
        attention: Module that weights the C/2 channels of the left half.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The counts of Table 3 rule out a full 3x3 convolution of C channels. Inferred: both convolutions in
        four groups, with the halves interleaved before the merge, since they would not mix otherwise. Not
        stated in the paper; chosen here: CBAM's 7x7 convolution in SCSA, a reduction of 4 in SCCA.
    """

    def __init__(self, num_feat: int, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.conv = nn.Conv2d(num_feat // 2, num_feat // 2, 3, padding=1, groups=4)
        self.merge = nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        """Calibrate the left half, convolve the right one, merge."""
        left, right = x.chunk(2, dim=1)
        return x + self.merge(_interleave(self.attention(left), self.conv(right)))


def _interleave(left: Tensor, right: Tensor) -> Tensor:
    """Interleave the channels, so that each group of the next convolution gets both halves."""
    return torch.stack((left, right), dim=2).flatten(1, 2)
