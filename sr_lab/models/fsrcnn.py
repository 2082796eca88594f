"""FSRCNN: Accelerating the SR Convolutional Neural Network (Dong et al., ECCV 2016).

The original form follows a port, github.com/yjn870/FSRCNN-pytorch (no licence stated).
"""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.layers.initial import msra_
from sr_lab.layers.network import SRNetwork, check_choice, through
from sr_lab.ops.renaming import OfficialNames
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class FSRCNN(SRNetwork):
    """Fast SRCNN: shrink the features, map them with a few thin convolutions, expand them, upscale.

    Cost at x4: 2.0 G multiply-adds, 1.4 G of them in the tail; the ``original`` form takes 0.7 G.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Channels before shrinking and after expanding (d).
        num_shrunk: Channels between shrinking and expanding (s).
        num_block: Number of mapping convolutions (m).
        form: ``lr_space`` is the RGB host of "Two Strategies for Lightweight Image SR" (its Table 2), with
            ReLU and a sub-pixel tail; ``original`` works on luma, with PReLU and a 9x9 deconvolution.
        upsampler: Factory for the tail; ``None`` builds the tail of the form.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped; ``original`` has 1 channel.

    Raises:
        ConfigError: If ``form`` is unknown.

    Note:
        ``original`` follows the port, which pads where the paper crops; each LR pixel maps to the first of
        its r output pixels. Its weights are initialised as in the port. Left out: the lower
        learning rates. The port trains the deconvolution at a tenth of the rate of the other layers; the
        authors' Caffe file trains all biases at a tenth too.
        ``lr_space`` is inferred from a public framework that has the same host networks. It has 35.1 K
        parameters; no usual form of FSRCNN has the printed 33 K.
    """

    multi_adds_rule = "conv"
    residual_units: ClassVar[tuple[nn.Module, ...]] = ()

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 56,
        num_shrunk: int = 12,
        num_block: int = 4,
        form: Literal["lr_space", "original"] = "lr_space",
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        check_choice("FSRCNN", "form", form, "lr_space", "original")
        original = form == "original"
        native: UpsamplerFactory = _deconvolution if original else SubpixelUpsampler
        num_image_ch = 1 if original else 3

        def layer(num_in_ch: int, num_out_ch: int, kernel_size: int) -> nn.Sequential:
            conv = nn.Conv2d(num_in_ch, num_out_ch, kernel_size, padding=kernel_size // 2)
            return nn.Sequential(conv, nn.PReLU(num_out_ch) if original else nn.ReLU(inplace=True))

        self.colour = "y" if original else "rgb"
        self.head = nn.Sequential(layer(num_image_ch, num_feat, 5), layer(num_feat, num_shrunk, 1))
        self.body = nn.ModuleList(layer(num_shrunk, num_shrunk, 3) for _ in range(num_block))
        self.expand = layer(num_shrunk, num_feat, 1)
        self.tail = (upsampler or native)(num_feat=num_feat, num_out_ch=num_image_ch, scale=scale)
        if original:
            msra_(self.head, self.body, self.expand, fan="fan_out")

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, without any skip connection."""
        feat = through(self.body, self.head(lr))  # (N, s, H, W)
        return self.tail(self.expand(feat))  # (N, d, H, W) -> (N, 3 or 1, rH, rW)


def _deconvolution(*, num_feat: int, num_out_ch: int, scale: int) -> nn.Module:
    conv = nn.ConvTranspose2d(num_feat, num_out_ch, 9, stride=scale, padding=4, output_padding=scale - 1)
    nn.init.normal_(conv.weight, std=0.001)  # torch's default is 65 times as large
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


# Weight names in the port, which numbers convolutions and activations in one sequence.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "first_part": "head.0",
            "mid_part.0": "head.1.0",
            "mid_part.1": "head.1.1",
            "mid_part.{2n+2}": "expand.0",
            "mid_part.{2n+3}": "expand.1",
            "mid_part.{2i+2}": "body.{i}.0",
            "mid_part.{2i+3}": "body.{i}.1",
            "last_part": "tail",
        },
        {"n": "body"},
    ),
)
