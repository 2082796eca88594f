"""LatticeNet: Towards Lightweight Image Super-resolution with Lattice Block (Luo et al., ECCV 2020).

Third-party code whose checkpoints load: github.com/ymff0592/super-resolution (no licence stated).
"""

import torch
from torch import Tensor, nn

from sr_lab.layers.attention import CC
from sr_lab.layers.image import MeanShift
from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.ops.renaming import Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class LatticeNet(SRNetwork):
    """Lattice network: a chain of lattice blocks, whose outputs are fused from the last to the first.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, at least 4.
        num_block: Number of lattice blocks.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        Everything follows the third-party code, whose file with the mean shifts is missing. They follow
        RCAN's code, on which that code builds: the shifts were meant to be frozen there but are trained, so
        they are weights here, and the published counts include them.
    """

    multi_adds_rule = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 64, num_block: int = 4, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Sequential(  # no activation between the two convolutions
            nn.Conv2d(3, num_feat, 3, padding=1), nn.Conv2d(num_feat, num_feat, 3, padding=1)
        )
        self.body = nn.ModuleList(LB(num_feat) for _ in range(num_block))
        self.fusion = nn.ModuleList(BFM(num_feat) for _ in range(num_block - 1))
        self.refine = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.add_mean = MeanShift(sign=1)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the blocks, the backward fusion, the tail."""
        shallow = self.head(self.sub_mean(lr * 255))  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = stages.pop()
        for fusion in self.fusion:
            fused = fusion(fused, stages.pop())
        return self.add_mean(self.tail(self.refine(fused + shallow))) / 255  # (N, 3, rH, rW)


class LB(nn.Module):
    """Lattice block: two butterflies that combine two residual units with learned coefficients.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.unit1 = _residual_unit(num_feat)
        self.cc_unit1 = _coefficients(num_feat)
        self.cc_x = _coefficients(num_feat)
        self.unit2 = _residual_unit(num_feat)
        self.cc_q = _coefficients(num_feat)
        self.cc_unit2 = _coefficients(num_feat)
        self.fusion = nn.Conv2d(2 * num_feat, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the analysis butterfly, then the synthesis butterfly."""
        unit = self.unit1(x)
        p = x + self.cc_unit1(unit) * unit
        q = unit + self.cc_x(x) * x
        unit = self.unit2(p)
        p = unit + self.cc_q(q) * q
        q = q + self.cc_unit2(unit) * unit
        return self.fusion(torch.cat((p, q), dim=1))  # (N, 2C, H, W) -> (N, C, H, W)


def _residual_unit(num_feat: int) -> nn.Sequential:
    """Three convolutions, from C to 3C/4 channels and back, each followed by an activation."""
    num_squeezed = num_feat - num_feat // 4
    layers: list[nn.Module] = []
    for num_in_ch, num_out_ch in (
        (num_feat, num_squeezed),
        (num_squeezed, num_squeezed),
        (num_squeezed, num_feat),
    ):
        layers += [nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1), nn.LeakyReLU(0.05, inplace=True)]
    return nn.Sequential(*layers)


def _coefficients(num_feat: int) -> CC:
    return CC(num_feat, num_squeezed=max(1, num_feat // 16), unbiased=True, relu=False)


class BFM(nn.Module):
    """A step of the backward fusion: concatenates deeper and shallower features, each with half the channels.

    Args:
        num_feat: Channels of each input and of the output (C).

    Shape:
        Twice ``(N, C, H, W)`` -> ``(N, C, H, W)``.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(num_feat, num_feat - num_feat // 2, 1)
        self.shallower = nn.Conv2d(num_feat, num_feat // 2, 1)
        self.act = nn.ReLU()

    def forward(self, deep: Tensor, shallower: Tensor) -> Tensor:
        """Halve the channels of both inputs and concatenate the results."""
        return self.act(torch.cat((self.deep(deep), self.shallower(shallower)), dim=1))


_CC_NAMES: Names = {"conv_mean": "of_mean", "conv_std": "of_deviation"}

_LB_NAMES: Names = {
    "conv_block0": "unit1",
    "conv_block1": "unit2",
    "fea_ca1": ("cc_unit1", _CC_NAMES),
    "x_ca1": ("cc_x", _CC_NAMES),
    "fea_ca2": ("cc_q", _CC_NAMES),
    "x_ca2": ("cc_unit2", _CC_NAMES),
    "compress": "fusion",
}

# Weight names in the third-party code.
OFFICIAL_NAMES: Names = {
    "sub_mean": "sub_mean",
    "conv1": "head.0",
    "conv2": "head.1",
    "body_unit{i+1}": ("body.{i}", _LB_NAMES),
    "T_tdm{i+1}.0": "fusion.{i}.deep",
    "L_tdm{i+1}.0": "fusion.{i}.shallower",
    "tail.0": "refine",
    "tail.1": "tail.0",
    "add_mean": "add_mean",
}
