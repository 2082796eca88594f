"""Residual blocks of plain convolutions."""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """EDSR's residual block (Lim et al., CVPRW 2017): ``x + res_scale * Conv(ReLU(Conv(x)))``.

    Args:
        num_feat: Input and output channels.
        res_scale: Factor of the residual; 1 in the baseline, 0.1 in the full EDSR.
        attention: Module that weights the residual before it is added, as in RCAN's RCAB, or ``None``. Blocks
            may share a module.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, res_scale: float = 1.0, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.attention = attention
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of two convolutions to the input."""
        residual: Tensor = self.conv2(self.act(self.conv1(x)))
        if self.attention is not None:
            residual = self.attention(residual)
        return x + residual * self.res_scale if self.res_scale != 1 else x + residual
