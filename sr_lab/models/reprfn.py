"""RepRFN: Reparameterized Residual Feature Network for Lightweight Image SR (Deng et al., CVPRW 2023).

Authors' code: github.com/laonafahaodange/RepRFN (MIT).
"""

from torch import Tensor, nn

from sr_lab.layers.attention import ESA
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.reparam import EdgeConv, Kernel, RepConv
from sr_lab.ops.renaming import EDGE_NAMES, RLFN_ESA_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class RepRFN(SRNetwork):
    """Residual feature network with re-parameterised convolutions.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of RepRFBs.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15.

    Raises:
        ConfigError: In ``forward``, if lr is too small.

    Note:
        Everything follows the authors' code; the folded network has the printed sizes.
    """

    min_size = ESA.min_size
    multi_adds_rule = "conv"

    def __init__(
        self, *, scale: int, num_feat: int = 48, num_block: int = 4, upsampler: UpsamplerFactory | None = None
    ) -> None:
        super().__init__(scale=scale)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(RepRFB(num_feat) for _ in range(num_block))
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: a chain of blocks within one residual, then the tail."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = through(self.body, shallow)
        return self.tail(self.last(feat) + shallow)  # (N, 3, rH, rW)


class RepRFB(nn.Module):
    """Reparameterized residual feature block: three RepBlocks, a convolution, the residual, ESA.

    Args:
        num_feat: Input and output channels.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [RepBlock(num_feat), nn.LeakyReLU(0.05, inplace=True)]
        layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), nn.LeakyReLU(0.05, inplace=True)]
        self.refine = nn.Sequential(*layers)
        self.esa = ESA(num_feat, form="rlfn")

    def forward(self, x: Tensor) -> Tensor:
        """Refine, then weight the positions."""
        return self.esa(x + self.refine(x))


class RepBlock(RepConv):
    """Nine branches that fold into one 3x3 convolution.

    These are 3x3, 3x1, 1x3 and 1x1 convolutions, a wide one without biases, three edge filters and the
    identity.

    Args:
        num_feat: Input and output channels; the wide branch has twice as many.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv3x1 = nn.Conv2d(num_feat, num_feat, (3, 1), padding=(1, 0))
        self.conv1x3 = nn.Conv2d(num_feat, num_feat, (1, 3), padding=(0, 1))
        self.conv1x1 = nn.Conv2d(num_feat, num_feat, 1)
        self.expand = nn.Conv2d(num_feat, 2 * num_feat, 1, padding=1, bias=False)
        self.reduce = nn.Conv2d(2 * num_feat, num_feat, 3, bias=False)
        self.sobel_x = EdgeConv(num_feat, num_feat, edge="sobel_x")
        self.sobel_y = EdgeConv(num_feat, num_feat, edge="sobel_y")
        self.laplacian = EdgeConv(num_feat, num_feat, edge="laplacian")

    def branches(self, x: Tensor) -> Tensor:
        """The sum of all branches."""
        small: Tensor = self.conv3x3(x) + self.conv3x1(x) + self.conv1x3(x) + self.conv1x1(x)
        edges: Tensor = self.sobel_x(x) + self.sobel_y(x) + self.laplacian(x)
        wide: Tensor = self.reduce(self.expand(x))
        return small + edges + wide + x

    def merged(self) -> Kernel:
        """The convolution whose kernel is the sum of the branches' kernels."""
        kernel = Kernel.of(self.reduce).after(Kernel.of(self.expand))
        for conv in (self.conv3x3, self.conv3x1, self.conv1x3, self.conv1x1):
            kernel = kernel + Kernel.of(conv)
        for edge in (self.sobel_x, self.sobel_y, self.laplacian):
            kernel = kernel + edge.merged()
        return kernel + kernel.identity()


_REPBLOCK_NAMES: Names = {
    "rbr_{i}x{j}_branch": "conv{i}x{j}",
    "rbr_1x1_3x3_branch_1x1": "expand",
    "rbr_1x1_3x3_branch_3x3": "reduce",
    "rbr_conv1x1_sbx_branch": ("sobel_x", EDGE_NAMES),
    "rbr_conv1x1_sby_branch": ("sobel_y", EDGE_NAMES),
    "rbr_conv1x1_lpl_branch": ("laplacian", EDGE_NAMES),
    "rbr_reparam": "folded",
}

_REPRFB_NAMES: Names = {
    "conv3": "refine.6",
    "repblock{i+1}": ("refine.{2i}", _REPBLOCK_NAMES),
    "esa": ("esa", RLFN_ESA_NAMES),
}

# Weight names in the authors' code, for the trained form and for the folded form, which it calls ``deploy``.
OFFICIAL_NAMES: Names = {
    "fea_conv": "head",
    "reprfb{i+1}": ("body.{i}", _REPRFB_NAMES),
    "lr_conv": "last",
    "upsampler.conv": "tail.0",
}
