"""Shared types. Axis letters everywhere: N images, C channels, H x W pixels of the LR image, r = scale."""

from typing import Protocol

from torch import nn


class UpsamplerFactory(Protocol):
    """Builds a network's tail: ``(N, num_feat, H, W) -> (N, num_out_ch, rH, rW)``."""

    def __call__(self, *, num_feat: int, num_out_ch: int, scale: int) -> nn.Module:
        """Build the module for one network."""
