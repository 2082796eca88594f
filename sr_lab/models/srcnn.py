"""SRCNN: Image SR Using Deep Convolutional Networks (Dong et al., ECCV 2014 and TPAMI 2016)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.ops.renaming import KeyRule, rename
from sr_lab.ops.resize import imresize
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.native import native_only


class SRCNN(nn.Module):
    """Super-resolution convolutional neural network: three convolutions on the enlarged luma.

    The first two, patch extraction and non-linear mapping, are the head; there are no blocks.

    Cost: all of it is at output size, so the scale does not matter: 7.4 G multiply-adds as 9-1-5, 52.7 G as
    9-5-5, which tables print beside the 8K of the former.

    Args:
        scale: Upscaling factor r; the papers have 2, 3 and 4.
        num_feat: Channels of the first convolution (n_1), even; the second has half as many (n_2).
        kernel_sizes: Width of each convolution (f_1, f_2, f_3), odd: 9-1-5 in the ECCV paper, 9-3-5 and
            9-5-5 in its longer version.
        upsampler: ``None``; there is no tail to replace.

    Shape:
        lr ``(N, 1, H, W)``, luma in [0, 1] -> sr ``(N, 1, rH, rW)``, not clamped.

    Raises:
        ConfigError: If ``upsampler`` is given, ``num_feat`` is odd, or ``kernel_sizes`` are not three odd
            numbers.

    Note:
        The papers' convolutions are valid ones, and lose 6 pixels at every edge (8 as 9-5-5); here they are
        padded with zeros, so that the image keeps its size. The edge is what differs.
    """

    colour: ClassVar[str] = "y"
    min_size: ClassVar[int] = 1
    multi_adds_rule: ClassVar[Literal["torchinfo", "conv"]] = "conv"
    residual_units: ClassVar[tuple[nn.Module, ...]] = ()

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 64,
        kernel_sizes: Sequence[int] = (9, 1, 5),
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__()
        native_only("SRCNN", upsampler)
        if len(kernel_sizes) != 3 or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ConfigError(
                f"SRCNN: has three convolutions, got kernel_sizes={tuple(kernel_sizes)}; "
                "allowed: three odd numbers, e.g. 9, 1, 5"
            )
        if num_feat < 2 or num_feat % 2:
            raise ConfigError(
                f"SRCNN: num_feat is halved, got {num_feat}; allowed: even numbers of at least 2"
            )
        self.scale = scale
        widths = (1, num_feat, num_feat // 2, 1)
        extract, mapping, rebuild = (
            nn.Conv2d(num_in_ch, num_out_ch, size, padding=size // 2)
            for num_in_ch, num_out_ch, size in zip(widths, widths[1:], kernel_sizes, strict=False)
        )
        self.head = nn.Sequential(extract, nn.ReLU(inplace=True), mapping, nn.ReLU(inplace=True))
        self.body = nn.ModuleList()
        self.tail = rebuild

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge lr with MATLAB's bicubic, then convolve."""
        sr: Tensor = self.tail(self.head(imresize(lr, numerator=self.scale)))  # (N, 1, rH, rW) throughout
        return sr


_OFFICIAL_KEYS: tuple[KeyRule, ...] = (
    (r"^conv1\.", "head.0."),
    (r"^conv2\.", "head.2."),
    (r"^conv3\.", "tail."),
)


def from_official(state: Mapping[str, Tensor], *, scale: int) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint of github.com/yjn870/SRCNN-pytorch (9-5-5).

    Args:
        state: Tensors under the names of that port.
        scale: Upscaling factor of the network; the names do not depend on it.

    Returns:
        The same tensors under the names of ``SRCNN``.
    """
    return rename(state, _OFFICIAL_KEYS)
