"""LAPAR: Linearly-Assembled Pixel-Adaptive Regression Network for SISR (Li et al., NeurIPS 2020).

Authors' code: github.com/dvlab-research/Simple-SR (MIT).
"""

import math
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.layers.image import ImageRange, check_min_size, upscaled
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.weighted import AWMS, LFB, wn_conv
from sr_lab.ops.renaming import AWMS_NAMES, LFB_NAMES, Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class LAPAR(SRNetwork):
    """Filters the bicubically upscaled image, with a different mix of 72 fixed filters at each pixel.

    The network computes the coefficients of each mix from lr.

    Cost at x4: 93.7 G multiply-adds of convolutions, 59.7 G of them at output size. Like the printed 94 G,
    this excludes mixing the filters and applying them.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the network: 32 in LAPAR-A, 24 in LAPAR-B, 16 in LAPAR-C.
        num_block: Number of LFBs: 4 in LAPAR-A, 3 in LAPAR-B, 2 in LAPAR-C.
        upsampler: Must be ``None``: there is no tail to replace.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 2.

    Raises:
        ConfigError: If ``upsampler`` is given; in ``forward``, if lr is too small.

    Note:
        Everything follows the authors' code, whose checkpoints load and contain their own filters. For the
        filters of a new network see ``gaussian_dictionary``.
    """

    min_size = 2  # reflection at the border of the upscaled image
    multi_adds_rule = "conv"
    dictionary: Tensor

    def __init__(
        self, *, scale: int, num_feat: int = 32, num_block: int = 4, upsampler: UpsamplerFactory | None = None
    ) -> None:
        native_only("LAPAR", upsampler)
        super().__init__(scale=scale)
        # Stored in the state dict, since checkpoints contain their own filters.
        self.register_buffer("dictionary", gaussian_dictionary())
        self.image_range = ImageRange()
        self.head = nn.Sequential(wn_conv(3, num_feat), nn.ReLU(inplace=True))
        self.body = nn.ModuleList(LFB(num_feat, num_mid_feat=num_feat) for _ in range(num_block))
        self.tail = nn.Sequential(
            wn_conv(num_feat, num_feat * scale**2),
            nn.ReLU(inplace=True),
            nn.PixelShuffle(scale),
            AWMS(num_feat, num_feat, kernel_sizes=(3, 5)),
            wn_conv(num_feat, num_feat),
            nn.ReLU(inplace=True),
            wn_conv(num_feat, len(self.dictionary)),
        )

    @property
    def residual_units(self) -> list[nn.Module]:
        """The AWRUs of the blocks."""
        return [unit for block in self.body for unit in block.get_submodule("units").children()]

    def forward(self, lr: Tensor) -> Tensor:
        """Compute the coefficients, mix a filter for each pixel, filter the image."""
        check_min_size(lr, self.min_size, "LAPAR: the filtering")
        feat = through(self.body, self.head(self.image_range(lr)))  # (N, C, H, W)
        coefficients = self.tail(feat)  # (N, 72, rH, rW)
        # Mixing the filters first takes a third of the work of filtering 72 times, and less memory.
        filters = self.dictionary.flatten(1).t() @ coefficients.flatten(2)  # (N, 25, rH * rW)
        return _filtered(upscaled(lr, self.scale), filters.unflatten(2, coefficients.shape[2:]))


def _filtered(image: Tensor, filters: Tensor) -> Tensor:
    """An image filtered with a different filter at each pixel, the same for all channels.

    Args:
        image: ``(N, 3, H, W)``; it is reflected at its border.
        filters: ``(N, k * k, H, W)``, row by row.

    Returns:
        ``(N, 3, H, W)``.
    """
    size = math.isqrt(filters.shape[1])
    height, width = image.shape[-2:]
    padded = F.pad(image, [size // 2] * 4, mode="reflect")
    out = torch.zeros_like(image)
    for k in range(size**2):
        top, left = divmod(k, size)
        out = out + filters[:, k : k + 1] * padded[..., top : top + height, left : left + width]
    return out


def gaussian_dictionary() -> Tensor:
    """LAPAR's fixed filters: 24 anisotropic Gaussians and 48 differences of two of them.

    Returns:
        ``(72, 1, 5, 5)``; the values of a Gaussian sum to 1, those of a difference to 0.

    Note:
        Stated: anisotropic Gaussians and differences of Gaussians; the authors' code has 72 filters of 5x5.
        Not stated in the paper; chosen here: how many of each, and their widths, angles and elongations. The
        choice does not restrict the mixes: sums of centred Gaussians are symmetric about their centre, and
        these 72 span all 13 dimensions of such 5x5 filters.
    """
    angles = (torch.arange(8) * math.pi / 8).view(-1, 1, 1)
    offsets = torch.arange(-2.0, 3.0)
    y, x = offsets.view(-1, 1), offsets
    along = x * angles.cos() + y * angles.sin()  # (8, 5, 5)
    across = y * angles.cos() - x * angles.sin()

    def gaussians(sigma: float, elongation: float) -> Tensor:
        bells = torch.exp(-(along.square() / elongation + across.square() * elongation) / (2 * sigma**2))
        return bells / bells.sum(dim=(1, 2), keepdim=True)

    sigmas = (0.5, 1.0, 2.0)
    filters = [gaussians(sigma, 2.0) for sigma in sigmas]
    for elongation in (2.0, 4.0):
        filters += [gaussians(a, elongation) - gaussians(b, elongation) for a, b in combinations(sigmas, 2)]
    return torch.cat(filters).unsqueeze(1)


# Weight names in the authors' code.
OFFICIAL_NAMES: Names = {
    "w_conv.rgb_mean": None,
    "decom_conv.weight": "dictionary",
    "w_conv.head": "head",
    "w_conv.body.{i}": ("body.{i}", LFB_NAMES),
    "w_conv.up.0": "tail.0",
    "w_conv.tail.fuse": "tail.4",
    "w_conv.tail.w_conv": "tail.6",
    "w_conv.tail": ("tail.3", AWMS_NAMES),
}
