"""IDN: Fast and Accurate SR via Information Distillation Network (Hui et al., CVPR 2018).

Authors' code: github.com/Zheng222/IDN-Caffe and github.com/Zheng222/IDN-tensorflow (no licence stated).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.initial import msra_
from sr_lab.layers.network import SRNetwork, check_choice, through
from sr_lab.ops.renaming import Names
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class IDN(SRNetwork):
    """Information distillation network: each block keeps a quarter of its features and enhances the rest.

    Cost at x4: 34.5 G multiply-adds; the ``original`` form takes 31.7 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (D_3), a multiple of 16.
        num_block: Number of DBlocks.
        form: ``lr_space`` works on RGB and has a sub-pixel tail, like the authors' later code and the host in
            "Two Strategies for Lightweight Image SR" (its Table 2); ``original`` is the paper's network on
            luma, with a 17x17 deconvolution.
        upsampler: Factory for the tail; ``None`` builds the tail of the form.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped; ``original`` has 1 channel.

    Raises:
        ConfigError: If ``form`` is unknown or ``num_feat`` is not a multiple of 16.

    Note:
        ``lr_space`` follows the authors' TensorFlow code, which works on 0..255 and adds an 8-bit bicubic
        image; its weights have torch's default initialisation. ``original`` follows their Caffe code,
        including the initialisation. Left out: the learning rate of the deconvolution and of all biases,
        which in the Caffe code is a tenth of that of the other weights. A PyTorch port (yjn870) differs from
        both codes: it keeps the last quarter instead of the first, and has no activation after the
        compression.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 4,
        form: Literal["lr_space", "original"] = "lr_space",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        check_choice("IDN", "form", form, "lr_space", "original")
        native: UpsamplerFactory = Deconvolution if form == "original" else _subpixel
        num_image_ch = 1 if form == "original" else 3
        self.colour = "y" if form == "original" else "rgb"
        self.head = nn.Sequential(_conv_lrelu(num_image_ch, num_feat), _conv_lrelu(num_feat, num_feat))
        self.body = nn.ModuleList(DBlock(num_feat) for _ in range(num_block))
        self.tail = (upsampler or native)(num_feat=num_feat, num_out_ch=num_image_ch, scale=scale)
        if form == "original":
            msra_(self.head, self.body, *([self.tail] if upsampler is None else []), fan="fan_average")

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr: the tail's output, plus MATLAB's bicubic interpolation."""
        feat = through(self.body, self.head(lr))  # (N, C, H, W)
        return self.tail(feat) + imresize(lr, numerator=self.scale)  # (N, 3 or 1, rH, rW)


class DBlock(nn.Module):
    """Information distillation block: an enhancement unit, then a compression unit.

    Args:
        num_feat: Input and output channels (C), a multiple of 16. The convolutions' widths differ by
            d = C // 4, which is also the number of channels kept (C / s in the paper).

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If ``num_feat`` is not a multiple of 16.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        if num_feat < 16 or num_feat % 16:
            raise ConfigError(f"IDN: got num_feat={num_feat}; allowed: multiples of 16")
        quarter = num_feat // 4
        self.split_sizes = (quarter, num_feat - quarter)
        self.above = nn.Sequential(
            _conv_lrelu(num_feat, num_feat - quarter),
            _conv_lrelu(num_feat - quarter, num_feat - 2 * quarter, groups=4),
            _conv_lrelu(num_feat - 2 * quarter, num_feat),
        )
        self.below = nn.Sequential(
            _conv_lrelu(num_feat - quarter, num_feat),
            _conv_lrelu(num_feat, num_feat - quarter, groups=4),
            _conv_lrelu(num_feat - quarter, num_feat + quarter),
        )
        self.compress = _conv_lrelu(num_feat + quarter, num_feat, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enhance the features that are not kept, add the input and the kept ones, compress."""
        kept, passed = self.above(x).split(self.split_sizes, dim=1)
        enhanced = torch.cat((x, kept), dim=1) + self.below(passed)  # (N, 5C/4, H, W)
        return self.compress(enhanced)


class Deconvolution(nn.Module):
    """The paper's reconstruction: one transposed convolution of 17x17.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image.
        scale: Upscaling factor r, from 1 to 9.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If ``scale`` is not between 1 and 9.

    Note:
        Each LR pixel maps to the last of its r output pixels, as in the authors' code. That code leaves out
        the first r - 1 rows and columns, which are computed here.
    """

    def __init__(self, *, num_feat: int, num_out_ch: int, scale: int) -> None:
        super().__init__()
        if not 1 <= scale <= 9:
            raise ConfigError(f"IDN: the 17x17 kernel cannot upscale by scale={scale}; allowed: 1 to 9")
        self.scale = scale
        self.deconv = nn.ConvTranspose2d(num_feat, num_out_ch, 17, stride=scale, padding=9 - scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale, then crop to the size of the image."""
        height, width = x.shape[-2:]
        sr: Tensor = self.deconv(x)  # there are r - 1 extra pixels at the end of each axis
        return sr[..., : self.scale * height, : self.scale * width]


def _subpixel(*, num_feat: int, num_out_ch: int, scale: int) -> nn.Module:
    conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)  # no activation after it
    return nn.Sequential(conv, *SubpixelUpsampler(num_feat=num_feat, num_out_ch=num_out_ch, scale=scale))


def _conv_lrelu(num_in_ch: int, num_out_ch: int, *, kernel_size: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(num_in_ch, num_out_ch, kernel_size, padding=kernel_size // 2, groups=groups)
    return nn.Sequential(conv, nn.LeakyReLU(0.05, inplace=True))


# Layer names in the authors' prototxt (form ``original``), as ``<layer>.weight`` and ``<layer>.bias``. Its
# blocks are numbered from 3, after the trunk's first two layers.
OFFICIAL_NAMES: Names = {
    "conv{i+1}": "head.{i}.0",
    "conv{i+3}_{j+4}": "body.{i}.below.{j}.0",
    "conv{i+3}_{j+1}": "body.{i}.above.{j}.0",
    "down{i+1}": "body.{i}.compress.0",
    "upsample": "tail.deconv",
}
