"""SRCNN: Image SR Using Deep Convolutional Networks (Dong et al., ECCV 2014 and TPAMI 2016).

A port whose weights load: github.com/yjn870/SRCNN-pytorch (no licence stated).
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.network import SRNetwork
from sr_lab.ops.renaming import Names
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class SRCNN(SRNetwork):
    """Super-resolution convolutional neural network: three convolutions on the upscaled luma.

    The first two (patch extraction and non-linear mapping) are the head; there are no blocks.

    Cost: 7.4 G multiply-adds as 9-1-5, 52.7 G as 9-5-5; all at output size, so independent of the scale.
    Published tables often combine the 52.7 G of 9-5-5 with the 8 K parameters of 9-1-5.

    Args:
        scale: Upscaling factor r; the papers use 2, 3 and 4.
        num_feat: Channels of the first convolution (n_1), even; the second has half as many (n_2).
        kernel_sizes: Kernel size of each convolution (f_1, f_2, f_3), odd: 9-1-5 in the ECCV paper, 9-3-5 and
            9-5-5 in its longer version.
        upsampler: Must be ``None``: there is no tail to replace.

    Shape:
        lr ``(N, 1, H, W)``, luma in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``upsampler`` is given, ``num_feat`` is odd, or ``kernel_sizes`` are not three odd
            numbers.

    Note:
        The papers' convolutions are not padded and lose 6 pixels at every edge (8 in the 9-5-5 form); here
        they are padded with zeros, so that the image keeps its size; only the edges of the result differ.
        The weights have torch's default initialisation, as in the port; the papers draw them with a standard
        deviation of 0.001. Left out: the last layer's learning rate, which in the papers and the port is a
        tenth of the others'.
    """

    colour = "y"
    multi_adds_rule = "conv"
    residual_units: ClassVar[tuple[nn.Module, ...]] = ()

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        kernel_sizes: Sequence[int] = (9, 1, 5),
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        native_only("SRCNN", upsampler)
        if len(kernel_sizes) != 3 or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ConfigError(
                f"SRCNN: kernel_sizes must be three odd numbers, got kernel_sizes={tuple(kernel_sizes)}; "
                "e.g. 9, 1, 5"
            )
        if num_feat < 2 or num_feat % 2:
            raise ConfigError(f"SRCNN: num_feat must be even and at least 2, got {num_feat}")
        widths = (1, num_feat, num_feat // 2, 1)
        extract, mapping, rebuild = (
            nn.Conv2d(num_in_ch, num_out_ch, size, padding=size // 2)
            for num_in_ch, num_out_ch, size in zip(widths, widths[1:], kernel_sizes, strict=False)
        )
        self.head = nn.Sequential(extract, nn.ReLU(inplace=True), mapping, nn.ReLU(inplace=True))
        self.body = nn.ModuleList()
        self.tail = rebuild

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr with MATLAB's bicubic interpolation, then convolve."""
        return self.tail(self.head(imresize(lr, numerator=self.scale)))  # (N, 1, rH, rW) throughout


# Weight names in the port.
OFFICIAL_NAMES: Names = {"conv1": "head.0", "conv2": "head.2", "conv3": "tail"}
