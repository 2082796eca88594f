"""Shared types. Axis letters everywhere: N images, C channels, H x W pixels of the LR image, r = scale."""

from typing import Literal, Protocol, TypeAlias

from torch import nn

# What a network upscales: RGB images, luma alone, or any number of channels, each by itself.
NetworkColour: TypeAlias = Literal["rgb", "y", "any"]

# A way of counting multiply-adds, see `sr_lab.ops.complexity.multi_adds`.
Rule: TypeAlias = Literal["all", "torchinfo", "conv", "op_counter"]


class UpsamplerFactory(Protocol):
    """Builds a network's tail: ``(N, num_feat, H, W) -> (N, num_out_ch, rH, rW)``."""

    def __call__(self, *, num_feat: int, num_out_ch: int, scale: int) -> nn.Module:
        """Build the module for one network."""
