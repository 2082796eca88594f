"""ECBSR: Edge-oriented Convolution Block for Real-time SR on Mobile Devices (Zhang et al., ACM MM 2021)."""

import re
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.layers.image import ImageRange, upscaled
from sr_lab.layers.reparam import EdgeConv, Kernel, RepConv
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.types import UpsamplerFactory


class ECBSR(nn.Module):
    """Plain chain of edge-oriented convolution blocks on the luma, for mobile devices.

    Folded it is a stack of 3x3 convolutions with PReLUs between them, and nothing else to keep in memory.

    Args:
        scale: Upscaling factor r; the paper has 2 and 4.
        num_feat: Width of the trunk (C): 8, 16, 32 or 64.
        num_block: Number of ECBs between the first and the last (M): 4, 10 or 16.
        identity: Gives the ECBs an identity branch where they keep the number of channels; off in the
            authors' configurations.
        upsampler: Factory for the tail; ``None`` builds the paper's ECB and pixel shuffle.

    Shape:
        lr ``(N, 1, H, W)`` in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Note:
        From the authors' code: works in 0..255; the image is added to every channel before the shuffle,
        which is its nearest-neighbour enlargement. The 596 K and 137.3 G that are printed for the default at
        x2 fit one value more for each channel of each PReLU than the 594.9 K here (so do those at x4).
    """

    colour: ClassVar[str] = "y"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "torchinfo"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 16,
        identity: bool = False,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        make_tail = partial(ECBUpsampler, identity=identity) if upsampler is None else upsampler
        self.scale = scale
        self.image_range = ImageRange(mean=(0.0,), gain=255)
        self.head = nn.Sequential(ECB(1, num_feat, identity=identity), nn.PReLU(num_feat))
        self.body = nn.ModuleList(
            nn.Sequential(ECB(num_feat, num_feat, identity=identity), nn.PReLU(num_feat))
            for _ in range(num_block)
        )
        self.tail = make_tail(num_feat=num_feat, num_out_ch=1, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr: one block after the other, and the image beside them."""
        feat = self.head(self.image_range(lr))  # (N, C, H, W)
        for block in self.body:
            feat = block(feat)
        residual: Tensor = self.image_range.restore(self.tail(feat))  # (N, 1, rH, rW)
        return residual + upscaled(lr, self.scale, mode="nearest")


class ECB(RepConv):
    """Edge-oriented convolution block: a 3x3 convolution, a wide one, and three that look for edges.

    Args:
        num_in_ch: Channels in.
        num_out_ch: Channels out; the wide branch has twice as many inside.
        identity: Adds the input where the number of channels stays.

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
        """The sum of their kernels."""
        kernel = Kernel.of(self.conv) + Kernel.of(self.reduce).after(Kernel.of(self.expand))
        kernel = kernel + self.sobel_x.merged() + self.sobel_y.merged() + self.laplacian.merged()
        return kernel + kernel.identity() if self.identity else kernel


class ECBUpsampler(nn.Sequential):
    """The tail of ECBSR: an ECB to r^2 values for each channel of the image, then the pixel shuffle.

    Args:
        num_feat: Channels in.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r.
        identity: See ``ECB``.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int, identity: bool = False) -> None:
        super().__init__(ECB(num_feat, num_out_ch * scale**2, identity=identity), nn.PixelShuffle(scale))


# The authors' names of an ECB's branches and ours. The edge filters are constants here.
_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"\.mask$", None),
    (r"\.act\.", ".1."),
    (r"\.conv1x1_3x3\.([kb])0$", r".0.expand.\1"),
    (r"\.conv1x1_3x3\.([kb])1$", r".0.reduce.\1"),
    (r"\.conv1x1_sbx\.", ".0.sobel_x."),
    (r"\.conv1x1_sby\.", ".0.sobel_y."),
    (r"\.conv1x1_lpl\.", ".0.laplacian."),
    (r"\.([kb])0$", r".conv.\1"),
    (r"\.k$", ".weight"),
    (r"\.b$", ".bias"),
    (r"\.scale$", ".strength"),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/xindongzhang/ECBSR.

    Args:
        state: Tensors under the authors' names, of their ``ECBSR`` or of the ``PlainSR`` that it folds into.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``ECBSR``, folded if they are of a ``PlainSR``.
    """
    stages = [int(match[1]) for name in state if (match := re.match(r"backbone\.(\d+)\.", name))]
    trained = any(".conv1x1_3x3." in name for name in state)

    def part(match: re.Match[str]) -> str:
        stage = int(match[1])
        return "head." if stage == 0 else "tail." if stage == max(stages) else f"body.{stage - 1}."

    rules: tuple[KeyRule, ...] = (
        (r"^backbone\.(\d+)\.", part),
        (r"\.conv3x3\.", ".0.conv." if trained else ".0.folded."),
    )
    return rename(state, rules + _OFFICIAL_KEYS)
