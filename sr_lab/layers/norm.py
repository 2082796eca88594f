"""Normalisation."""

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Move the channels to the last axis, normalise over them, move them back."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
