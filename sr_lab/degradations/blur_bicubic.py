"""Unknown blur, then bicubic downscaling: the "classical" degradation of blind super-resolution."""

import math
from collections.abc import Sequence

from torch import Tensor, where

from sr_lab.degradations.operations import (
    Draws,
    RandomDegradation,
    blur,
    check_range,
    check_share,
    gaussian_kernels,
    shrink,
)


class BlurBicubicDegradation(RandomDegradation):
    """Gaussian blur of random width and shape, then bicubic downscaling.

    The blur is isotropic as in IKC (Gu et al., CVPR 2019), with sigma up to 2, 3 and 4 at x2, x3 and x4, or
    anisotropic at any angle as in DASR (Wang et al., CVPR 2021, arXiv 2104.00416). Kernels are 21x21.

    Args:
        scale: Downscaling factor.
        sigma: Range of the standard deviation in HR pixels; ``None`` means [0.2, scale].
        anisotropic_share: Share of images whose blur has different deviations along its two axes.

    Raises:
        ConfigError: A range or share is not allowed.
    """

    def __init__(
        self, *, scale: int, sigma: Sequence[float] | None = None, anisotropic_share: float = 0.5
    ) -> None:
        super().__init__(scale=scale)
        low, high = self.sigma = (0.2, float(scale)) if sigma is None else (sigma[0], sigma[-1])
        check_range("sigma", sigma or (low, high), 0.01)
        check_share("anisotropic_share", anisotropic_share)
        self.anisotropic_share = anisotropic_share

    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """Blur and downscale."""
        first, second = draws.uniform(*self.sigma), draws.uniform(*self.sigma)
        second = where(draws.chance(self.anisotropic_share), second, first)
        kernels = gaussian_kernels(*draws.to_device(first, second, draws.uniform(0, math.pi)))
        return shrink(blur(image, kernels), self.scale)

    def describe(self) -> str:
        """See `RandomDegradation`."""
        return (
            f"blur_bicubic: Gaussian blur 21x21, sigma {self.sigma[0]:g} to {self.sigma[1]:g} HR pixels, "
            f"{self.anisotropic_share:.0%} anisotropic; bicubic downscaling; 8 bits"
        )
