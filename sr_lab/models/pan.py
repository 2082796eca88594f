"""PAN: Efficient Image Super-Resolution Using Pixel Attention (Zhao et al., ECCVW 2020).

Authors' code: github.com/zhaohengyuan1/PAN (no licence stated).
"""

import torch
from torch import Tensor, nn

from sr_lab.layers.image import upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.ops.renaming import PA_TAIL_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.pa import PAUpsampler


class PAN(SRNetwork):
    """Pixel attention network, as in its authors' code.

    Cost at x4: 28.2 G multiply-adds, 14.0 G of them in the tail.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of SCPAs.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, see ``PAUpsampler``. Any tail's
            output is added to the bilinearly upscaled lr.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If the paper's tail cannot reach ``scale``.

    Note:
        Everything follows the authors' code, whose checkpoints load.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 40,
        num_block: int = 16,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(SCPA(num_feat) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or PAUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a residual in feature space, the tail, plus the upscaled image."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = through(self.body, shallow)
        sr: Tensor = self.tail(self.fusion(feat) + shallow)  # (N, 3, rH, rW)
        return sr + upscaled(lr, self.scale, mode="bilinear")


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention (PAN): a plain half and a half with attention.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_half = num_feat // 2
        self.squeeze1 = nn.Conv2d(num_feat, num_half, 1, bias=False)
        self.squeeze2 = nn.Conv2d(num_feat, num_half, 1, bias=False)
        self.conv = nn.Conv2d(num_half, num_half, 3, padding=1, bias=False)
        self.pa_conv = PAConv(num_half)
        self.fusion = nn.Conv2d(2 * num_half, num_feat, 1, bias=False)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run both branches, fuse them with a 1x1 convolution, add the input."""
        plain = self.act(self.conv(self.act(self.squeeze1(x))))  # (N, C / 2, H, W)
        attended = self.act(self.pa_conv(self.act(self.squeeze2(x))))
        return self.fusion(torch.cat((plain, attended), dim=1)) + x


class PAConv(nn.Module):
    """Pixel attention convolution (PAN): ``Conv3x3(Conv3x3(x) * sigmoid(Conv1x1(x)))``.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(num_feat, num_feat, 1)
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, weight each value, convolve."""
        return self.conv2(self.conv1(x) * torch.sigmoid(self.attention(x)))


_SCPA_NAMES: Names = {
    "conv1_a": "squeeze1",
    "conv1_b": "squeeze2",
    "k1.0": "conv",
    "PAConv.k2": "pa_conv.attention",
    "PAConv.k3": "pa_conv.conv1",
    "PAConv.k4": "pa_conv.conv2",
    "conv3": "fusion",
}

# Weight names in the authors' code.
OFFICIAL_NAMES: Names = {
    "conv_first": "head",
    "SCPA_trunk.{i}": ("body.{i}", _SCPA_NAMES),
    "trunk_conv": "fusion",
    **PA_TAIL_NAMES,
}
