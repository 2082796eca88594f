"""RDN: Residual Dense Network for Image SR (Zhang et al., CVPR 2018).

Authors' code: github.com/yulunzhang/RDN (no licence stated). Ports whose checkpoints load:
github.com/yjn870/RDN-pytorch (MIT) and github.com/sanghyun-son/EDSR-PyTorch (MIT).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.ops.renaming import OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


class RDN(SRNetwork):
    """Residual dense network: a block's convolutions get all earlier outputs; all blocks are fused.

    Cost at x4: 1.31 T multiply-adds. The dense blocks keep many feature maps at once, so training takes
    several times the memory of an EDSR of the same width.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Channels between the blocks (G_0).
        num_block: Number of residual dense blocks (D); the paper also shows 20.
        num_layer: Number of convolutions in a block (C); 6 in the paper's network of 20 blocks.
        growth: Channels that each convolution adds (G); 32 in the paper's network of 20 blocks.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, which is EDSR's.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Note:
        The tail has G_0 channels throughout, as in the authors' Torch7 code. The authors' network works on
        0..255 around DIV2K's mean; this one works on the image itself, like the port RDN-pytorch.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 16,
        num_layer: int = 8,
        growth: int = 64,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.entry = nn.Conv2d(3, num_feat, 3, padding=1)
        self.head = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.body = nn.ModuleList(RDB(num_feat, num_layer=num_layer, growth=growth) for _ in range(num_block))
        self.fusion = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1), nn.Conv2d(num_feat, num_feat, 3, padding=1)
        )
        self.tail = (upsampler or StepwiseUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the outputs of all blocks, add the first convolution's output, apply the tail."""
        entered = self.entry(lr)  # F_-1 (N, G_0, H, W)
        stages = stages_of(self.body, self.head(entered))
        fused = self.fusion(torch.cat(stages, dim=1))  # F_GF, from (N, D * G_0, H, W)
        return self.tail(fused + entered)  # (N, 3, rH, rW)


class RDB(nn.Module):
    """Residual dense block: densely connected convolutions, a 1x1 convolution that fuses them, a skip.

    Args:
        num_feat: Input and output channels (G_0).
        num_layer: Number of dense convolutions (C).
        growth: Channels that each convolution adds (G).

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_layer: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(num_feat + k * growth, growth, 3, padding=1) for k in range(num_layer)
        )
        self.act = nn.ReLU(inplace=True)
        self.fusion = nn.Conv2d(num_feat + num_layer * growth, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Collect the features, fuse them and add the input."""
        dense = x
        for conv in self.convs:
            dense = torch.cat((dense, self.act(conv(dense))), dim=1)
        return x + self.fusion(dense)  # (N, G_0 + C * G, H, W) -> (N, G_0, H, W)


def _on_0_to_1(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Fold the 0..255 range of EDSR-PyTorch's RDN into its first and its last convolution."""
    last = max((name.rpartition(".")[0] for name in state if name.startswith("UPNet.")), default="UPNet")
    factors = {"SFENet1.weight": 255, f"{last}.weight": 1 / 255, f"{last}.bias": 1 / 255}
    return {name: value * factors[name] if name in factors else value for name, value in state.items()}


# Weight names in the two ports, RDN-pytorch and EDSR-PyTorch.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "sfe1": "entry",
            "sfe2": "head",
            "rdbs.{i}": ("body.{i}", {"layers.{j}.conv": "convs.{j}", "lff": "fusion"}),
            "gff": "fusion",
            "output": "tail.{t-1}",
            "upscale": "tail",
        },
        {"t": "tail"},
    ),
    OfficialNames(
        {
            "SFENet1": "entry",
            "SFENet2": "head",
            "RDBs.{i}": ("body.{i}", {"convs.{j}.conv.0": "convs.{j}", "LFF": "fusion"}),
            "GFF": "fusion",
            "UPNet": "tail",
        },
        prepare=_on_0_to_1,
    ),
)
