"""Weight-normalised convolutions and learned factors (WDSR, AWSRN, A2F, LAPAR, MAFFSRN)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def wn_conv(num_in_ch: int, num_out_ch: int, kernel_size: int = 3, *, groups: int = 1) -> nn.Conv2d:
    """A weight-normalised convolution of stride 1 that keeps the size (Salimans and Kingma, NeurIPS 2016).

    Args:
        num_in_ch: Channels in.
        num_out_ch: Channels out.
        kernel_size: Odd.
        groups: Groups of the convolution.

    Returns:
        The convolution; it has one more parameter for each channel out than a plain one.
    """
    conv = nn.Conv2d(num_in_ch, num_out_ch, kernel_size, padding=kernel_size // 2, groups=groups)
    weight_norm(conv)
    return conv


class LearnedScale(nn.Module):
    """One learned factor for a whole feature map.

    Args:
        init: First value.

    Shape:
        Any -> the same.
    """

    def __init__(self, init: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init]))

    def forward(self, x: Tensor) -> Tensor:
        """``scale * x``."""
        return x * self.scale
