"""Distillation blocks, in which each step keeps a share of the features and refines the rest."""

from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CCA, ESA
from sr_lab.layers.network import check_choice


class IMDB(nn.Module):
    """Information multi-distillation block (IMDN, Hui et al., ACM MM 2019): split, keep, refine the rest.

    Args:
        num_feat: Input and output channels (C).
        distillation_rate: Share of C that each step keeps.
        cca_reduction: Reduction of the channel attention; ``None`` leaves the attention out.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If the rate keeps no channels or all channels.
    """

    def __init__(
        self, num_feat: int, *, distillation_rate: float = 0.25, cca_reduction: int | None = 16
    ) -> None:
        super().__init__()
        num_kept = int(num_feat * distillation_rate)
        if not 0 < num_kept < num_feat:
            raise ConfigError(
                f"IMDB: distillation_rate={distillation_rate} keeps {num_kept} of {num_feat} channels; "
                "allowed: a rate in (0, 1) that keeps at least one channel and passes on at least one"
            )
        num_rest = num_feat - num_kept
        self.split_sizes = (num_kept, num_rest)
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_rest, num_feat, 3, padding=1)
        self.conv3 = nn.Conv2d(num_rest, num_feat, 3, padding=1)
        self.conv4 = nn.Conv2d(num_rest, num_kept, 3, padding=1)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.cca = nn.Identity() if cca_reduction is None else CCA(4 * num_kept, reduction=cca_reduction)
        self.fusion = nn.Conv2d(4 * num_kept, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Distil three times, fuse the kept features."""
        kept1, rest = self.act(self.conv1(x)).split(self.split_sizes, dim=1)
        kept2, rest = self.act(self.conv2(rest)).split(self.split_sizes, dim=1)
        kept3, rest = self.act(self.conv3(rest)).split(self.split_sizes, dim=1)
        kept4 = self.conv4(rest)  # no activation
        distilled = torch.cat((kept1, kept2, kept3, kept4), dim=1)  # (N, 4 * num_kept, H, W)
        return self.fusion(self.cca(distilled)) + x


class RFDB(nn.Module):
    """Residual feature distillation block (RFDN, Liu et al., ECCVW 2020).

    Each of three steps reduces its input to half the channels by a 1x1 convolution and keeps the result; it
    also refines all channels of its input for the next step.

    Args:
        num_feat: Input and output channels (C).
        attention: Attention over positions (``esa``, in the challenge network) or channels (``cca``, in the
            paper).
        residual: Add the block's input; the refinements always have their own residuals.

    Shape:
        ``(N, C, H, W)`` -> the same shape; with ``esa`` H and W must be at least ``ESA.min_size``.

    Raises:
        ConfigError: If ``attention`` is unknown.

    Note:
        The authors published the block of their challenge network, with ESA and no residual around the block,
        and say that the paper's block has a residual. Fitted to the paper's counts: CCA's reduction of 4.
        Inferred: CCA takes ESA's position.
    """

    def __init__(
        self, num_feat: int, *, attention: Literal["esa", "cca"] = "esa", residual: bool = False
    ) -> None:
        super().__init__()
        check_choice("RFDB", "attention", attention, "esa", "cca")
        num_kept = num_feat // 2
        self.distil1 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil2 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil3 = nn.Conv2d(num_feat, num_kept, 1)
        self.distil4 = nn.Conv2d(num_feat, num_kept, 3, padding=1)
        self.refine1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.refine2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.refine3 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.fusion = nn.Conv2d(4 * num_kept, num_feat, 1)
        self.esa = (
            ESA(num_feat, num_squeezed=num_feat // 4, form="rfdn") if attention == "esa" else nn.Identity()
        )
        self.cca = CCA(num_feat, reduction=4) if attention == "cca" else nn.Identity()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Distil three times, fuse the kept features, weight them."""
        refined1 = self.act(self.refine1(x) + x)
        refined2 = self.act(self.refine2(refined1) + refined1)
        refined3 = self.act(self.refine3(refined2) + refined2)
        kept = (self.distil1(x), self.distil2(refined1), self.distil3(refined2), self.distil4(refined3))
        distilled = self.act(torch.cat(kept, dim=1))  # (N, 4 * num_kept, H, W)
        out: Tensor = self.cca(self.esa(self.fusion(distilled)))
        return out + x if self.residual else out


def stage_fusion(num_feat: int, num_block: int) -> nn.Sequential:
    """The layers that fuse the outputs of all blocks in IMDN and RFDN: Conv1x1, LeakyReLU, Conv3x3.

    Args:
        num_feat: Channels of each block and of the result (C).
        num_block: Number of blocks.
    """
    return nn.Sequential(
        nn.Conv2d(num_block * num_feat, num_feat, 1),
        nn.LeakyReLU(0.05, inplace=True),
        nn.Conv2d(num_feat, num_feat, 3, padding=1),
    )
