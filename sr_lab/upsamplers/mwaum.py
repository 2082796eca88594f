"""The upsampling module of IMFM."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import MSWA

_STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2), 16: (2, 2, 2, 2)}


class MWAUM(nn.Module):
    """Upsampling module based on multi-scale weight allocation (IMFM, Sec. 2.2 and Eq. 3).

    Each stage upscales by 2; at x3, a single stage upscales by 3. A stage consists of a bilinear
    interpolation, then pixel attention between two convolutions. The last stage runs at output size and, at
    x4, accounts for most of the cost of a lightweight network.

    Args:
        num_feat: Input channels.
        num_out_ch: Channels of the image, 3 or 1.
        scale: Upscaling factor r: 2, 3, 4, 8 or 16.
        num_up_feat: Inner channels (u).
        attention: Whether the stages weight their features (off in IMFM's ablation of MSWAM).
        window_sizes: Windows of the attention, see ``MSWA``.

    Shape:
        ``(N, num_feat, H, W)`` -> ``(N, num_out_ch, rH, rW)``.

    Raises:
        ConfigError: If there are no stages for ``scale``, or a window is even.

    Note:
        Stated: attention and interpolation between two convolutions. Inferred: the stages and u = 24 (as in
        PAN), fitted to the printed counts. Not stated in the paper; chosen here: ``align_corners=False``.
    """

    def __init__(
        self,
        *,
        num_feat: int,
        num_out_ch: int,
        scale: int,
        num_up_feat: int = 24,
        attention: bool = True,
        window_sizes: Sequence[int] = (3, 5),
    ) -> None:
        super().__init__()
        if scale not in _STAGES:
            raise ConfigError(
                f"upsampler=mwaum: no stages for scale={scale}; allowed: {', '.join(map(str, _STAGES))}; "
                "use another scale or another upsampler"
            )
        widths = [num_feat] + [num_up_feat] * len(_STAGES[scale])
        self.stages = nn.Sequential(
            *(
                MWAUMStage(
                    num_in_ch, num_up_feat, factor=factor, attention=attention, window_sizes=window_sizes
                )
                for num_in_ch, factor in zip(widths, _STAGES[scale], strict=False)
            )
        )
        self.last = nn.Conv2d(num_up_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages, then convolve to the image."""
        return self.last(self.stages(x))


class MWAUMStage(nn.Module):
    """One stage: bilinear interpolation, Conv3x3, pixel attention, Conv3x3.

    Args:
        num_in_ch: Input channels.
        num_feat: Output channels.
        factor: Upscaling factor of this stage.
        attention: Whether the features are weighted.
        window_sizes: Windows of the attention, see ``MSWA``.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_feat, factor * H, factor * W)``.

    Note:
        Inferred: LeakyReLU of slope 0.2, as in PAN.
    """

    def __init__(
        self, num_in_ch: int, num_feat: int, *, factor: int, attention: bool, window_sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.attention = MSWA(num_feat, window_sizes=window_sizes) if attention else None
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate, convolve, attend, convolve."""
        x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        x = self.conv1(x)
        if self.attention is not None:
            x = x * self.attention(x)
        return self.act(self.conv2(self.act(x)))
