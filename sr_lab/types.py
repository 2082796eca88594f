"""Shared types. Axis letters are N for images, C for channels, H x W for LR pixels; r is the scale."""

from typing import Literal, Protocol, TypeAlias

from torch import nn

# What a network upscales: RGB images, luma only, or any number of channels, each independently.
NetworkColour: TypeAlias = Literal["rgb", "y", "any"]

# A rule for counting multiply-adds, see `sr_lab.ops.complexity.multi_adds`.
Rule: TypeAlias = Literal["all", "torchinfo", "conv", "op_counter"]


class UpsamplerFactory(Protocol):
    """Builds a network's tail: ``(N, num_feat, H, W) -> (N, num_out_ch, rH, rW)``."""

    def __call__(self, *, num_feat: int, num_out_ch: int, scale: int) -> nn.Module:
        """Build the module for one network."""
