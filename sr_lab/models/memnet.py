"""MemNet: A Persistent Memory Network for Image Restoration (Tai et al., ICCV 2017).

Authors' code: github.com/tyshiwo/MemNet (no licence stated).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.initial import msra_
from sr_lab.layers.network import SRNetwork, check_choice
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class MemNet(SRNetwork):
    """Memory network: recursions of one residual unit, and gates that decide how much of each state to keep.

    Cost at x4: 168.0 G multiply-adds; the ``original`` form, at output size, takes 2.66 T at any scale.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of memory blocks (M).
        num_recursion: How many times a block applies its residual unit (R), at least 1.
        form: ``lr_space`` is the RGB host in "Two Strategies for Lightweight Image SR" (its Table 2), with
            LR-size features, a feature skip and a sub-pixel tail; ``original`` works on the upscaled luma.
        upsampler: Factory for the tail; ``None`` builds the tail of the form. Must be ``None`` for
            ``original``.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped; ``original`` has 1 channel.

    Raises:
        ConfigError: If ``form`` is unknown, ``num_recursion`` is below 1, or ``upsampler`` is given with
            ``form="original"``.

    Note:
        ``lr_space`` has exactly the printed counts: its recursions share the batch norms as well as the
        convolutions, and the inner convolutions have no biases. ``original`` follows the authors' prototxt:
        its recursions share the convolutions, which have biases, but each recursion has its own batch norms.
        The printed 677 K are the convolution weights only. Both forms are initialised as in the authors'
        prototxt. Left out: the outputs of the earlier blocks, which the authors train and average, and the
        learning rate of biases, which in their prototxt is a tenth of that of the weights.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 6,
        num_recursion: int = 6,
        form: Literal["lr_space", "original"] = "lr_space",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        check_choice("MemNet", "form", form, "lr_space", "original")
        if num_recursion < 1:
            raise ConfigError(f"MemNet: num_recursion must be 1 or more, got num_recursion={num_recursion}")
        self.original = form == "original"
        self.head: nn.Module
        self.tail: nn.Module
        if self.original:
            native_only("the original MemNet", upsampler)
            self.colour = "y"
            self.head = _bn_relu_conv(1, num_feat, 3, bias=True)
            self.tail = _bn_relu_conv(num_feat, 1, 3, bias=True)
        else:
            self.colour = "rgb"
            self.head = nn.Conv2d(3, num_feat, 3, padding=1)
            self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        self.body = nn.ModuleList(
            MemoryBlock(
                num_feat,
                num_recursion=num_recursion,
                num_long=k + 1,
                num_norm=num_recursion if self.original else 1,
                bias=self.original,
            )
            for k in range(num_block)
        )
        msra_(self.head, self.body, *([self.tail] if upsampler is None else []))

    @property
    def residual_units(self) -> list[nn.Module]:
        """The tied residual unit of each memory block."""
        return [block.get_submodule("unit") for block in self.body]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: every block gets the memories of all earlier blocks."""
        image = imresize(lr, numerator=self.scale) if self.original else lr
        memories = [self.head(image)]  # B_0 (N, C, H, W), at output size if original
        for block in self.body:
            memories.append(block(memories[-1], memories))
        if self.original:
            return image + self.tail(memories[-1])
        return self.tail(memories[-1] + memories[0])  # (N, C, H, W) -> (N, 3, rH, rW)


class MemoryBlock(nn.Module):
    """Recursions of one residual unit, then a 1x1 gate over all their outputs and all earlier memories.

    Args:
        num_feat: Input and output channels (C).
        num_recursion: How many times the unit is applied (R).
        num_long: Number of earlier memories that the gate also gets: the head's and each earlier block's.
        num_norm: See ``ResidualUnit``.
        bias: Whether the convolutions have biases.

    Shape:
        x ``(N, C, H, W)`` and ``num_long`` memories of that shape -> the same shape.
    """

    def __init__(
        self, num_feat: int, *, num_recursion: int, num_long: int, num_norm: int, bias: bool
    ) -> None:
        super().__init__()
        self.num_recursion = num_recursion
        self.unit = ResidualUnit(num_feat, num_norm=num_norm, bias=bias)
        self.gate = _bn_relu_conv((num_recursion + num_long) * num_feat, num_feat, 1, bias=bias)

    def forward(self, x: Tensor, memories: Sequence[Tensor]) -> Tensor:
        """Concatenate the short-term memories, then the long-term ones, and gate them."""
        short = []
        for recursion in range(self.num_recursion):
            x = self.unit(x, recursion)
            short.append(x)
        return self.gate(torch.cat((*short, *memories), dim=1))


class ResidualUnit(nn.Module):
    """Pre-activation residual unit, ``x + Conv(ReLU(BN(Conv(ReLU(BN(x))))))``.

    Args:
        num_feat: Input and output channels (C).
        num_norm: 1 if the recursions share their batch norms, else the number of recursions.
        bias: Whether the convolutions have biases.

    Shape:
        x ``(N, C, H, W)`` and the index of the recursion -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_norm: int, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.ModuleList(nn.BatchNorm2d(num_feat) for _ in range(num_norm))
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=bias)
        self.norm2 = nn.ModuleList(nn.BatchNorm2d(num_feat) for _ in range(num_norm))
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, recursion: int) -> Tensor:
        """Run one recursion."""
        k = recursion % len(self.norm1)
        feat = self.conv1(F.relu(self.norm1[k](x)))
        return x + self.conv2(F.relu(self.norm2[k](feat)))


def _bn_relu_conv(num_in_ch: int, num_out_ch: int, kernel_size: int, *, bias: bool) -> nn.Sequential:
    conv = nn.Conv2d(num_in_ch, num_out_ch, kernel_size, padding=kernel_size // 2, bias=bias)
    return nn.Sequential(nn.BatchNorm2d(num_in_ch), nn.ReLU(inplace=True), conv)
