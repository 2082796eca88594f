"""Transposed convolution as a tail."""

from torch import Tensor, nn

from sr_lab.errors import ConfigError


class DeconvUpsampler(nn.Module):
    """A single transposed convolution from features to an image (the deconvolution of IMFM's Table 3).

    The kernel size is 2r - 1, the stride r and the padding r // 2; output padding makes the image exactly r
    times as large as the features. The convolution works at LR size.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image, 3 or 1.
        scale: Upscaling factor r, an integer of at least 1.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If ``scale`` is below 1.

    Note:
        Inferred: the kernel size, which the paper does not give; at x4, a size of 7 comes closest to the
        printed count.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int) -> None:
        super().__init__()
        if scale < 1:
            raise ConfigError(
                f"upsampler=deconv: cannot upscale by scale={scale}; allowed: whole numbers of at least 1"
            )
        kernel_size = 2 * scale - 1
        padding = scale // 2
        self.deconv = nn.ConvTranspose2d(
            num_feat,
            num_out_ch,
            kernel_size,
            stride=scale,
            padding=padding,
            output_padding=scale + 2 * padding - kernel_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upscale the features to an image."""
        return self.deconv(x)
