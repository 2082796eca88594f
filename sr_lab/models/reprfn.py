"""RepRFN: Reparameterized Residual Feature Network for Lightweight Image SR (Deng et al., CVPRW 2023)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.layers.attention import ESA
from sr_lab.layers.reparam import EdgeConv, Kernel, RepConv
from sr_lab.ops.renaming import ESA_KEYS, KeyRule, rename
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class RepRFN(nn.Module):
    """Residual feature network with re-parameterised convolutions (github.com/laonafahaodange/RepRFN).

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of RepRFBs.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W of at least 15.

    Raises:
        ConfigError: In ``forward``, if lr is too small.

    Note:
        From the authors' code; folded, its sizes are the printed ones.
    """

    colour: ClassVar[str] = "rgb"
    min_size: ClassVar[int] = ESA.min_size
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 48,
        num_block: int = 4,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        make_tail = SubpixelUpsampler if upsampler is None else upsampler
        self.scale = scale
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(RepRFB(num_feat) for _ in range(num_block))
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: a chain of blocks within one residual, then the tail."""
        shallow = self.head(lr)  # (N, C, H, W)
        feat = shallow
        for block in self.body:
            feat = block(feat)
        sr: Tensor = self.tail(self.last(feat) + shallow)  # (N, 3, rH, rW)
        return sr


class RepRFB(nn.Module):
    """Reparameterized residual feature block: three RepBlocks, a convolution, the residual, ESA.

    Args:
        num_feat: Channels in and out.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
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
        """Refine, then weigh the positions."""
        out: Tensor = self.esa(x + self.refine(x))
        return out


class RepBlock(RepConv):
    """Nine branches that fold into one 3x3 convolution.

    Convolutions of 3x3, 3x1, 1x3 and 1x1, a wide one without biases, three for edges, and the identity.

    Args:
        num_feat: Channels in and out; the wide branch has twice as many inside.

    Shape:
        ``(N, num_feat, H, W)`` -> the same.
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
        """The sum of their kernels."""
        kernel = Kernel.of(self.reduce).after(Kernel.of(self.expand))
        for conv in (self.conv3x3, self.conv3x1, self.conv1x3, self.conv1x1):
            kernel = kernel + Kernel.of(conv)
        for edge in (self.sobel_x, self.sobel_y, self.laplacian):
            kernel = kernel + edge.merged()
        return kernel + kernel.identity()


# The authors' names and ours. Their blocks count from 1; the edge filters are constants here.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"\.mask$", None),
    (r"^fea_conv\.", "head."),
    (r"^reprfb(\d+)\.", lambda match: f"body.{int(match[1]) - 1}."),
    (r"^lr_conv\.", "last."),
    (r"^upsampler\.conv\.", "tail.0."),
    (r"\.repblock([1-3])\.", lambda match: f".refine.{2 * int(match[1]) - 2}."),
    (r"^(body\.\d+)\.conv3\.", r"\1.refine.6."),
    (r"\.rbr_reparam\.", ".folded."),
    (r"\.rbr_1x1_3x3_branch_1x1\.", ".expand."),
    (r"\.rbr_1x1_3x3_branch_3x3\.", ".reduce."),
    (r"\.rbr_(\dx\d)_branch\.", r".conv\1."),
    (r"\.rbr_conv1x1_sbx_branch\.", ".sobel_x."),
    (r"\.rbr_conv1x1_sby_branch\.", ".sobel_y."),
    (r"\.rbr_conv1x1_lpl_branch\.", ".laplacian."),
    (r"\.k0$", ".conv.weight"),
    (r"\.b0$", ".conv.bias"),
    (r"\.scale$", ".strength"),
    (r"\.esa\.conv3\.", ".esa.context.0."),
    *ESA_KEYS,
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/laonafahaodange/RepRFN.

    Args:
        state: Tensors under the authors' names, trained or of their ``deploy`` form.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``RepRFN``, folded if they are of the ``deploy`` form.
    """
    return rename(state, _OFFICIAL_KEYS)
