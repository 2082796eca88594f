"""A loss on pixels and edges."""

from torch import Tensor, nn


class EdgeLoss(nn.Module):
    """Mean absolute error of the pixels, plus that of the differences to the right and lower neighbours.

    Args:
        edges: Weight of the differences.
    """

    def __init__(self, *, edges: float = 0.5) -> None:
        super().__init__()
        self.edges = edges

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare two batches of images ``(N, C, H, W)``; returns a scalar."""
        error = sr - hr
        return error.abs().mean() + self.edges * (
            error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        )
