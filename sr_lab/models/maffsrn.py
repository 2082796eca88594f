"""MAFFSRN: Ultra Lightweight Image SR with Multi-Attention Layers (Muqeet et al., ECCVW 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.image import upscaled
from sr_lab.layers.weighted import AWMSUpsampler, LearnedScale, wn_conv
from sr_lab.ops.renaming import WEIGHT_NORM, KeyRule, rename
from sr_lab.types import UpsamplerFactory


class MAFFSRN(nn.Module):
    """Multi-attentive feature fusion network, as its authors' code builds it (AbdulMoqeet/MAFFSRN).

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk, at least 4.
        num_block: Number of feature fusion groups: 4, in MAFFSRN-L 8.
        upsampler: Factory for the tail; ``None`` builds the paper's, a 3x3 and a 5x5 branch.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W of at least 13.

    Raises:
        ConfigError: In ``forward``, if lr is too small for the pooling.

    Note:
        Everything is from the authors' code, which has images in [0, 1] and no mean shift.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = 13  # of the pooling in CEA
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 32, num_block: int = 4, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__()
        make_tail = partial(AWMSUpsampler, kernel_sizes=(3, 5)) if upsampler is None else upsampler
        self.scale = scale
        self.head = wn_conv(3, num_feat)
        self.body = nn.ModuleList(FFG(num_feat) for _ in range(num_block))
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: what the groups make of it, added to the bicubically enlarged image."""
        feat = self.head(lr)  # (N, C, H, W)
        for group in self.body:
            feat = group(feat)
        sr: Tensor = self.tail(feat) + upscaled(lr, self.scale)  # (N, 3, rH, rW)
        return sr


class FFG(nn.Module):
    """Feature fusion group (MAFFSRN): four MABs in a row, whose outputs are fused one after the other.

    Args:
        num_feat: Channels in and out.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.

    Note:
        Only the two middle MABs have a skip around them in the authors' code.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MAB(num_feat) for _ in range(4))
        self.fusions = nn.ModuleList(wn_conv(2 * num_feat, num_feat, 1) for _ in range(3))
        self.res_scale = LearnedScale()
        self.x_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """The fused chain and the input, each weighed."""
        feat1 = self.blocks[0](x)
        feat2 = self.blocks[1](feat1) + feat1
        feat3 = self.blocks[2](feat2) + feat2
        feat4 = self.blocks[3](feat3)
        fused = feat1
        for fusion, feat in zip(self.fusions, (feat2, feat3, feat4), strict=True):
            # Channels of the two in turn, as a channel shuffle of their concatenation orders them.
            fused = fusion(torch.stack((fused, feat), dim=2).flatten(1, 2))  # (N, 2C, H, W) -> (N, C, H, W)
        out: Tensor = self.res_scale(fused) + self.x_scale(x)
        return out


class MAB(nn.Module):
    """Multi-attention block (MAFFSRN): two 3x3 convolutions, then the attention.

    Args:
        num_feat: Channels in and out.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            nn.LeakyReLU(0.05, inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )
        self.attention = CEA(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and weigh."""
        out: Tensor = self.attention(self.features(x))
        return out


class CEA(nn.Module):
    """Cost-efficient attention (MAFFSRN): weights from far around, times weights from a 5x5 window.

    A strided convolution and a wide max pooling shrink the map sixfold before the convolutions that see far,
    one of them dilated.

    Args:
        num_feat: Channels in and out (C); C // 4 where the map is shrunken.

    Shape:
        ``(N, C, H, W)`` -> the same; H and W of at least ``min_size``.

    Raises:
        ConfigError: In ``forward``, if the map is smaller than ``min_size``.

    Note:
        The far weights pass a ReLU before their sigmoid in the authors' code, so they are never below 0.5.
    """

    # A 3x3 of stride 2 with padding must leave the 7 pixels of the pooling.
    min_size: ClassVar[int] = 13

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_squeezed = num_feat // 4
        self.squeeze = nn.Conv2d(num_feat, num_squeezed, 1)
        self.shrink = nn.Sequential(
            nn.Conv2d(num_squeezed, num_squeezed, 3, stride=2, padding=1), nn.MaxPool2d(7, stride=3)
        )
        self.near = nn.Conv2d(num_squeezed, num_squeezed, 3, padding=1)
        self.far = nn.Conv2d(num_squeezed, num_squeezed, 3, padding=2, dilation=2)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.excite = nn.Sequential(nn.Conv2d(num_squeezed, num_feat, 1), nn.ReLU(), nn.Sigmoid())
        self.local = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 1),
            nn.Conv2d(num_feat, num_feat, 5, padding=2, groups=num_feat),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh channels and positions."""
        height, width = x.shape[-2:]
        if min(height, width) < self.min_size:
            raise ConfigError(
                f"CEA: its pooling needs an LR image of at least {self.min_size}x{self.min_size} pixels, "
                f"got {height}x{width}; enlarge the image or the patch"
            )
        squeezed = self.squeeze(x)  # (N, C/4, H, W)
        shrunken = self.shrink(squeezed)  # (N, C/4, about H/6, about W/6)
        context = self.act(self.far(shrunken)) + self.act(self.near(shrunken))
        context = F.interpolate(context, size=(height, width), mode="nearest")
        out: Tensor = x * self.excite(context + squeezed) * self.local(x)
        return out


# The authors' names and ours. Their conv01 comes before their conv00.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^head\.0\.", "head."),
    (r"^(body\.\d+)\.b(\d)\.", r"\1.blocks.\2."),
    (r"^(body\.\d+)\.reduction([1-3])\.", lambda match: f"{match[1]}.fusions.{int(match[2]) - 1}."),
    (r"\.conv01\.0\.", ".features.0."),
    (r"\.conv00\.0\.", ".features.2."),
    (r"\.reduce_channels\.", ".attention.squeeze."),
    (r"\.reduce_spatial_size\.", ".attention.shrink.0."),
    (r"\.conv1\.0\.", ".attention.near."),
    (r"\.conv2\.0\.", ".attention.far."),
    (r"\.increase_channels\.0\.", ".attention.excite.0."),
    (r"\.bottom11\.0\.", ".attention.local.0."),
    (r"\.bottom11_dw\.0\.", ".attention.local.1."),
    (r"^tail\.tail_k(\d)\.", lambda match: f"tail.0.convs.{(int(match[1]) - 3) // 2}."),
    (r"^tail\.scale_k(\d)\.", lambda match: f"tail.0.scales.{(int(match[1]) - 3) // 2}."),
    *WEIGHT_NORM,
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/AbdulMoqeet/MAFFSRN.

    Args:
        state: Tensors under the authors' names, without a ``module.`` prefix.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``MAFFSRN``.
    """
    return rename(state, _OFFICIAL_KEYS)
