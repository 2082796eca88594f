"""Blueprint separable convolutions, the building blocks of BSRN and OSFFNet."""

from torch import Tensor, nn


class BSConv(nn.Module):
    """Blueprint separable convolution (BSConv-U; Haase and Amthor, CVPR 2020), as BSRN builds it.

    A 1x1 convolution without bias, then a depthwise k x k convolution with bias. The stride applies to the
    depthwise part. Most of the cost is in the 1x1 convolution.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        kernel_size: k of the depthwise part, odd.
        stride: Step of the depthwise part, in pixels; 2 in ESA.
        padding: Zeros at each edge, in pixels; ``None`` pads by k // 2, which keeps the size at stride 1.
        pointwise_bias: Give the 1x1 convolution a bias too, as in BSRN-S.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)`` at stride 1 and the default padding.

    Note:
        OSFFNet does not say which of the two convolutions has the bias; only this choice fits its printed
        counts.
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
        """Apply the pointwise convolution, then the depthwise one."""
        return self.depthwise(self.pointwise(x))


class ERB(nn.Module):
    """Efficient residual block with one BSConv (OSFFNet, Eqs. 6 and 7): ``GELU(BSConv(x) + x)``.

    Args:
        num_feat: Input and output channels.
        kernel_size: k of the BSConv, odd.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.

    Note:
        Inferred: the paper names the block but gives no formula. Its parameter counts allow one BSConv (the
        ERB of FMEN is far larger). The residual is added before the GELU, as in BSRN's shallow block.
    """

    def __init__(self, num_feat: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = BSConv(num_feat, num_feat, kernel_size)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Add the input to one convolution's output, then activate."""
        return self.act(self.conv(x) + x)
