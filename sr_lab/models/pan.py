"""PAN: Efficient Image Super-Resolution Using Pixel Attention (Zhao et al., ECCVW 2020)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_lab.layers.image import upscaled
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.pa import PAUpsampler


class PAN(nn.Module):
    """Pixel attention network, as its authors' code builds it (github.com/zhaohengyuan1/PAN).

    Cost: at x4 28.2 G multiply-adds, 14.0 G of them in the tail.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of SCPAs.
        upsampler: Factory for the tail; ``None`` builds the paper's, see ``PAUpsampler``. The bilinearly
            enlarged lr is added to the output of any.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: The paper's tail has no stages to ``scale``.

    Note:
        From the authors' code, whose checkpoints load: everything.
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
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        make_tail = PAUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(SCPA(num_feat) for _ in range(num_block))
        self.fusion = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: a residual in feature space, the tail, and the enlarged image."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = shallow
        for block in self.body:
            feat = block(feat)
        sr: Tensor = self.tail(self.fusion(feat) + shallow)  # (N, 3, rH, rW)
        return sr + upscaled(lr, self.scale, mode="bilinear")


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention (PAN): a plain and an attended half.

    Args:
        num_feat: Channels in and out (C).

    Shape:
        ``(N, C, H, W)`` -> the same.
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
        """Two branches, joined by a 1x1 convolution."""
        plain = self.act(self.conv(self.act(self.squeeze1(x))))  # (N, C / 2, H, W)
        attended = self.act(self.pa_conv(self.act(self.squeeze2(x))))
        out: Tensor = self.fusion(torch.cat((plain, attended), dim=1)) + x
        return out


class PAConv(nn.Module):
    """Pixel attention convolution (PAN): ``Conv3x3(Conv3x3(x) * sigmoid(Conv1x1(x)))``.

    Args:
        num_feat: Channels in and out.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(num_feat, num_feat, 1)
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the values between two convolutions."""
        out: Tensor = self.conv2(self.conv1(x) * torch.sigmoid(self.attention(x)))
        return out


# The authors' names and ours. The stages of their tail count from 1.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^conv_first\.", "head."),
    (r"^SCPA_trunk\.", "body."),
    (r"\.conv1_a\.", ".squeeze1."),
    (r"\.conv1_b\.", ".squeeze2."),
    (r"\.k1\.0\.", ".conv."),
    (r"\.PAConv\.k2\.", ".pa_conv.attention."),
    (r"\.PAConv\.k3\.", ".pa_conv.conv1."),
    (r"\.PAConv\.k4\.", ".pa_conv.conv2."),
    (r"^(body\.\d+)\.conv3\.", r"\1.fusion."),
    (r"^trunk_conv\.", "fusion."),
    (r"^upconv(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.1."),
    (r"^att(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.2."),
    (r"^HRconv(\d)\.", lambda match: f"tail.stages.{int(match[1]) - 1}.4."),
    (r"^conv_last\.", "tail.last."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/zhaohengyuan1/PAN.

    Args:
        state: Tensors under the authors' names.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``PAN``.
    """
    return rename(state, _OFFICIAL_KEYS)
