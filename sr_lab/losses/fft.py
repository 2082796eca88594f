"""L1 loss of the Fourier transforms."""

import torch
from torch import Tensor, nn


class FFTLoss(nn.Module):
    """Mean absolute difference of the real and imaginary parts of the images' Fourier transforms.

    Added to an L1 loss with a small weight, it brings out textures: 0.1 in ShuffleMixer (Sun et al., NeurIPS
    2022), 0.05 in SAFMN (Sun et al., ICCV 2023). As in SAFMN's code, the transform is not
    normalised, so its values grow with the patch, and the redundant half of the spectrum is left out.

    Shape:
        sr and hr ``(N, C, H, W)`` -> a scalar of at least 0.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare two batches of images of the same shape."""
        # The transform is linear, so the difference needs only one; sums over an image need float32.
        difference = torch.view_as_real(torch.fft.rfft2(sr.float() - hr.float()))
        return difference.abs().mean()
