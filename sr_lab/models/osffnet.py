"""OSFFNet: Omni-Stage Feature Fusion Network for Lightweight Image SR (Wang and Zhang, AAAI 2024).

Built from the paper; the authors' code was not available.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CCA, ESA
from sr_lab.layers.bsconv import ERB, BSConv
from sr_lab.layers.network import SRNetwork
from sr_lab.layers.osff import make_drfs
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class OSFFNet(SRNetwork):
    """Omni-stage feature fusion network (OSFFNet, Fig. 2, Eqs. 1 to 5).

    The shallow features F_s come from several copies of the image (OISI) and also enter every block (SFGC).
    The features of all stages are fused, each with its own receptive field (MFDF).

    Cost at x4: 29.3 G multiply-adds, of which the blocks take 22.9 G (their FFNs 7.5 G), the DRFs 2.5 G, the
    fusion 2.2 G and the tail 1.6 G. The printed 22.0 G omits the FFNs. The FFNs work on channels-last
    maps, so the channels-last memory format avoids copies.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4, and shows 16.
        num_feat: Width of the trunk (C), at least 16.
        num_block: Number of AEFDs (N); with ``mfdf`` at most as many as ``drf_kernels`` has entries.
        num_copies: Copies of the image that the head gets (O), at least 1.
        drf_kernels: Kernel size of each stage's DRF (D_s), odd; a shorter network uses the first
            ``num_block``.
        oisi: Original image stacked initialization; if off, the head gets one image.
        sfgc: Shallow feature global connection; if off, a block gets only the previous block's output.
        mfdf: Multi-receptive field dynamic fusion; if off, the stages are concatenated unchanged.
        esa: Use spatial attention in the AEFDs (Table 4).
        cca: Use channel attention in the AEFDs (Table 4); the DRFs keep theirs.
        drf: How a DRF combines its two branches, see ``DRF``; needs ``mfdf``.
        lambda_init: Initial value of the num_block - 1 weights lambda of Eq. 2.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail (Eq. 5).

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. H and W must be at least 15 with
        ``esa``.

    Raises:
        ConfigError: If a kernel size is even or missing, ``drf`` is unknown or chosen without ``mfdf``, or
            ``num_copies`` is below 1; in ``forward``, if lr is too small.

    Note:
        Eq. 6's d = 2 * floor(k / 2) + 1 contradicts the listed D_s = (1, 1, 3, 3, 5, 5, 7, 7). The printed
        counts fit the list, and one scalar lambda per block. Inferred: lambda starts at 1, and every
        activation is a GELU. Not stated in the paper; chosen here: the GELU between the two convolutions of
        H_Fusion (Eq. 4), as in BSRN.
    """

    multi_adds_rule = "torchinfo"
    min_size = ESA.min_size  # for the published network; 1 without ESA

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 8,
        num_copies: int = 8,
        drf_kernels: Sequence[int] = (1, 1, 3, 3, 5, 5, 7, 7),
        oisi: bool = True,
        sfgc: bool = True,
        mfdf: bool = True,
        esa: bool = True,
        cca: bool = True,
        drf: Literal["product", "gate"] = "product",
        lambda_init: float = 1.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_copies < 1:
            raise ConfigError(
                f"OSFF: the head needs an image, got num_copies={num_copies}; allowed: 1 or more"
            )
        self.min_size = ESA.min_size if esa else 1
        self.num_copies = num_copies if oisi else 1
        self.head = BSConv(3 * self.num_copies, num_feat)  # H_SF
        self.body = nn.ModuleList(AEFD(num_feat, esa=esa, cca=cca) for _ in range(num_block))
        self.sfgc = sfgc and num_block > 1  # the first block gets F_s itself
        if self.sfgc:
            self.lambdas = nn.Parameter(torch.full((num_block - 1,), lambda_init))
        self.drfs = make_drfs(num_feat, num_block, drf_kernels, join=drf, mfdf=mfdf)
        self.fusion = nn.Sequential(  # H_Fusion
            nn.Conv2d(num_block * num_feat, num_feat, 1), nn.GELU(), BSConv(num_feat, num_feat)
        )
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)  # H_rec

    @property
    def residual_units(self) -> list[nn.Module]:
        """The ERBs of the blocks, since an AEFD begins with a batch norm, which would undo any scaling."""
        return [getattr(block, name) for block in self.body for name in ("refine1", "refine2", "refine3")]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, Eqs. 1 to 5."""
        shallow = self.head(torch.cat([lr] * self.num_copies, dim=1))  # F_s (N, C, H, W), Eq. 1
        feat = shallow
        stages = []
        for k, (block, drf) in enumerate(zip(self.body, self.drfs, strict=True)):
            if self.sfgc and k > 0:
                feat = feat + self.lambdas[k - 1] * shallow
            feat = block(feat)  # F_k, Eq. 2
            stages.append(drf(feat))  # F_f^k, Eq. 3
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W), Eq. 4
        return self.tail(fused + shallow)  # Eq. 5


class AEFD(nn.Module):
    """Attention-enhanced feature distillation module (OSFFNet, Eqs. 7 to 10).

    Three steps each keep half the channels (distillation, H_D) and refine all of them (H_R); the kept
    features are fused, weighted by two attentions, and enhanced by a feed-forward network at each position.

    Args:
        num_feat: Input and output channels (C).
        esa: Add the spatial attention of Eq. 9.
        cca: Add the channel attention of Eq. 9.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The sentence after Eq. 7 swaps its symbols: according to the prose before it and to the counts, H_D is
        a 1x1 convolution and H_R an ERB. H_D^4 is a 3x3 BSConv according to the counts, as in BSRN. Inferred:
        GELU. Not stated in the paper; chosen here: one GELU on the concatenation, before the 1x1 of Eq. 8, as
        in BSRN.
    """

    def __init__(self, num_feat: int, *, esa: bool = True, cca: bool = True) -> None:
        super().__init__()
        num_distilled = num_feat // 2
        self.norm = nn.BatchNorm2d(num_feat)
        self.distil1 = nn.Conv2d(num_feat, num_distilled, 1)
        self.distil2 = nn.Conv2d(num_feat, num_distilled, 1)
        self.distil3 = nn.Conv2d(num_feat, num_distilled, 1)
        self.distil4 = BSConv(num_feat, num_distilled)
        self.refine1 = ERB(num_feat, 3)
        self.refine2 = ERB(num_feat, 3)
        self.refine3 = ERB(num_feat, 3)
        self.act = nn.GELU()
        self.fusion = nn.Conv2d(4 * num_distilled, num_feat, 1)
        self.esa = ESA(num_feat) if esa else nn.Identity()
        self.cca = CCA(num_feat) if cca else nn.Identity()
        self.ffn = FFN(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Eqs. 7 to 10."""
        normed = self.norm(x)  # f_bn, Eq. 7
        distilled1, refined1 = self.distil1(normed), self.refine1(normed)
        distilled2, refined2 = self.distil2(refined1), self.refine2(refined1 + normed)
        distilled3, refined3 = self.distil3(refined2), self.refine3(refined2 + normed)
        distilled4 = self.distil4(refined3)
        distilled = torch.cat((distilled1, distilled2, distilled3, distilled4), dim=1)  # (N, 2C, H, W)
        fused = self.fusion(self.act(distilled))  # (N, C, H, W), Eq. 8
        attended = self.cca(self.esa(fused)) + normed  # f_att, Eq. 9
        return self.ffn(attended) + attended  # Eq. 10


class FFN(nn.Module):
    """Feed-forward network of a transformer (OSFFNet, Eq. 10): LayerNorm, then an MLP, at each position.

    Args:
        num_feat: Input and output channels (C); the MLP is twice as wide.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        The MLP has linear layers rather than 1x1 convolutions, which would compute the same: the printed 22.0
        G (not 29.6 G) comes from a counter that counts a linear layer once per image.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_feat)
        self.mlp = nn.Sequential(
            nn.Linear(num_feat, 2 * num_feat), nn.GELU(), nn.Linear(2 * num_feat, num_feat)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute Eq. 10 without its residual."""
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        return self.mlp(self.norm(x)).permute(0, 3, 1, 2)  # (N, C, H, W)
