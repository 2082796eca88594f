"""A2N: Attention in Attention Network for Image Super-Resolution (Chen et al., arXiv:2104.09497)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.image import ImageRange, upscaled
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.pa import PAUpsampler


class A2N(nn.Module):
    """Attention in attention network, as its authors' code builds it (github.com/haoyuc/A2N).

    PAN's trunk and tail around blocks that decide, image by image, how much of their attention to use. The
    defaults are A2N; A2N-M has ``plain_kernel_size=1``.

    Cost: at x4 72.4 G multiply-adds, 57.5 G of them in the blocks; A2N-M 60.6 G.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk, at least 4.
        num_block: Number of A2Bs.
        plain_kernel_size: Kernel of the A2Bs' branch without attention, odd.
        upsampler: Factory for the tail; ``None`` builds the paper's, see ``PAUpsampler``. The bilinearly
            enlarged lr is added to the output of any.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: ``num_feat`` is too small, the kernel is even, or the paper's tail has no stages to
            ``scale``.

    Note:
        From the authors' code: everything; it works on 0..255, which its weights expect.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 40,
        num_block: int = 16,
        plain_kernel_size: int = 3,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        make_tail = PAUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.image_range = ImageRange(mean=(0, 0, 0), gain=255)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            A2B(num_feat, plain_kernel_size=plain_kernel_size) for _ in range(num_block)
        )
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: a residual in feature space, the tail, and the enlarged image."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        feat = shallow
        for block in self.body:
            feat = block(feat)
        residual: Tensor = self.image_range.restore(self.tail(self.fusion(feat) + shallow))  # (N, 3, rH, rW)
        return residual + upscaled(lr, self.scale, mode="bilinear")


class A2B(nn.Module):
    """Attention in attention block (A2N): a branch with and one without attention, weighed.

    Args:
        num_feat: Channels in and out (C).
        plain_kernel_size: Kernel of the branch without attention, odd.
        temperature: Divides the logits of the two weights, which brings them near one half.

    Shape:
        ``(N, C, H, W)`` -> the same.

    Raises:
        ConfigError: ``num_feat`` leaves no channel to the weights, or the kernel is even.
    """

    def __init__(self, num_feat: int, *, plain_kernel_size: int = 3, temperature: float = 30) -> None:
        super().__init__()
        if num_feat < 4 or plain_kernel_size % 2 == 0:
            raise ConfigError(
                f"A2B: got num_feat={num_feat}, plain_kernel_size={plain_kernel_size}; "
                "allowed: num_feat of at least 4, an odd kernel"
            )
        self.temperature = temperature
        self.entry = nn.Conv2d(num_feat, num_feat, 1, bias=False)
        self.dropout = nn.Sequential(
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
        """Run both branches, weigh them by what the image is like."""
        feat = self.act(self.entry(x))
        mean = feat.float().mean(dim=(2, 3)).to(feat.dtype)  # (N, C), a sum over the image: in float32
        weights = torch.softmax(self.dropout(mean) / self.temperature, dim=1)[..., None, None, None]
        mixed = self.attended(feat) * weights[:, 0] + self.plain(feat) * weights[:, 1]
        out: Tensor = self.fusion(self.act(mixed)) + x
        return out


class AttentionBranch(nn.Module):
    """Pixel attention from a 3x3 and a 1x1 convolution, between two 3x3 convolutions (A2N).

    Args:
        num_feat: Channels in and out.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
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
        """Weigh the values between two convolutions."""
        out: Tensor = self.conv2(self.conv1(x) * self.attention(x))
        return out


# The authors' names and ours. The stages of their tail count from 1.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^conv_first\.", "head."),
    (r"^AAB_trunk\.", "body."),
    (r"^(body\.\d+)\.conv_first\.", r"\1.entry."),
    (r"^(body\.\d+)\.conv_last\.", r"\1.fusion."),
    (r"\.ADM\.", ".dropout."),
    (r"\.attention\.k1\.", ".attended.attention.0."),
    (r"\.attention\.k2\.", ".attended.attention.2."),
    (r"\.attention\.k3\.", ".attended.conv1."),
    (r"\.attention\.k4\.", ".attended.conv2."),
    (r"\.non_attention\.", ".plain."),
    (r"^trunk_conv\.", "fusion."),
    (r"^upconv(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.1."),
    (r"^att(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.2."),
    (r"^HRconv(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.4."),
    (r"^conv_last\.", "tail.last."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/haoyuc/A2N.

    Args:
        state: Tensors under the authors' names.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``A2N``.
    """
    return rename(state, _OFFICIAL_KEYS)
