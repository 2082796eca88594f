"""A2N: Attention in Attention Network for Image Super-Resolution (Chen et al., arXiv:2104.09497).

Authors' code: github.com/haoyuc/A2N (no licence stated).
"""

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.image import ImageRange, upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.precision import widened
from sr_lab.ops.renaming import PA_TAIL_NAMES, Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.pa import PAUpsampler


class A2N(SRNetwork):
    """Attention in attention network, as in its authors' code.

    PAN's trunk and tail, with blocks that decide for each image how much of their attention to use. The
    defaults are A2N; A2N-M has ``plain_kernel_size=1``.

    Cost at x4: 72.4 G multiply-adds, 57.5 G of them in the blocks; A2N-M takes 60.6 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, at least 4.
        num_block: Number of A2Bs.
        plain_kernel_size: Kernel size of the A2Bs' branch without attention, odd.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, see ``PAUpsampler``. Any tail's
            output is added to the bilinearly upscaled lr.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_feat`` is too small, the kernel size is even, or the paper's tail cannot reach
            ``scale``.

    Note:
        Everything follows the authors' code, which works on 0..255.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 40,
        num_block: int = 16,
        plain_kernel_size: int = 3,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        self.image_range = ImageRange(mean=(0, 0, 0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            A2B(num_feat, plain_kernel_size=plain_kernel_size) for _ in range(num_block)
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or PAUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a residual in feature space, the tail, plus the upscaled image."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = through(self.body, shallow)
        residual: Tensor = self.image_range.restore(self.tail(self.fusion(feat) + shallow))  # (N, 3, rH, rW)
        return residual + upscaled(lr, self.scale, mode="bilinear")


class A2B(nn.Module):
    """Attention in attention block (A2N): the weighted sum of a branch with attention and one without.

    Args:
        num_feat: Input and output channels (C).
        plain_kernel_size: Kernel size of the branch without attention, odd.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If ``num_feat`` is below 4, or the kernel size is even.
    """

    def __init__(self, num_feat: int, *, plain_kernel_size: int = 3) -> None:
        super().__init__()
        if num_feat < 4 or plain_kernel_size % 2 == 0:
            raise ConfigError(
                f"A2B: got num_feat={num_feat}, plain_kernel_size={plain_kernel_size}; "
                "allowed: num_feat of at least 4, an odd kernel size"
            )
        self.entry = nn.Conv2d(num_feat, num_feat, 1, bias=False)
        self.adm = nn.Sequential(  # the paper's attention dropout module, which weights but drops nothing
            nn.Linear(num_feat, num_feat // 4, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(num_feat // 4, 2, bias=False),
        )
        self.attended = AttentionBranch(num_feat)
        self.plain = nn.Conv2d(
            num_feat, num_feat, plain_kernel_size, padding=plain_kernel_size // 2, bias=False
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 1, bias=False)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run both branches and weight them according to the channel means."""
        feat = self.act(self.entry(x))
        mean = widened(feat).mean(dim=(2, 3)).to(feat.dtype)  # (N, C); sums over an image need float32
        # The division by 30 keeps both weights near one half.
        weights = torch.softmax(self.adm(mean) / 30, dim=1)[..., None, None, None]
        mixed = self.attended(feat) * weights[:, 0] + self.plain(feat) * weights[:, 1]
        return self.fusion(self.act(mixed)) + x


class AttentionBranch(nn.Module):
    """Pixel attention from a 3x3 and a 1x1 convolution, between two 3x3 convolutions (A2N).

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(num_feat, num_feat, 1),
            nn.Sigmoid(),
        )
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, weight each value, convolve."""
        return self.conv2(self.conv1(x) * self.attention(x))


_A2B_NAMES: Names = {
    "conv_first": "entry",
    "ADM": "adm",
    "attention.k1": "attended.attention.0",
    "attention.k2": "attended.attention.2",
    "attention.k3": "attended.conv1",
    "attention.k4": "attended.conv2",
    "non_attention": "plain",
    "conv_last": "fusion",
}

# Weight names in the authors' code, and in our own checkpoints written before ``adm`` was renamed.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "conv_first": "head",
            "AAB_trunk.{i}": ("body.{i}", _A2B_NAMES),
            "trunk_conv": "fusion",
            **PA_TAIL_NAMES,
        }
    ),
    OfficialNames({"body.{i}.dropout": "body.{i}.adm"}),
)
