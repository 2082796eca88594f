"""ECBSR: Edge-oriented Convolution Block for Real-time SR on Mobile Devices (Zhang et al., ACM MM 2021).

Authors' code: github.com/xindongzhang/ECBSR (no licence stated).
"""

from functools import partial

from torch import Tensor, nn

from sr_lab.layers.image import ImageRange, upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.reparam import EdgeConv, Kernel, RepConv
from sr_lab.ops.renaming import EDGE_NAMES, Names, OfficialNames
from sr_lab.types import UpsamplerFactory


class ECBSR(SRNetwork):
    """Plain chain of edge-oriented convolution blocks on the luma, for mobile devices.

    Folded, it is a stack of 3x3 convolutions and PReLUs that keeps no earlier feature maps in memory.

    Args:
        scale: Upscaling factor r; the paper uses 2 and 4.
        num_feat: Width of the trunk (C): 8, 16, 32 or 64.
        num_block: Number of ECBs between the first ECB and the last (M): 4, 10 or 16.
        identity: Add an identity branch to the ECBs that keep the number of channels; off in the authors'
            configurations.
        upsampler: Factory for the tail; ``None`` builds the paper's ECB and pixel shuffle.

    Shape:
        lr ``(N, 1, H, W)`` in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Note:
        The range of 0..255 follows the authors' code, which adds the image to every channel before the
        shuffle; that amounts to nearest-neighbour upscaling. The 596 K and 137.3 G printed for x2, like
        the counts for x4, would fit PReLUs with one more parameter per channel; here x2 has 594.9 K.
    """

    colour = "y"
    multi_adds_rule = "torchinfo"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 16,
        identity: bool = False,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        make_tail = partial(ECBUpsampler, identity=identity) if upsampler is None else upsampler
        self.image_range = ImageRange(mean=(0.0,), gain=255)
        self.head = nn.Sequential(ECB(1, num_feat, identity=identity), nn.PReLU(num_feat))
        self.body = nn.ModuleList(
            nn.Sequential(ECB(num_feat, num_feat, identity=identity), nn.PReLU(num_feat))
            for _ in range(num_block)
        )
        self.tail = make_tail(num_feat=num_feat, num_out_ch=1, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the chain of blocks, plus the upscaled image."""
        feat = through(self.body, self.head(self.image_range(lr)))  # (N, C, H, W)
        residual: Tensor = self.image_range.restore(self.tail(feat))  # (N, 1, rH, rW)
        return residual + upscaled(lr, self.scale, mode="nearest")


class ECB(RepConv):
    """Edge-oriented convolution block: a 3x3 convolution, a wide branch, and three edge filters.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels; the wide branch has twice as many.
        identity: Add the input if the number of channels stays the same.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, *, identity: bool = False) -> None:
        super().__init__()
        self.identity = identity and num_in_ch == num_out_ch
        self.conv = nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1)
        self.expand = nn.Conv2d(num_in_ch, 2 * num_out_ch, 1, padding=1)
        self.reduce = nn.Conv2d(2 * num_out_ch, num_out_ch, 3)
        self.sobel_x = EdgeConv(num_in_ch, num_out_ch, edge="sobel_x")
        self.sobel_y = EdgeConv(num_in_ch, num_out_ch, edge="sobel_y")
        self.laplacian = EdgeConv(num_in_ch, num_out_ch, edge="laplacian")

    def branches(self, x: Tensor) -> Tensor:
        """The sum of all branches."""
        out: Tensor = self.conv(x) + self.reduce(self.expand(x))
        out = out + self.sobel_x(x) + self.sobel_y(x) + self.laplacian(x)
        return out + x if self.identity else out

    def merged(self) -> Kernel:
        """The convolution whose kernel is the sum of the branches' kernels."""
        kernel = Kernel.of(self.conv) + Kernel.of(self.reduce).after(Kernel.of(self.expand))
        kernel = kernel + self.sobel_x.merged() + self.sobel_y.merged() + self.laplacian.merged()
        return kernel + kernel.identity() if self.identity else kernel


class ECBUpsampler(nn.Sequential):
    """The tail of ECBSR: an ECB to r^2 channels for each channel of the image, then the pixel shuffle.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r.
        identity: See ``ECB``.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int, identity: bool = False) -> None:
        super().__init__(ECB(num_feat, num_out_ch * scale**2, identity=identity), nn.PixelShuffle(scale))


_TRAINED_NAMES: Names = {
    "conv3x3": "0.conv",
    "conv1x1_3x3.k0": "0.expand.weight",
    "conv1x1_3x3.b0": "0.expand.bias",
    "conv1x1_3x3.k1": "0.reduce.weight",
    "conv1x1_3x3.b1": "0.reduce.bias",
    "conv1x1_sbx": ("0.sobel_x", EDGE_NAMES),
    "conv1x1_sby": ("0.sobel_y", EDGE_NAMES),
    "conv1x1_lpl": ("0.laplacian", EDGE_NAMES),
    "act": "1",
}
_FOLDED_NAMES: Names = {"conv3x3": "0.folded", "act": "1"}

# Weight names in the authors' ``ECBSR``, and in the ``PlainSR`` into which it folds.
OFFICIAL_NAMES = tuple(
    OfficialNames(
        {
            "backbone.0": ("head", stage),
            "backbone.{n+1}": ("tail", stage),
            "backbone.{i+1}": ("body.{i}", stage),
        },
        {"n": "body"},
    )
    for stage in (_TRAINED_NAMES, _FOLDED_NAMES)
)
