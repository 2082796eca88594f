"""IMDN with the OSFF architecture (OSFFNet, Wang and Zhang, AAAI 2024, Table 3).

Built from the paper; its code was not available. IMDN's code: github.com/Zheng222/IMDN (no licence stated).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.distillation import IMDB, stage_fusion
from sr_lab.layers.network import SRNetwork
from sr_lab.layers.osff import make_drfs
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class IMDNWithOSFF(SRNetwork):
    """IMDN whose blocks also get the shallow features and are fused by OSFF (OSFFNet, Eqs. 1 to 6).

    Parts shared with IMDN have the same names, so the weights of our IMDN can initialise this network. With
    ``oisi``, ``sfgc`` and ``mfdf`` off, this network is IMDN.

    Cost at x4: 43.3 G multiply-adds, 34.2 G of them in the 3x3 convolutions of the blocks; OSFF adds 2.4 G,
    1.7 G of them in the DRFs.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (C).
        num_block: Number of IMDBs (N); with ``mfdf`` at most as many as ``drf_kernels`` has entries.
        distillation_rate: Share of the channels that each step of an IMDB sets aside, in (0, 1).
        cca_reduction: Reduction of the channel attention in the IMDBs.
        num_copies: Copies of the image that the head gets (O), at least 1.
        drf_kernels: Kernel size of each stage's DRF (D_s), odd; the first ``num_block`` are used.
        oisi: Original image stacked initialization; if off, the head gets one image.
        sfgc: Shallow feature global connection; if off, a block gets only the previous block's output.
        mfdf: Multi-receptive field dynamic fusion; if off, the stages are concatenated unchanged.
        drf: How a DRF combines its two branches, see ``sr_lab.layers.osff.DRF``; needs ``mfdf``.
        lambda_init: Initial value of the num_block - 1 weights lambda of Eq. 2.
        upsampler: Factory for the tail; ``None`` builds the sub-pixel tail of both papers.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If a kernel size is even or missing, ``drf`` is unknown or chosen without ``mfdf``, or
            ``num_copies`` is below 1.

    Note:
        The paper prints counts but does not describe the layers. The counts fit IMDN's own head, a plain
        convolution, on 24 channels (not the BSConv of Eq. 1), one scalar lambda per block, and DRFs before
        IMDN's own fusion. Inferred: lambda starts at 1.
    """

    multi_adds_rule = "torchinfo"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 6,
        distillation_rate: float = 0.25,
        cca_reduction: int = 16,
        num_copies: int = 8,
        drf_kernels: Sequence[int] = (1, 1, 3, 3, 5, 5),
        oisi: bool = True,
        sfgc: bool = True,
        mfdf: bool = True,
        drf: Literal["product", "gate"] = "product",
        lambda_init: float = 1.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_copies < 1:
            raise ConfigError(
                f"OSFF: the head needs an image, got num_copies={num_copies}; allowed: 1 or more"
            )
        self.num_copies = num_copies if oisi else 1
        self.head = nn.Conv2d(3 * self.num_copies, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            IMDB(num_feat, distillation_rate=distillation_rate, cca_reduction=cca_reduction)
            for _ in range(num_block)
        )
        self.sfgc = sfgc and num_block > 1  # the first block gets F_s itself
        if self.sfgc:
            self.lambdas = nn.Parameter(torch.full((num_block - 1,), lambda_init))
        self.drfs = make_drfs(num_feat, num_block, drf_kernels, join=drf, mfdf=mfdf)
        self.fusion = stage_fusion(num_feat, num_block)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, Eqs. 1 to 5 around IMDN's blocks."""
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
