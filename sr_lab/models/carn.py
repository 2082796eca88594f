"""CARN: Fast, Accurate, and Lightweight SR with Cascading Residual Network (Ahn et al., ECCV 2018).

Authors' code: github.com/nmhkahn/CARN-pytorch (MIT).
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.image import ImageRange, without_mean_shift
from sr_lab.layers.network import SRNetwork
from sr_lab.ops.renaming import Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


class CARN(SRNetwork):
    """Cascading residual network, as in its authors' code.

    Blocks cascade, and so do the residual units inside a block: after each of them, a 1x1 convolution fuses
    all features so far. The defaults are CARN; CARN-M has ``groups=4`` and ``recursive=True``.

    Cost at x4: 90.9 G multiply-adds, 44.6 G of them in the blocks and 42.5 G in the tail's steps; CARN-M
    takes 32.5 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk.
        num_block: Number of cascading blocks.
        groups: Number of groups of the 3x3 convolutions in the units (then efficient residual blocks) and in
            the paper's tail; ``None`` gives plain units and a plain tail.
        recursive: Whether the three units of a cascading block share their weights.
        upsampler: Factory for the tail; ``None`` builds the paper's tail, which is EDSR's tail with a ReLU
            before each shuffle.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``groups`` does not divide ``num_feat``.

    Note:
        The paper counts one network for all scales, with three tails: 1592 K for CARN. This network has only
        the tail for its own scale. The groups in CARN-M's tail are from the authors' code, whose earlier
        version had 1x1 convolutions there.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 3,
        groups: int | None = None,
        recursive: bool = False,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if groups is not None and (groups < 1 or num_feat % groups):
            raise ConfigError(
                f"CARN: cannot split num_feat={num_feat} channels into groups={groups}; "
                "allowed: a divisor of num_feat, or null for plain units"
            )
        make_tail = (
            partial(StepwiseUpsampler, act=True, groups=groups or 1) if upsampler is None else upsampler
        )
        self.image_range = ImageRange()
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            CascadingBlock(num_feat, groups=groups, recursive=recursive) for _ in range(num_block)
        )
        self.fusions = _make_fusions(num_feat, num_block)
        self.tail = make_tail(num_feat=num_feat, num_out_ch=3, scale=scale)

    @property
    def residual_units(self) -> list[nn.Module]:
        """The residual units of all blocks."""
        return [unit for block in self.body for unit in block.get_submodule("units").children()]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the cascade of blocks, then the tail; there is no long skip."""
        shallow = self.head(self.image_range(lr))  # (N, C, H, W)
        sr: Tensor = self.tail(_cascade(shallow, self.body, self.fusions))  # (N, 3, rH, rW)
        return self.image_range.restore(sr)


class CascadingBlock(nn.Module):
    """Cascading block: three residual units, each followed by a fusion of all features so far.

    Args:
        num_feat: Input and output channels.
        groups: See ``CARN``.
        recursive: Whether the three units share their weights.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, groups: int | None, recursive: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            ResidualUnit(num_feat, groups=groups) for _ in range(1 if recursive else 3)
        )
        self.fusions = _make_fusions(num_feat, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run the units as a cascade."""
        uses = len(self.fusions) // len(self.units)  # runs of each unit: 3 if shared, else 1
        return _cascade(x, list(self.units) * uses, self.fusions)


class ResidualUnit(nn.Module):
    """Residual block with an activation after the sum; with groups, the paper's efficient residual block.

    Args:
        num_feat: Input and output channels.
        groups: Groups of both 3x3 convolutions; a 1x1 convolution then mixes the groups. ``None`` means
            neither groups nor a 1x1 convolution.

    Shape:
        ``(N, num_feat, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, groups: int | None) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=groups or 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=groups or 1),
        )
        if groups is not None:
            self.residual.extend([nn.ReLU(inplace=True), nn.Conv2d(num_feat, num_feat, 1)])
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``ReLU(x + residual(x))``."""
        return self.act(x + self.residual(x))


def _make_fusions(num_feat: int, number: int) -> nn.ModuleList:
    """The 1x1 convolutions of a cascade; the k-th gets the input and the first k blocks' outputs."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d((k + 1) * num_feat, num_feat, 1), nn.ReLU(inplace=True))
        for k in range(1, number + 1)
    )


def _cascade(x: Tensor, blocks: Iterable[nn.Module], fusions: nn.ModuleList) -> Tensor:
    """Run blocks, each on the last fusion's output; a fusion gets the input and all block outputs so far."""
    stages = out = x
    for block, fusion in zip(blocks, fusions, strict=True):
        stages = torch.cat((stages, block(out)), dim=1)
        out = fusion(stages)
    return out


_CASCADE_NAMES: Names = {"c{i+1}.body": "fusions.{i}"}

_NAMES: Names = {
    "entry": "head",
    "b{i+1}": ("body.{i}", {"b{j+1}.body": "units.{j}.residual", **_CASCADE_NAMES}),
    **_CASCADE_NAMES,
    "exit": "tail.{t-1}",
}

# Weight names in the authors' networks for one scale and for all scales (of which one tail is kept).
OFFICIAL_NAMES = (
    OfficialNames({**_NAMES, "upsample.up.body": "tail"}, {"t": "tail"}, partial(without_mean_shift, gain=1)),
    OfficialNames(
        {**_NAMES, "upsample.up{r}.body": "tail", "upsample": None},
        {"t": "tail"},
        partial(without_mean_shift, gain=1),
    ),
)
