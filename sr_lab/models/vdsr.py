"""VDSR: Accurate Image SR Using Very Deep Convolutional Networks (Kim et al., CVPR 2016)."""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.ops.renaming import rename
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class VDSR(nn.Module):
    """Very deep super-resolution: twenty convolutions predict what bicubic interpolation misses.

    One network serves all scales; its weights do not depend on ``scale``.

    Cost: 612.6 G multiply-adds at any scale, all at output size.

    Args:
        scale: Upscaling factor r; the paper has 2, 3 and 4.
        num_feat: Width of the network.
        num_block: Convolutions between the first and the last (the paper's depth D less 2).
        upsampler: ``None``; there is no tail to replace.

    Shape:
        lr ``(N, 1, H, W)``, luma in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``upsampler`` is given.

    Note:
        The authors' weights (VDSR_Official.mat) have biases, which a well-known PyTorch port leaves out.
        Initialized as the paper says (He et al., ICCV 2015): torch's default would let the signal fade over
        twenty layers.
    """

    colour: ClassVar[str] = "y"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"
    residual_units: ClassVar[tuple[nn.Module, ...]] = ()  # the only residual is the image's

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        num_block: int = 18,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        native_only("VDSR", upsampler)
        self.scale = scale
        self.head = _conv_relu(1, num_feat)
        self.body = nn.ModuleList(_conv_relu(num_feat, num_feat) for _ in range(num_block))
        self.tail = nn.Conv2d(num_feat, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr with MATLAB's bicubic and add the predicted residual."""
        image = imresize(lr, numerator=self.scale)  # (N, 1, rH, rW)
        feat = self.head(image)  # (N, C, rH, rW)
        for layer in self.body:
            feat = layer(feat)
        residual: Tensor = self.tail(feat)
        return image + residual


def _conv_relu(num_in_ch: int, num_out_ch: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1), nn.ReLU(inplace=True))


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Brings the authors' weights (VDSR_Official.mat) under our names and into torch's shapes.

    Args:
        state: Tensors ``weight.<layer>`` and ``bias.<layer>`` with MATLAB's axes, see `_torch_axes`.
        scale: Upscaling factor of the network; the weights do not depend on it.

    Returns:
        The tensors under the names of ``VDSR``, the last layer as its tail.
    """
    layers = [int(match[1]) for name in state if (match := re.fullmatch(r"weight\.(\d+)", name))]
    official_keys = (
        (r"^(weight|bias)\.0$", r"head.0.\1"),
        (rf"^(weight|bias)\.{max(layers, default=0)}$", r"tail.\1"),
        (r"^(weight|bias)\.(\d+)$", lambda match: f"body.{int(match[2]) - 1}.0.{match[1]}"),
    )
    return rename({name: _torch_axes(name, tensor) for name, tensor in state.items()}, official_keys)


def _torch_axes(name: str, tensor: Tensor) -> Tensor:
    """From MATLAB's (kh, kw, in, out), where a trailing axis of length 1 is dropped, to (out, in, kh, kw)."""
    if re.fullmatch(r"bias\.\d+", name):
        return tensor.flatten()
    if not re.fullmatch(r"weight\.\d+", name) or tensor.ndim not in (3, 4):
        return tensor
    if tensor.ndim == 3:
        # The first layer sees one channel, any other without four axes gives one.
        tensor = tensor.unsqueeze(2 if name == "weight.0" else 3)
    return tensor.permute(3, 2, 0, 1).contiguous()
