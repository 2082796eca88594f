"""FMEN: Fast and Memory-Efficient Network Towards Efficient Image SR (Du et al., CVPRW 2022).

Authors' code: github.com/NJU-Jet/FMEN (Apache-2.0).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.reparam import Kernel, RepConv
from sr_lab.ops.renaming import Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class FMEN(SRNetwork):
    """Fast and memory-efficient network: a chain of pairs of an ERB and an HFAB.

    Folded, the network has no concatenation and no skip except the one around the whole chain, so it needs
    little memory.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of pairs of an ERB and an HFAB.
        num_mid_feat: Inner channels of the HFABs, at least 5, since the HFAB before the chain has 4 fewer.
        num_erb: Number of ERBs in each HFAB.
        num_warmup_erb: Number of ERBs in the HFAB before the chain.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_mid_feat`` is below 5.

    Note:
        The layers follow the authors' code, which has the sizes of the NTIRE variant: 50 channels, 4 pairs,
        one ERB. The defaults, the sizes of the paper's larger network, are inferred: with the same number of
        ERBs in every HFAB, each 16 channels wide as in the code, only these give the printed 748 / 757 / 769
        K (truncated) and 172.0 / 77.2 / 44.2 G. The network works on 0..255, as in that code.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 66,
        num_block: int = 6,
        num_mid_feat: int = 16,
        num_erb: int = 2,
        num_warmup_erb: int = 2,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_mid_feat <= 4:
            raise ConfigError(
                f"FMEN: num_mid_feat={num_mid_feat} leaves no channel for the first HFAB; allowed: 5 or more"
            )
        self.image_range = ImageRange(mean=(0.0, 0.0, 0.0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.warmup = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            HFAB(num_feat, num_mid_feat=num_mid_feat - 4, num_erb=num_warmup_erb),
        )
        self.body = nn.ModuleList(
            nn.Sequential(ERB(num_feat), HFAB(num_feat, num_mid_feat=num_mid_feat, num_erb=num_erb))
            for _ in range(num_block)
        )
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the first HFAB, the pairs, then the tail."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = through(self.body, self.warmup(shallow))
        return self.image_range.restore(self.tail(self.last(feat) + shallow))  # (N, 3, rH, rW)


class HFAB(nn.Module):
    """High-frequency attention block: a weight per channel and position, from a narrow chain of ERBs.

    Args:
        num_feat: Input and output channels.
        num_mid_feat: Channels of the chain.
        num_erb: Length of the chain.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_mid_feat: int, num_erb: int) -> None:
        super().__init__()
        self.squeeze = NormConv(num_feat, num_mid_feat)
        self.erbs = nn.Sequential(*(ERB(num_mid_feat) for _ in range(num_erb)))
        self.excite = NormConv(num_mid_feat, num_feat, norm_out=True)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Weight the features by the chain's attention."""
        attention = self.act(self.erbs(self.act(self.squeeze(x))))
        return x * torch.sigmoid(self.excite(attention))


class NormConv(RepConv):
    """A 3x3 convolution after a batch norm, optionally followed by another norm; both norms fold into it.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        norm_out: Add a batch norm after the convolution.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, *, norm_out: bool = False) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(num_in_ch)
        self.conv = nn.Conv2d(num_in_ch, num_out_ch, 3)
        self.norm_out = nn.BatchNorm2d(num_out_ch) if norm_out else None

    def branches(self, x: Tensor) -> Tensor:
        """Normalise, pad, convolve, normalise."""
        normed = F.pad(self.norm_in(x), (1, 1, 1, 1))
        # During training too, the border gets the value that the norm gives for 0 at inference.
        _, shift = _affine(self.norm_in)
        border = 1 - F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1))
        out: Tensor = self.conv(normed + border * shift[:, None, None])
        return out if self.norm_out is None else self.norm_out(out)

    def merged(self) -> Kernel:
        """The 3x3 convolution merged with the norms, which are 1x1 convolutions before and after it."""
        kernel = Kernel.of(self.conv).after(_as_kernel(self.norm_in))
        return kernel if self.norm_out is None else kernel.before(_as_kernel(self.norm_out))


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor


def _as_kernel(norm: nn.BatchNorm2d) -> Kernel:
    factor, shift = _affine(norm)
    return Kernel.pointwise(factor.diag(), shift)


class ERB(nn.Sequential):
    """Enhanced residual block: two RRRBs with a LeakyReLU between them.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__(RRRB(num_feat), nn.LeakyReLU(0.1, inplace=True), RRRB(num_feat))


class RRRB(RepConv):
    """Residual in residual re-parameterizable block: a wide 3x3 convolution and two identities.

    Args:
        num_feat: Input and output channels; the 3x3 convolution has twice as many.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(num_feat, 2 * num_feat, 1, padding=1)
        self.conv = nn.Conv2d(2 * num_feat, 2 * num_feat, 3)
        self.reduce = nn.Conv2d(2 * num_feat, num_feat, 1)

    def branches(self, x: Tensor) -> Tensor:
        """Expand, convolve in an inner residual, reduce, add the outer residual."""
        expanded = self.expand(x)  # (N, 2C, H + 2, W + 2)
        return x + self.reduce(self.conv(expanded) + expanded[:, :, 1:-1, 1:-1])

    def merged(self) -> Kernel:
        """The convolution equivalent to the chain with both identities."""
        kernel = Kernel.of(self.conv)
        kernel = (kernel + kernel.identity()).after(Kernel.of(self.expand)).before(Kernel.of(self.reduce))
        return kernel + kernel.identity()


_RRRB_NAMES: Names = {
    "expand_conv": "expand",
    "fea_conv": "conv",
    "reduce_conv": "reduce",
    "rep_conv": "folded",
}
_ERB_NAMES: Names = {"conv1": ("0", _RRRB_NAMES), "conv2": ("2", _RRRB_NAMES)}
_CHAIN_NAMES: Names = {"convs.{i}": ("erbs.{i}", _ERB_NAMES)}

_TRAINED_NAMES: Names = {
    "bn1": "squeeze.norm_in",
    "squeeze": "squeeze.conv",
    **_CHAIN_NAMES,
    "bn2": "excite.norm_in",
    "excitate": "excite.conv",
    "bn3": "excite.norm_out",
}
_FOLDED_NAMES: Names = {"squeeze": "squeeze.folded", **_CHAIN_NAMES, "excitate": "excite.folded"}

# Weight names in the authors' ``TRAIN_FMEN``, and in their ``TEST_FMEN``, which is folded. The challenge's
# code (github.com/ofsoundof/NTIRE2022_ESR, team03_fmen) has other names for the two lists of blocks.
OFFICIAL_NAMES = tuple(
    OfficialNames(
        {
            "head": "head",
            "warmup.0": "warmup.0",
            "warmup.1": ("warmup.1", hfab),
            "ERBs.{i}": ("body.{i}.0", _ERB_NAMES),
            "HFABs.{i}": ("body.{i}.1", hfab),
            "basic_blocks.{i}": ("body.{i}.0", _ERB_NAMES),
            "hfabs.{i}": ("body.{i}.1", hfab),
            "lr_conv": "last",
            "tail": "tail",
        }
    )
    for hfab in (_TRAINED_NAMES, _FOLDED_NAMES)
)
