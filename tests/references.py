"""Reference values from scikit-image."""

from typing import Any

from numpy.typing import NDArray
from skimage.metrics import structural_similarity


def ssim(sr: NDArray[Any], hr: NDArray[Any], *, data_range: float) -> float:
    """SSIM of images ``(H, W)`` or ``(H, W, C)``, averaged over the windows that are inside the image."""
    _, local = structural_similarity(
        *(sr, hr),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
        full=True,
        channel_axis=2 if sr.ndim == 3 else None,
    )
    return float(local[5:-5, 5:-5].mean())
