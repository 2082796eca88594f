"""A tail with nearest-neighbour upscaling."""

from torch import nn


class NearestUpsampler(nn.Sequential):
    """Nearest-neighbour upscaling between two convolutions.

    Args:
        num_feat: Input channels; given by the network.
        num_out_ch: Channels of the image; given by the network.
        scale: Upscaling factor r; given by the network.
        num_up_feat: Channels at output size.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int, num_up_feat: int = 8) -> None:
        super().__init__(
            nn.Conv2d(num_feat, num_up_feat, 3, padding=1),
            nn.Upsample(scale_factor=scale, mode="nearest"),
            nn.Conv2d(num_up_feat, num_out_ch, 3, padding=1),
        )
