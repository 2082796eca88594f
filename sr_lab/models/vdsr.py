"""VDSR: Accurate Image SR Using Very Deep Convolutional Networks (Kim et al., CVPR 2016).

The authors' weights can be loaded; they are at github.com/huangzehao/caffe-vdsr (MIT).
"""

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from sr_lab.layers.initial import msra_
from sr_lab.layers.network import SRNetwork, through
from sr_lab.ops.renaming import OfficialNames
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class VDSR(SRNetwork):
    """Very deep super-resolution: twenty convolutions predict what bicubic interpolation misses.

    The same weights serve all scales.

    Cost: 612.6 G multiply-adds at any scale, all at output size.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the network.
        num_block: Number of convolutions between the first and the last (the paper's depth D minus 2).
        upsampler: Must be ``None``: there is no tail to replace.

    Shape:
        lr ``(N, 1, H, W)``, luma in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``upsampler`` is given.

    Note:
        The authors' weights (VDSR_Official.mat) have biases, which a well-known PyTorch port leaves out.
        Weights are initialised as in the paper (He et al., ICCV 2015); with torch's default, the signal would
        fade over twenty layers.
    """

    colour = "y"
    multi_adds_rule = "conv"
    residual_units: ClassVar[tuple[nn.Module, ...]] = ()  # only the network as a whole has a skip

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 18,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        native_only("VDSR", upsampler)
        self.head = _conv_relu(1, num_feat)
        self.body = nn.ModuleList(_conv_relu(num_feat, num_feat) for _ in range(num_block))
        self.tail = nn.Conv2d(num_feat, 1, 3, padding=1)
        msra_(self)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr with MATLAB's bicubic interpolation and add the predicted residual."""
        image = imresize(lr, numerator=self.scale)  # (N, 1, rH, rW)
        feat = through(self.body, self.head(image))  # (N, C, rH, rW)
        return image + self.tail(feat)


def _conv_relu(num_in_ch: int, num_out_ch: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1), nn.ReLU(inplace=True))


def _torch_axes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Convert MATLAB's (kh, kw, in, out), without a trailing axis of length 1, to (out, in, kh, kw)."""

    def turned(name: str, tensor: Tensor) -> Tensor:
        if re.fullmatch(r"bias\.\d+", name):
            return tensor.flatten()
        if not re.fullmatch(r"weight\.\d+", name) or tensor.ndim not in (3, 4):
            return tensor
        if tensor.ndim == 3:
            # The first layer has one input channel; any other layer without four axes has one output channel.
            tensor = tensor.unsqueeze(2 if name == "weight.0" else 3)
        return tensor.permute(3, 2, 0, 1).contiguous()

    return {name: turned(name, tensor) for name, tensor in state.items()}


# Weight names in the authors' VDSR_Official.mat, which numbers the layers in sequence.
OFFICIAL_NAMES = (
    OfficialNames(
        {
            "weight.0": "head.0.weight",
            "bias.0": "head.0.bias",
            "weight.{n+1}": "tail.weight",
            "bias.{n+1}": "tail.bias",
            "weight.{i+1}": "body.{i}.0.weight",
            "bias.{i+1}": "body.{i}.0.bias",
        },
        {"n": "body"},
        _torch_axes,
    ),
)
