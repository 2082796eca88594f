"""Normalisation."""

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a layer is a batch norm (plain, synchronised, or converted back by Lightning)."""
    return isinstance(module, _BatchNorm)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Move the channels to the last axis, normalise over them, and move them back."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
