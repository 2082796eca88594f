"""Weight-normalised convolutions and learned factors (WDSR, AWSRN, A2F, LAPAR, MAFFSRN)."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sr_lab.layers.network import stages_of


def wn_conv(num_in_ch: int, num_out_ch: int, kernel_size: int = 3, *, groups: int = 1) -> nn.Conv2d:
    """A weight-normalised convolution of stride 1 that keeps the size (Salimans and Kingma, NeurIPS 2016).

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        kernel_size: Size of the kernel, odd.
        groups: Number of groups.

    Returns:
        The convolution; it has one more parameter per output channel than a plain convolution.
    """
    conv = nn.Conv2d(num_in_ch, num_out_ch, kernel_size, padding=kernel_size // 2, groups=groups)
    weight_norm(conv)
    return conv


class LearnedScale(nn.Module):
    """One learned factor for a whole feature map.

    Args:
        init: Initial value.

    Shape:
        Any shape -> the same shape.
    """

    def __init__(self, init: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init]))

    def forward(self, x: Tensor) -> Tensor:
        """``scale * x``."""
        return x * self.scale


class AWRU(nn.Module):
    """Adaptive weighted residual unit (AWSRN, Wang et al., arXiv:1904.02358, Sec. 3.2).

    The residual and the identity have one learned factor each. The residual consists of two weight-normalised
    3x3 convolutions with a ReLU in between.

    Args:
        num_feat: Input and output channels.
        num_mid_feat: Channels between the convolutions: 128 in AWSRN, ``num_feat`` in LAPAR.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_mid_feat: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            wn_conv(num_feat, num_mid_feat), nn.ReLU(inplace=True), wn_conv(num_mid_feat, num_feat)
        )
        self.res_scale = LearnedScale()
        self.x_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of the residual and the identity."""
        return self.res_scale(self.residual(x)) + self.x_scale(x)


class LFB(nn.Module):
    """Local fusion block (AWSRN, Sec. 3.2): a chain of AWRUs whose outputs are all fused.

    Args:
        num_feat: Input and output channels.
        num_mid_feat: Inner channels of the AWRUs.
        num_unit: Number of AWRUs.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, num_mid_feat: int, num_unit: int = 4) -> None:
        super().__init__()
        self.units = nn.ModuleList(AWRU(num_feat, num_mid_feat=num_mid_feat) for _ in range(num_unit))
        self.fusion = wn_conv(num_unit * num_feat, num_feat)
        self.res_scale = LearnedScale()
        self.x_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of the fused chain and the input."""
        stages = stages_of(self.units, x)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_unit * C, H, W) -> (N, C, H, W)
        return self.res_scale(fused) + self.x_scale(x)


class AWMS(nn.Module):
    """Adaptive weighted multi-scale convolution (AWSRN, Sec. 3.3).

    The weighted sum of parallel weight-normalised convolutions of several sizes. The learned factors start at
    one over the number of convolutions.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        kernel_sizes: Kernel size of each convolution, odd.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, *, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(wn_conv(num_in_ch, num_out_ch, size) for size in kernel_sizes)
        self.scales = nn.ModuleList(LearnedScale(1 / len(kernel_sizes)) for _ in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, weight and add."""
        branches = (scale(conv(x)) for conv, scale in zip(self.convs, self.scales, strict=True))
        return reduce(torch.add, branches)


class AWMSUpsampler(nn.Sequential):
    """Tail of AWSRN and MAFFSRN: AWMS to num_out_ch * r^2 channels, then PixelShuffle.

    It works at LR size throughout, but a 9x9 convolution costs nine times as much as a 3x3 convolution.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r.
        kernel_sizes: Kernel sizes of the AWMS: four in AWSRN, 3 and 5 in MAFFSRN.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Note:
        The authors shuffle each branch before adding, which gives the same result.
    """

    def __init__(
        self, *, num_feat: int, num_out_ch: int, scale: int, kernel_sizes: Sequence[int] = (3, 5, 7, 9)
    ) -> None:
        super().__init__(
            AWMS(num_feat, num_out_ch * scale**2, kernel_sizes=kernel_sizes), nn.PixelShuffle(scale)
        )


class WNSubpixelUpsampler(nn.Sequential):
    """Weight-normalised Conv3x3, then PixelShuffle: A2F's tail, and the image skip of A2F and AWSRN.

    Args:
        num_feat: Input channels; 3 if the input is the image itself.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int) -> None:
        super().__init__(wn_conv(num_feat, num_out_ch * scale**2), nn.PixelShuffle(scale))
