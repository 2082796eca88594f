"""Bicubic downscaling, then noise."""

from collections.abc import Sequence

from torch import Tensor

from sr_lab.degradations.operations import (
    Draws,
    RandomDegradation,
    add_noise,
    check_range,
    check_share,
    shrink,
)


class NoiseDegradation(RandomDegradation):
    """Noise of random strength on the bicubic LR image, as in DASR (arXiv 2104.00416).

    Args:
        scale: Downscaling factor.
        sigma: Range of the standard deviation of Gaussian noise, on 0..255.
        poisson_share: Share of images that get Poisson noise instead.
        poisson: Range of the strength of Poisson noise, see `sr_lab.degradations.operations.add_noise`.

    Raises:
        ConfigError: A range or share is not allowed.
    """

    def __init__(
        self,
        *,
        scale: int,
        sigma: Sequence[float] = (0.0, 25.0),
        poisson_share: float = 0.0,
        poisson: Sequence[float] = (0.05, 3.0),
    ) -> None:
        super().__init__(scale=scale)
        check_range("sigma", sigma, 0)
        check_range("poisson", poisson, 0)
        check_share("poisson_share", poisson_share)
        self.sigma = (sigma[0], sigma[1])
        self.poisson_share = poisson_share
        self.poisson = (poisson[0], poisson[1])

    def degrade(self, image: Tensor, draws: Draws) -> Tensor:
        """Downscale and add noise."""
        return add_noise(
            shrink(image, self.scale),
            draws,
            sigma=self.sigma,
            poisson_share=self.poisson_share,
            poisson=self.poisson,
        )

    def describe(self) -> str:
        """See `RandomDegradation`."""
        low, high = self.sigma
        text = f"noise: bicubic downscaling; Gaussian noise of sigma {low:g} to {high:g} of 255"
        if self.poisson_share:
            low, high = self.poisson
            text += f", or ({self.poisson_share:.0%}) Poisson noise of strength {low:g} to {high:g}"
        return f"{text}; 8 bits"
