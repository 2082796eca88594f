"""IMFM: lightweight SR by progressive feature fusion ("Improve Multi-scale Fine-grained Model").

Built from the paper; the authors' code was not available.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import MSWA
from sr_lab.layers.network import SRNetwork, check_choice, through
from sr_lab.layers.precision import widened
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.mwaum import MWAUM


class IMFM(SRNetwork):
    """Progressive feature fusion network (IMFM, Fig. 1, Eqs. 1 to 4).

    A chain of blocks, then an upsampler with pixel attention. A block has parallel paths, each of which
    passes its result to the next path. The bilinearly upscaled image is added to the output.

    Cost at x4: 46.5 G multiply-adds, 32.4 G of them in the blocks and 14.0 G in the upsampler (10.7 G at
    output size). The paths of a block run one after the other: 14 successive 3x3 convolutions in each block,
    on few channels, and 14 average poolings, which multiply-adds do not include. On a CPU the poolings take
    40 % of the time, and the channels-last layout makes the network 1.7 times as fast.

    Args:
        scale: Upscaling factor r: 2, 3 or 4 as in the paper, 8 or 16.
        num_feat: Width of the trunk.
        num_block: Number of PABs (n).
        num_path: Number of paths in a PAB (s), at least 1; needs ``pab``, as does ``num_path_feat``.
        num_path_feat: Channels of a path (m); ``None`` takes half of ``num_feat``.
        num_cam_feat: Inner channels of a CAM; needs ``cam``, as does ``cam_act``.
        pab: Progressive attention blocks; if off, each block is a residual chain of 3x3 convolutions.
        mswam: Multi-scale weights in the paths of the PABs and in the tail of ``upsampler=None``. An MWAUM
            given as ``upsampler`` keeps its multi-scale weights: with ``mswam=False``, the network at x4 then
            has 577,795 parameters instead of 576,595.
        cam: Coordinate attention in the PABs; needs ``pab``.
        window_sizes: Odd window sizes of the multi-scale weights, in pixels; an empty list gives plain pixel
            attention. Needs ``mswam``.
        cam_act: The activation delta of Eq. 9.
        upsampler: Factory for the tail; ``None`` builds the paper's MWAUM (Eq. 3).

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``num_path`` is below 1, a window is even, ``cam_act`` is unknown, or a setting
            applies to a part that is switched off.

    Note:
        The paper states the components, the 40 channels and Eqs. 1 to 13, but no other size. Inferred from
        the printed counts (which other layouts fit too): n = 7, s = 8, m = 20, PABs without biases except in
        their attentions, and a chain of 6 convolutions in place of a PAB. This network has 598.375 K
        parameters at x4; the paper prints 596.362 K (Table 3) and 670 K (Table 4). Eq. 3 is garbled in print;
        it is read as MWAUM(F_n + F_0). Not stated in the paper; chosen here: ``align_corners=False`` in the
        image skip.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 40,
        num_block: int = 7,
        num_path: int = 8,
        num_path_feat: int | None = None,
        num_cam_feat: int = 8,
        pab: bool = True,
        mswam: bool = True,
        cam: bool = True,
        window_sizes: Sequence[int] = (3, 5),
        cam_act: Literal["h_swish", "h_sigmoid"] = "h_swish",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if cam and not pab:
            raise ConfigError("IMFM: cam=true needs a PAB, got pab=false; allowed: cam=false, or pab=true")
        if num_path < 1:
            raise ConfigError(f"IMFM: a PAB needs paths, got num_path={num_path}; allowed: 1 or more")
        if not pab and (num_path, num_path_feat) != (8, None):
            raise ConfigError(
                f"IMFM: with pab=false there are no paths, got num_path={num_path}, "
                f"num_path_feat={num_path_feat}; leave num_path and num_path_feat out or set pab=true"
            )
        if not mswam and tuple(window_sizes) != (3, 5):
            raise ConfigError(
                f"IMFM: with mswam=false there are no windows, got window_sizes={tuple(window_sizes)}; "
                "leave window_sizes out or set mswam=true"
            )
        if not cam and (num_cam_feat, cam_act) != (8, "h_swish"):
            raise ConfigError(
                f"IMFM: with cam=false there is no CAM, got num_cam_feat={num_cam_feat}, cam_act={cam_act}; "
                "leave num_cam_feat and cam_act out or set cam=true"
            )
        own_tail = partial(MWAUM, attention=mswam, window_sizes=window_sizes)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            PAB(
                num_feat,
                num_path=num_path,
                num_path_feat=num_feat // 2 if num_path_feat is None else num_path_feat,
                window_sizes=window_sizes if mswam else None,
                cam=CAM(num_feat, num_squeezed=num_cam_feat, act=cam_act) if cam else None,
            )
            if pab
            else PlainBlock(num_feat)
            for _ in range(num_block)
        )
        self.tail = (upsampler or own_tail)(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, Eqs. 1 to 4."""
        shallow = self.head(lr)  # F_0 (N, C, H, W), Eq. 1
        feat = through(self.body, shallow)  # F_n, Eq. 2
        upsampled: Tensor = self.tail(feat + shallow)  # (N, 3, rH, rW), Eq. 3
        image = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return upsampled + image  # Eq. 4


class PAB(nn.Module):
    """Progressive attention block (IMFM, Sec. 2.3, Eq. 6): parallel paths, each fed by the previous path.

    Args:
        num_feat: Input and output channels (C).
        num_path: Number of paths (s).
        num_path_feat: Channels of a path (m).
        window_sizes: Windows for the weights in the paths, see ``MSWAM``.
        cam: Coordinate attention after the paths, if any.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Eq. 6 prints ``x_1 + y_{i-1}`` for the later paths; it is read as ``x_i + y_{i-1}``, and the text's
        ``m < s`` as m < C. Inferred: LeakyReLU of slope 0.2 (as in PAN) after the split and after each path,
        no biases, the position of the CAM (its input comes "after passing through a 1x1 convolution"). Not
        stated in the paper; chosen here: the 3x3 convolution at the end and the residual around the block.
    """

    def __init__(
        self,
        num_feat: int,
        *,
        num_path: int,
        num_path_feat: int,
        window_sizes: Sequence[int] | None,
        cam: nn.Module | None,
    ) -> None:
        super().__init__()
        self.num_path = num_path
        # The 1x1 convolutions of all paths, as one convolution.
        self.split = nn.Conv2d(num_feat, num_path * num_path_feat, 1, bias=False)
        self.paths = nn.ModuleList(
            MSWAM(num_path_feat, window_sizes=window_sizes) for _ in range(num_path - 1)
        )
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.fusion = nn.Conv2d(num_path * num_path_feat, num_feat, 1, bias=False)
        self.cam = nn.Identity() if cam is None else cam
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the paths (Eq. 6), then fuse them."""
        first, *subsets = self.act(self.split(x)).chunk(self.num_path, dim=1)  # s of (N, m, H, W)
        outputs = [first]  # y_1 = x_1, which no other path gets
        for i, (path, subset) in enumerate(zip(self.paths, subsets, strict=True)):
            outputs.append(self.act(path(subset if i == 0 else subset + outputs[-1])))
        fused = self.cam(self.fusion(torch.cat(outputs, dim=1)))  # (N, s * m, H, W) -> (N, C, H, W)
        return self.last(fused) + x


class MSWAM(nn.Module):
    """Multi-scale weight allocation module (IMFM, Sec. 2.2 and 2.3) in a path of a PAB.

    Two 3x3 convolutions; the features between them are weighted according to the module's input at several
    scales.

    Args:
        num_feat: Input and output channels (m).
        window_sizes: Windows for the weights in pixels, see ``MSWA``; ``None`` leaves the weights out.

    Shape:
        ``(N, m, H, W)`` -> the same shape.

    Note:
        Inferred: the paper describes the module without formulas, see ``MSWA``.
    """

    def __init__(self, num_feat: int, *, window_sizes: Sequence[int] | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.attention = None if window_sizes is None else MSWA(num_feat, window_sizes=window_sizes)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, weight, convolve."""
        feat = self.conv1(x)
        if self.attention is not None:
            feat = feat * self.attention(x)
        return self.conv2(feat)


class CAM(nn.Module):
    """Coordinate attention (IMFM, Fig. 2, Eqs. 7 to 12): Hou et al., CVPR 2021, without normalisation.

    A weight per channel and row is multiplied by a weight per channel and column, computed from H + W
    positions.

    Args:
        num_feat: Input and output channels (C).
        num_squeezed: Channels between the convolutions.
        act: The activation delta of Eq. 9.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If ``act`` is unknown.

    Note:
        The text calls delta "H Sigmoid", Fig. 2 "H_swish"; the default is the latter, which Hou et al.
        use. Inferred: 8 inner channels, from the max(8, C / 32) of Hou et al.
    """

    def __init__(
        self, num_feat: int, *, num_squeezed: int = 8, act: Literal["h_swish", "h_sigmoid"] = "h_swish"
    ) -> None:
        super().__init__()
        check_choice("IMFM", "cam_act", act, "h_swish", "h_sigmoid")
        self.squeeze = nn.Conv2d(num_feat, num_squeezed, 1)
        self.act = nn.Hardswish() if act == "h_swish" else nn.Hardsigmoid()
        self.excite_rows = nn.Conv2d(num_squeezed, num_feat, 1)
        self.excite_columns = nn.Conv2d(num_squeezed, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weight rows and columns."""
        height, width = x.shape[-2:]
        wide = widened(x)  # sums over an image need float32 at least
        rows = wide.mean(dim=3, keepdim=True)  # (N, C, H, 1), Eq. 7
        columns = wide.mean(dim=2, keepdim=True).transpose(2, 3)  # (N, C, W, 1), Eq. 8
        both = torch.cat((rows, columns), dim=2).to(x.dtype)  # (N, C, H + W, 1)
        rows, columns = self.act(self.squeeze(both)).split((height, width), dim=2)  # Eq. 9
        row_weights = self.excite_rows(rows).sigmoid()  # (N, C, H, 1), Eq. 10
        column_weights = self.excite_columns(columns).sigmoid().transpose(2, 3)  # (N, C, 1, W), Eq. 11
        return x * row_weights * column_weights  # Eq. 12


class PlainBlock(nn.Module):
    """Replacement for a PAB in the paper's basic model: a residual chain of 3x3 convolutions.

    Args:
        num_feat: Input and output channels (C).
        num_conv: Number of convolutions.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Stated: "a 3x3 convolutional sequence" of the same width. Inferred: 6 convolutions with biases, which
        give the printed differences, LeakyReLU between them, and the residual.
    """

    def __init__(self, num_feat: int, *, num_conv: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(num_feat, num_feat, 3, padding=1)]
        for _ in range(num_conv - 1):
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(num_feat, num_feat, 3, padding=1)]
        self.chain = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Add the chain's output to the input."""
        return self.chain(x) + x
