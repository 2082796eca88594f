"""A small residual network."""

from collections.abc import Callable

from torch import Tensor, nn


class SmallNet(nn.Module):
    """A convolution, residual blocks, and a tail that can be replaced.

    Args:
        scale: Upscaling factor r.
        num_feat: Width of the network.
        num_block: Number of residual blocks.
        upsampler: Builds the tail, called with ``num_feat``, ``num_out_ch`` and ``scale``; ``None`` builds a
            sub-pixel convolution.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.
    """

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 4,
        upsampler: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(num_feat, num_feat, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(num_feat, num_feat, 3, padding=1),
            )
            for _ in range(num_block)
        )
        self.tail: nn.Module
        if upsampler is None:
            self.tail = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        else:
            self.tail = upsampler(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale a batch of images."""
        features = self.head(lr)
        for block in self.body:
            features = features + block(features)
        sr: Tensor = self.tail(features)
        return sr
