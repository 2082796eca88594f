"""Charbonnier loss."""

import torch
from torch import Tensor, nn


class CharbonnierLoss(nn.Module):
    """Mean of ``sqrt((sr - hr)^2 + eps^2)`` (LapSRN, Lai et al., CVPR 2017, Sec. 3.2).

    An L1 loss that is smooth at zero, with the penalty of Charbonnier et al. (ICIP 1994).

    Args:
        eps: Difference below which the loss changes from L1 to L2, in image units (1 is white).

    Shape:
        sr and hr ``(N, C, H, W)`` -> a scalar of at least ``eps``.

    Note:
        LapSRN sums over pixels and averages over images; here the loss averages over both, so it does not
        depend on the patch size.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare two batches of images of the same shape."""
        difference = (sr - hr).float()  # in half precision, eps^2 would be lost next to a squared difference
        return torch.sqrt(difference.square() + self.eps**2).mean()
