"""ESRT: Transformer for Single Image Super-Resolution (Lu et al., CVPRW 2022).

Authors' code: github.com/luissen/ESRT (MIT).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.layers.attention import CA
from sr_lab.layers.image import check_min_size
from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.layers.precision import at_full_precision
from sr_lab.layers.transformer import ET
from sr_lab.layers.weighted import LearnedScale
from sr_lab.ops.renaming import CA_NAMES, EDSR_TAIL_NAMES, ET_NAMES, Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


class ESRT(SRNetwork):
    """Efficient SR transformer, as in its authors' code.

    A CNN backbone of high preserving blocks, whose outputs are fused, then one transformer over 3x3 patches.
    A second tail upscales the shallow features.

    Cost at x4: 297 G multiply-adds (the paper prints 67.7 G): 47.7 G in the convolutions and the rest in the
    transformer, whose attention products grow with the square of the image area.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (C), even.
        num_block: Number of HPBs.
        num_head: Number of attention heads.
        num_segment: Number of segments of the image, in raster order; attention stays within a segment.
        attention_reduction: Factor by which tokens are squeezed before queries, keys and values are computed.
        upsampler: Factory for both tails; ``None`` builds the paper's tails, which are EDSR's.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 2.

    Raises:
        ConfigError: If no channel is left for the channel attentions or the heads; in ``forward``, if lr is
            too small.

    Note:
        Everything follows the authors' code, except that each ARFB of the code has a learned scale without
        any effect, which is left out here (12 parameters fewer). The second tail ends in a ReLU, and its last
        convolution has no bias.
    """

    min_size = 2  # needed by the pooling in an HPB
    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 3,
        num_head: int = 8,
        num_segment: int = 4,
        attention_reduction: int = 2,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        make_tail = StepwiseUpsampler if upsampler is None else upsampler
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(HPB(num_feat) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_block * num_feat, num_feat, 3, padding=1)
        self.transformer = ET(
            num_feat,
            num_head=num_head,
            num_segment=num_segment,
            reduction=attention_reduction,
            mlp_ratio=0.25,
            form="esrt",
        )
        self.transformer_conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.shallow_scale = LearnedScale()
        self.deep_scale = LearnedScale()
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.shallow_tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)
        if upsampler is None and isinstance(self.shallow_tail, nn.Sequential):
            self.shallow_tail[-1].register_parameter("bias", None)  # as in the authors' code

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: CNN backbone, transformer, two tails."""
        check_min_size(lr, self.min_size, "ESRT: the pooling")
        shallow = self.head(lr)  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W)
        feat = self.transformer(fused)
        with at_full_precision(lr):
            feat = self.transformer_conv(feat)
        feat = self.last(self.shallow_scale(shallow) + self.deep_scale(feat))
        return self.tail(feat) + F.relu(self.shallow_tail(shallow))  # (N, 3, rH, rW)


class HPB(nn.Module):
    """High preserving block: refines the low frequencies at half size, and the high ones at full size.

    Args:
        num_feat: Input and output channels (C), even.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least 2.

    Note:
        As in the authors' code, one ARFB refines the low frequencies five times.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.encoder = ARFB(num_feat)
        self.low = ARFB(num_feat)
        self.high = ARFB(num_feat)
        self.fusion = nn.Sequential(
            nn.Conv2d(2 * num_feat, num_feat, 1, bias=False),
            nn.ReLU(inplace=True),
            CA(num_feat),
            ARFB(num_feat),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Split by frequency (HFM), refine, fuse."""
        encoded = self.encoder(x)
        low = F.avg_pool2d(encoded, 2)  # (N, C, H // 2, W // 2)
        high = encoded - _resized(low, x)
        for _ in range(5):
            low = self.low(low)
        fused = torch.cat((_resized(low, x), self.high(high)), dim=1)  # (N, 2C, H, W)
        return x + self.fusion(fused)


def _resized(low: Tensor, x: Tensor) -> Tensor:
    """Upscale ``low`` to the size of ``x``."""
    return F.interpolate(low, size=x.shape[-2:], mode="bilinear", align_corners=True)


class ARFB(nn.Module):
    """Adaptive residual feature block: concatenated outputs of two residual units, weighted and convolved.

    Args:
        num_feat: Input and output channels (C), even.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.unit1 = ResidualUnit(num_feat)
        self.unit2 = ResidualUnit(num_feat)
        self.scale1 = LearnedScale()
        self.scale2 = LearnedScale()
        self.fusion = nn.Sequential(
            nn.Conv2d(2 * num_feat, num_feat, 1, bias=False),
            nn.ReLU(inplace=True),
            CA(num_feat),
            nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )
        self.identity_scale = LearnedScale()
        self.residual_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate both outputs, the later first, weight and convolve them, add the scaled input."""
        first = self.unit1(x)
        second = self.unit2(first)
        joined = torch.cat((self.scale2(second), self.scale1(first)), dim=1)  # (N, 2C, H, W)
        return self.identity_scale(x) + self.residual_scale(self.fusion(joined))


class ResidualUnit(nn.Module):
    """Residual unit (RU): a 3x3 to half the channels, PReLU and a 3x3 back, within a scaled residual.

    Args:
        num_feat: Input and output channels (C), even.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(num_feat, num_feat // 2, 3, padding=1)
        self.act = nn.PReLU(num_feat // 2)
        self.expand = nn.Conv2d(num_feat // 2, num_feat, 3, padding=1)
        self.identity_scale = LearnedScale()
        self.residual_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of two convolutions to the input, both scaled."""
        return self.identity_scale(x) + self.residual_scale(self.expand(self.act(self.reduce(x))))


_RU_NAMES: Names = {
    "conv": "reduce",
    "relu": "act",
    "conv1": "expand",
    "weight1": "identity_scale",
    "weight2": "residual_scale",
}

_ARFB_NAMES: Names = {
    "layer1": ("unit1", _RU_NAMES),
    "layer2": ("unit2", _RU_NAMES),
    "weight1": None,  # has no effect
    "weight2": "scale2",
    "weight3": "scale1",
    "alise.conv": "fusion.0",
    "atten": ("fusion.2", CA_NAMES),
    "layer4.conv": "fusion.3",
    "weight4": "identity_scale",
    "weight5": "residual_scale",
}

_HPB_NAMES: Names = {
    "encoder": ("encoder", _ARFB_NAMES),
    "decoder_low": ("low", _ARFB_NAMES),
    "decoder_high": ("high", _ARFB_NAMES),
    "alise2.conv": "fusion.0",
    "att": ("fusion.2", CA_NAMES),
    "alise": ("fusion.3", _ARFB_NAMES),
}

# Weight names in the authors' code, where "alise" names a different layer at each level.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "head.0": "head",
            "body.0.encoder{i+1}": ("body.{i}", _HPB_NAMES),
            "body.0.reduce": "fusion",
            "body.0.attention": ("transformer", ET_NAMES),
            "body.0.alise": "transformer_conv",
            "body.0.weight1": "shallow_scale",
            "body.0.weight2": "deep_scale",
            "reduce": "last",
            **EDSR_TAIL_NAMES,
            "up.1.conv": "shallow_tail.{t-1}",
            "up.0": "shallow_tail",
        },
        {"t": "tail"},
    ),
)
