"""Blueprint separable convolutions, the building block of BSRN and OSFFNet."""

from torch import Tensor, nn


class BSConv(nn.Module):
    """Blueprint separable convolution (BSConv-U; Haase and Amthor, CVPR 2020), as BSRN builds it.

    A 1x1 convolution without bias, then a depthwise k x k convolution with bias. The stride is that of the
    depthwise part. Most of the cost is in the 1x1.

    Args:
        num_in_ch: Channels in.
        num_out_ch: Channels out.
        kernel_size: k of the depthwise part, odd.
        stride: Step of the depthwise part, in pixels; 2 in ESA.
        padding: Zeros at each edge, in pixels; ``None`` keeps the size at stride 1 (k // 2).
        pointwise_bias: Gives the 1x1 a bias too, as in BSRN-S.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)`` at stride 1 and the default padding.

    Note:
        OSFFNet does not say which of the two parts has the bias; only this split fits its printed counts.
    """

    def __init__(
        self,
        num_in_ch: int,
        num_out_ch: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        pointwise_bias: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.pointwise = nn.Conv2d(num_in_ch, num_out_ch, 1, bias=pointwise_bias)
        self.depthwise = nn.Conv2d(
            num_out_ch, num_out_ch, kernel_size, stride=stride, padding=padding, groups=num_out_ch
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pointwise, then depthwise."""
        return self.depthwise(self.pointwise(x))


class ERB(nn.Module):
    """Efficient residual block on one BSConv (OSFFNet, Eqs. 6 and 7): ``GELU(BSConv(x) + x)``.

    Args:
        num_feat: Channels in and out.
        kernel_size: k of the BSConv, odd.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.

    Note:
        Inferred: the paper names the block without a formula. Its parameter counts allow one BSConv (the ERB
        of FMEN is far larger). The residual before the GELU is as in BSRN's shallow block.
    """

    def __init__(self, num_feat: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = BSConv(num_feat, num_feat, kernel_size)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """One convolution within a residual."""
        return self.act(self.conv(x) + x)
