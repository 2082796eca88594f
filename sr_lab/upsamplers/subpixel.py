"""Sub-pixel convolution, the usual tail of a lightweight network."""

from torch import nn

from sr_lab.errors import ConfigError


class SubpixelUpsampler(nn.Sequential):
    """Sub-pixel convolution (ESPCN, Shi et al., CVPR 2016) in one step: Conv3x3, then PixelShuffle.

    It works at LR size, which makes it the cheapest tail, unless ``mid_ch`` adds a convolution at output
    size.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image, 3 or 1.
        scale: Upscaling factor r, an integer of at least 1.
        mid_ch: Channels after the shuffle, followed by a Conv3x3 to the image; ``None`` shuffles straight to
            the image. On the command line: ``+upsampler.factory.mid_ch=4``.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If ``scale`` or ``mid_ch`` is below 1.

    Note:
        IMFM's paper does not describe its sub-pixel tail; ``mid_ch=4`` fits the count in its Table 3.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int, mid_ch: int | None = None) -> None:
        if scale < 1:
            raise ConfigError(
                f"upsampler=subpixel: cannot upscale by scale={scale}; allowed: whole numbers of at least 1"
            )
        if mid_ch is not None and mid_ch < 1:
            raise ConfigError(f"upsampler=subpixel: mid_ch must be at least 1 or null, got {mid_ch}")
        num_shuffled = num_out_ch if mid_ch is None else mid_ch
        super().__init__(nn.Conv2d(num_feat, num_shuffled * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        if mid_ch is not None:
            self.append(nn.Conv2d(mid_ch, num_out_ch, 3, padding=1))
