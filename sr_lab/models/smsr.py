"""SMSR: Exploring Sparsity in Image Super-Resolution for Efficient Inference (Wang et al., CVPR 2021).

Authors' code: github.com/The-Learning-And-Vision-Atelier-LAVA/SMSR (no licence stated).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CA
from sr_lab.layers.image import ImageRange, upscaled, without_mean_shift
from sr_lab.layers.network import SRNetwork, stages_of
from sr_lab.layers.precision import widened
from sr_lab.ops.renaming import CA_NAMES, Names, OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class SMSR(SRNetwork):
    """Sparse mask network: masks mark the channels and positions where computation can be skipped.

    Training draws soft masks with Gumbel noise from torch's generator. Evaluation uses hard masks without
    noise, and computes everything densely, which gives the same image as the authors' sparse kernels but
    without their savings.

    Cost at x4: 89.0 G multiply-adds, since dense and sparse channels are convolved separately; sparse kernels
    need at most two thirds of that.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk, at least 16.
        num_block: Number of SMMs.
        tau: Temperature of the soft masks, greater than 0.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``tau`` is not above 0.

    Note:
        Everything follows the authors' code, which takes only even sizes; here an odd size is rounded up
        inside the mask branch. A layer's input is weighted by the mask of the layer before it, as in their
        inference code; their training code uses the layer's own mask. Left out: the loss that makes the masks
        sparse (0.1 times their mean). Their trainer is meant to anneal tau from 1 to 0.4, but calls a method
        that no module has, so tau stays at 1. The printed counts leave out the 2560 channel mask weights.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 5,
        tau: float = 1.0,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if tau <= 0:
            raise ConfigError(f"model=smsr: tau must be above 0, e.g. 1, got tau={tau}")
        self.image_range = ImageRange(gain=255)
        self.head = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )
        self.body = nn.ModuleList(SMM(num_feat, tau=tau) for _ in range(num_block))
        self.fusion = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: fuse the outputs of all modules, apply the tail, add the upscaled image."""
        image = self.image_range(lr)
        shallow = self.head(image)  # (N, C, H, W)
        stages = stages_of(self.body, shallow)
        fused = self.fusion(torch.cat(stages, dim=1))  # (N, num_block * C, H, W) -> (N, C, H, W)
        sr: Tensor = self.tail(fused + shallow) + upscaled(image, self.scale)  # (N, 3, rH, rW)
        return self.image_range.restore(sr)


class SMM(nn.Module):
    """Sparse mask module: a mask of positions, the convolutions that it masks, and channel attention.

    Args:
        num_feat: Input and output channels (C).
        tau: Temperature of the soft masks.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, tau: float) -> None:
        super().__init__()
        self.tau = tau
        num_mask_feat = num_feat // 4
        self.mask = nn.Sequential(
            nn.Conv2d(num_feat, num_mask_feat, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(num_mask_feat, num_mask_feat, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(num_mask_feat, 2, 3, stride=2, padding=1, output_padding=1),
        )
        self.smb = SMB(num_feat, tau=tau)
        self.ca = CA(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the mask, run the masked convolutions and the attention, add the input."""
        height, width = x.shape[-2:]
        logits = self.mask(x)[..., :height, :width]  # (N, 2, H, W)
        if self.training:
            positions = F.gumbel_softmax(widened(logits), tau=self.tau, dim=1)[:, 1:]
        else:
            positions = logits[:, 1:] > logits[:, :1]
        return self.ca(self.smb(x, positions.to(x.dtype))) + x


class SMB(nn.Module):
    """Sparse masked convolutions: four 3x3 convolutions, whose outputs are all fused.

    Each layer has its own mask over the channels: a dense channel is computed everywhere, a sparse channel
    only at the marked positions. The outputs computed from sparse channels are used only at those positions.

    Args:
        num_feat: Input and output channels (C).
        num_conv: Number of 3x3 convolutions.
        tau: Temperature of the soft masks.

    Shape:
        Features ``(N, C, H, W)`` and a mask of positions ``(N, 1, H, W)`` in [0, 1] -> features of the same
        shape.
    """

    def __init__(self, num_feat: int, *, num_conv: int = 4, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.channel_logits = nn.Parameter(torch.rand(1, num_feat, num_conv, 2))  # dense, sparse
        self.convs = nn.ModuleList(
            nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False) for _ in range(num_conv)
        )
        self.act = nn.ReLU()
        self.collect = nn.Conv2d(num_conv * num_feat, num_feat, 1)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Run the convolutions in turn, on dense and sparse channels separately."""
        if self.training:
            channels = F.gumbel_softmax(self.channel_logits, tau=self.tau, dim=-1)
        else:
            channels = self.channel_logits.softmax(dim=-1).round()
        masks = [(mask[..., :1], mask[..., 1:]) for mask in channels.to(x.dtype).unsqueeze(3).unbind(dim=2)]
        feat = x
        stages = []
        for k, conv in enumerate(self.convs):
            dense, sparse = masks[k]  # (1, C, 1, 1)
            computed = dense + sparse * positions  # (N, C, H, W)
            if k == 0:
                feat = conv(feat) * computed
            else:
                dense_in, sparse_in = masks[k - 1]
                from_sparse = conv(feat * sparse_in) * (dense + sparse) * positions
                feat = conv(feat * dense_in) * computed + from_sparse
            feat = self.act(feat)
            stages.append(feat)
        return self.collect(torch.cat(stages, dim=1))  # (N, num_conv * C, H, W) -> (N, C, H, W)


_SMM_NAMES: Names = {
    "spa_mask": "mask",
    "body.ch_mask": "smb.channel_logits",
    "body.body": "smb.convs",
    "body.collect": "smb.collect",
    "ca": ("ca", CA_NAMES),
}

# Weight names in the authors' code.
OFFICIAL_NAMES = (
    OfficialNames(
        {"head": "head", "body.{i}": ("body.{i}", _SMM_NAMES), "collect": "fusion", "tail": "tail"},
        prepare=partial(without_mean_shift, gain=255),
    ),
)
