"""Attention over channels (CA, CCA, WSILB-V), positions (SA, ESA) and both (PA, MSWA)."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.bsconv import BSConv
from sr_lab.layers.image import check_min_size
from sr_lab.layers.network import check_choice
from sr_lab.layers.precision import widened


def mean_and_contrast(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of each channel over the whole image, in float32 at least.

    Args:
        x: Features ``(N, C, H, W)``.

    Returns:
        The mean and the standard deviation, ``(N, C, 1, 1)`` each.
    """
    # Sums over an image need float32, regardless of the network's precision.
    variance, mean = torch.var_mean(widened(x), dim=(2, 3), correction=0, keepdim=True)
    # The published formulas have no epsilon, so their gradient on a constant map is infinite. Clamping to the
    # smallest normal number makes that gradient zero and moves the value by at most 1e-19.
    return mean, variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()


class CA(nn.Module):
    """Channel attention (SENet, Hu et al., CVPR 2018; RCAN, Zhang et al., ECCV 2018).

    Each channel is described by its mean over the image; two 1x1 convolutions turn that mean into a weight.

    Args:
        num_feat: Input and output channels (C).
        reduction: C is squeezed to C // reduction between the two convolutions.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If the squeeze leaves no channel.
    """

    def __init__(self, num_feat: int, *, reduction: int = 16) -> None:
        super().__init__()
        if num_feat < reduction:
            raise ConfigError(
                f"{type(self).__name__}: num_feat={num_feat} leaves no channel at reduction={reduction}; "
                f"allowed: num_feat of at least {reduction}; widen the network or lower the reduction"
            )
        self.excite = nn.Sequential(
            nn.Conv2d(num_feat, num_feat // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(num_feat // reduction, num_feat, 1),
            nn.Sigmoid(),
        )

    def describe(self, x: Tensor) -> Tensor:
        """Reduce each channel to one number, ``(N, C, H, W)`` -> ``(N, C, 1, 1)``."""
        return widened(x).mean(dim=(2, 3), keepdim=True)  # sums over an image need float32

    def weights(self, x: Tensor) -> Tensor:
        """The weight of each channel, ``(N, C, H, W)`` -> ``(N, C, 1, 1)`` in (0, 1)."""
        return self.excite(self.describe(x).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels."""
        return x * self.weights(x)


class CCA(CA):
    """Contrast-aware channel attention (IMDN, Hui et al., ACM MM 2019; OSFFNet, Fig. 3).

    Each channel is described by its mean plus its contrast (standard deviation) over the whole image.

    Args:
        num_feat, reduction: See ``CA``.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def describe(self, x: Tensor) -> Tensor:
        """Mean plus contrast of each channel."""
        mean, contrast = mean_and_contrast(x)
        return mean + contrast


class CC(nn.Module):
    """Combination coefficients of a lattice block (LatticeNet, Luo et al., ECCV 2020; FDIWN).

    Each channel's coefficient is the mean of two weights: one from the channel's mean, one from its standard
    deviation.

    Args:
        num_feat: Channels (C).
        num_squeezed: Channels between the two 1x1 convolutions of each branch.
        unbiased: Use the unbiased standard deviation.
        relu: Add a ReLU before the sigmoid, which keeps all coefficients in [0.5, 1).

    Shape:
        ``(N, C, H, W)`` -> ``(N, C, 1, 1)``.
    """

    def __init__(self, num_feat: int, *, num_squeezed: int, unbiased: bool, relu: bool) -> None:
        super().__init__()

        def excitation() -> nn.Sequential:
            layers = [nn.Conv2d(num_feat, num_squeezed, 1), nn.ReLU(), nn.Conv2d(num_squeezed, num_feat, 1)]
            return nn.Sequential(*layers, *([nn.ReLU()] if relu else []), nn.Sigmoid())

        self.unbiased = unbiased
        self.of_mean = excitation()
        self.of_deviation = excitation()

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients of the channels of x."""
        mean, deviation = mean_and_contrast(x)
        if self.unbiased:
            num_positions = x.shape[-2] * x.shape[-1]
            deviation = deviation * (num_positions / max(1, num_positions - 1)) ** 0.5
        return (self.of_mean(mean.to(x.dtype)) + self.of_deviation(deviation.to(x.dtype))) / 2


class WSILBV(nn.Module):
    """WSILB-V, weight-sharing information lossless attention block, variant (MREN, Sec. 3.4).

    Each channel is described by its mean plus its contrast (standard deviation), and by its maximum, over the
    whole image. The same two 1x1 convolutions map each description to a number; the sigmoid of the sum
    is the channel's weight.

    Args:
        num_feat: Input and output channels (C), squeezed to C // 4 (at least 1) between the two convolutions.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Note:
        Stated: two 1x1 convolutions, which squeeze and expand, where WSILB has one. The two descriptions
        follow WSILB in the authors' PMDN code. Fitted to the printed counts: the squeeze to C // 4. Inferred:
        no activation between the convolutions.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        num_squeezed = max(1, num_feat // 4)
        self.excite = nn.Sequential(
            nn.Conv2d(num_feat, num_squeezed, 1), nn.Conv2d(num_squeezed, num_feat, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels."""
        mean, contrast = mean_and_contrast(x)
        peak = x.amax(dim=(2, 3), keepdim=True)
        logits = self.excite((mean + contrast).to(x.dtype)) + self.excite(peak)  # (N, C, 1, 1)
        return x * torch.sigmoid(logits)


class SA(nn.Module):
    """Spatial attention (CBAM, Woo et al., ECCV 2018): a weight per position.

    The mean and the maximum over the channels go through a 7x7 convolution.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weight the positions."""
        described = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(described))  # (N, 1, H, W)


class ESA(nn.Module):
    """Enhanced spatial attention (RFANet, Liu et al., CVPR 2020), in the form of RFDN, RLFN, BSRN or BSRN-S.

    A strided convolution and a wide max pooling shrink the map about sixfold, which gives the next
    convolutions a large receptive field at little cost; most of the cost is in the three full-size 1x1
    convolutions.

    Args:
        num_feat: Input and output channels (C).
        num_squeezed: Inner channels (f).
        form: ``rfdn`` has plain 3x3 convolutions and ReLU. ``rlfn`` has one convolution after the pooling
            instead of three. ``bsrn`` has BSConvs and GELU. ``bsrn_s`` is ``bsrn`` with a plain strided
            convolution and a bias in both convolutions of a BSConv.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be at least ``min_size``.

    Raises:
        ConfigError: If ``form`` is unknown; in ``forward``, if the map is smaller than ``min_size``.

    Note:
        OSFFNet's Fig. 4 shows fewer layers, but the printed counts fit this form (4064 at C = 64, f = 16).
    """

    # An unpadded 3x3 convolution of stride 2 must leave 7 pixels for the pooling.
    min_size: ClassVar[int] = 15

    def __init__(
        self,
        num_feat: int,
        *,
        num_squeezed: int = 16,
        form: Literal["bsrn", "rfdn", "rlfn", "bsrn_s"] = "bsrn",
    ) -> None:
        super().__init__()
        check_choice("ESA", "form", form, "bsrn", "rfdn", "rlfn", "bsrn_s")
        separable = form in ("bsrn", "bsrn_s")
        conv = partial(BSConv, pointwise_bias=form == "bsrn_s") if separable else nn.Conv2d
        strided: type[BSConv | nn.Conv2d] = BSConv if form == "bsrn" else nn.Conv2d
        act = nn.GELU if separable else nn.ReLU
        self.squeeze = nn.Conv2d(num_feat, num_squeezed, 1)
        self.shrink = nn.Sequential(
            strided(num_squeezed, num_squeezed, 3, stride=2, padding=0),
            nn.MaxPool2d(7, stride=3),
        )
        self.context = nn.Sequential(conv(num_squeezed, num_squeezed, 3, padding=1))
        if form != "rlfn":
            for _ in range(2):
                self.context.extend([act(), conv(num_squeezed, num_squeezed, 3, padding=1)])
        self.skip = nn.Conv2d(num_squeezed, num_squeezed, 1)
        self.excite = nn.Sequential(nn.Conv2d(num_squeezed, num_feat, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Weight the positions."""
        check_min_size(x, self.min_size, "ESA: the pooling")
        squeezed = self.squeeze(x)  # (N, f, H, W)
        context = self.context(self.shrink(squeezed))  # (N, f, about H/6, about W/6)
        context = F.interpolate(context, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.excite(context + self.skip(squeezed))


class PA(nn.Module):
    """Pixel attention (PAN, Zhao et al., ECCVW 2020): a 1x1 convolution weights each channel and position.

    Args:
        num_feat: Input and output channels (C).

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_feat, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weight every value."""
        return x * torch.sigmoid(self.conv(x))


class MSWA(nn.Module):
    """Multi-scale weight allocation (IMFM, Sec. 2.2 and 2.3): a weight per channel and position.

    ``c_0 = x``, ``c_i = (x + mean over a k_i x k_i window of c_{i-1}) / 2``; the weights are
    ``sigmoid(Conv1x1(c_n))``. Only the 1x1 convolution has parameters; the means take n passes over the map.

    Args:
        num_feat: Channels (m).
        window_sizes: Widths k_i of the windows in pixels, odd; an empty list gives plain pixel attention.

    Shape:
        ``(N, m, H, W)`` -> weights of the same shape in (0, 1).

    Raises:
        ConfigError: If a window is even or below 1.

    Note:
        Inferred: the paper gives no formula. The 21.8 K parameters printed for all attention cover only the
        1x1 convolutions, so the scales have no parameters; the windows of 3 and 5 are a guess. A window at
        the border averages only the pixels inside the image.
    """

    def __init__(self, num_feat: int, *, window_sizes: Sequence[int] = (3, 5)) -> None:
        super().__init__()
        if any(size < 1 or size % 2 == 0 for size in window_sizes):
            raise ConfigError(f"MSWA: window_sizes must be odd and at least 1, got {tuple(window_sizes)}")
        self.pools = nn.ModuleList(
            nn.AvgPool2d(k, stride=1, padding=k // 2, count_include_pad=False) for k in window_sizes
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Average over growing windows, then compute the weights."""
        # Computes 2^i c_i and divides once at the end, which is exact and takes fewer passes over the map.
        context, factor = x, 1
        for pool in self.pools:
            context = torch.add(pool(context), x, alpha=factor)
            factor *= 2
        return torch.sigmoid(self.conv(context / factor))
