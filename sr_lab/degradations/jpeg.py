"""Bicubic downscaling, then JPEG."""

from collections.abc import Sequence

from torch import Tensor

from sr_lab.degradations.operations import Draws, RandomDegradation, check_range, jpeg, shrink


class JPEGDegradation(RandomDegradation):
    """JPEG compression of the bicubic LR image at a random quality.

    The window's margin is one 8x8 block wide, so that the patch starts at a block boundary too.

    Args:
        scale: Downscaling factor.
        quality: Range of libjpeg's quality; 30 to 95 is Real-ESRGAN's range (arXiv 2107.10833).

    Raises:
        ConfigError: ``quality`` is not a range between 1 and 100.
    """

    def __init__(self, *, scale: int, quality: Sequence[float] = (30.0, 95.0)) -> None:
        super().__init__(scale=scale)
        check_range("quality", quality, 1, 100)
        self.quality = (quality[0], quality[1])

    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """Downscale, encode and decode."""
        return jpeg(shrink(image, self.scale), draws.uniform(*self.quality).round())

    def describe(self) -> str:
        """See `RandomDegradation`."""
        low, high = self.quality
        return f"jpeg: bicubic downscaling; JPEG of quality {low:g} to {high:g}, 4:2:0 chroma; 8 bits"
