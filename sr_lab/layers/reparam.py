"""Convolutions that are trained as several branches and run as one (ECBSR, RepRFN, FMEN, SPAN)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Edge: TypeAlias = Literal["sobel_x", "sobel_y", "laplacian"]


class RepConv(nn.Module, ABC):
    """Base class of blocks that are trained as a sum of branches and run as one 3x3 convolution.

    A subclass builds the branches; ``branches`` computes them, ``merged`` returns the convolution that they
    add up to, and ``fold`` replaces them with that convolution.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.

    Note:
        A 1x1 convolution before a 3x3 one pads its own input with zeros, as in the authors' code, so the
        output of the 1x1 convolution at the border is its bias. The merged convolution can therefore be
        zero-padded too.
    """

    folded: nn.Conv2d | None

    def __init__(self) -> None:
        super().__init__()
        self.folded = None

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches, or the convolution that they were folded into."""
        return self.branches(x) if self.folded is None else self.folded(x)

    @abstractmethod
    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches, as trained."""

    @abstractmethod
    def merged(self) -> "Kernel":
        """The convolution that the branches add up to."""

    def fold(self) -> None:
        """Replace the branches with one convolution that gives the same output, for inference."""
        if self.folded is None:
            folded = self.merged().conv(like=next(self.parameters()))
            for name, _ in list(self.named_children()):
                delattr(self, name)
            self.folded = folded


@dataclass(frozen=True)
class Kernel:
    """Weight and bias of a 3x3 convolution in float64, so that the sum of many branches stays accurate.

    Args:
        weight: ``(num_out_ch, num_in_ch, 3, 3)``.
        bias: ``(num_out_ch,)``.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """The kernel of a convolution of 3x3 or smaller; a smaller kernel is centred."""
        weight = conv.weight.detach().double()
        height, width = ((3 - size) // 2 for size in weight.shape[2:])
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
        return cls(F.pad(weight, (width, width, height, height)), bias)

    @classmethod
    def pointwise(cls, weight: Tensor, bias: Tensor) -> Self:
        """The kernel of a 1x1 convolution with the matrix ``(num_out_ch, num_in_ch)``."""
        return cls(F.pad(weight.detach().double()[:, :, None, None], (1, 1, 1, 1)), bias.detach().double())

    def identity(self) -> Self:
        """The identity, with as many channels as this convolution's output."""
        matrix = torch.eye(len(self.bias), device=self.bias.device)
        return self.pointwise(matrix, torch.zeros_like(self.bias))

    def __add__(self, other: Self) -> Self:
        """The sum of two convolutions of the same input."""
        return type(self)(self.weight + other.weight, self.bias + other.bias)

    def after(self, pointwise: Self) -> Self:
        """This convolution applied to the output of a zero-padded 1x1 convolution."""
        weight = torch.einsum("omhw,mi->oihw", self.weight, pointwise.weight[:, :, 1, 1])
        return type(self)(weight, self.bias + self.weight.sum((2, 3)) @ pointwise.bias)

    def before(self, pointwise: Self) -> Self:
        """A 1x1 convolution applied to the output of this convolution."""
        matrix = pointwise.weight[:, :, 1, 1]
        weight = torch.einsum("om,mihw->oihw", matrix, self.weight)
        return type(self)(weight, matrix @ self.bias + pointwise.bias)

    def conv(self, *, like: Tensor) -> nn.Conv2d:
        """The convolution as a layer, on the device and in the precision of ``like``."""
        num_out_ch, num_in_ch = self.weight.shape[:2]
        conv = nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            conv.weight.copy_(self.weight)
            if conv.bias is not None:
                conv.bias.copy_(self.bias)
        return conv


class EdgeConv(nn.Module):
    """Edge branch of an ECB (ECBSR, Zhang et al., ACM MM 2021): Conv1x1, then an edge filter per channel.

    The filter is fixed; only its strength is learned, one factor for each channel.

    Args:
        num_in_ch: Input channels.
        num_out_ch: Output channels.
        edge: Name of the filter.

    Shape:
        ``(N, num_in_ch, H, W)`` -> ``(N, num_out_ch, H, W)``.
    """

    FILTERS: ClassVar[dict[Edge, tuple[tuple[float, float, float], ...]]] = {
        "sobel_x": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
        "sobel_y": ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
        "laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    }
    filter: Tensor

    def __init__(self, num_in_ch: int, num_out_ch: int, *, edge: Edge) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in_ch, num_out_ch, 1, padding=1)
        self.strength = nn.Parameter(1e-3 * torch.randn(num_out_ch, 1, 1, 1))
        self.bias = nn.Parameter(1e-3 * torch.randn(num_out_ch))
        self.register_buffer("filter", torch.tensor(self.FILTERS[edge])[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels, then filter each mixture for edges."""
        mixed = self.conv(x)  # (N, num_out_ch, H + 2, W + 2)
        return F.conv2d(mixed, self.strength * self.filter, self.bias, groups=len(self.bias))

    def merged(self) -> Kernel:
        """Both layers as one convolution."""
        mix = Kernel.of(self.conv)
        filters = self.strength.detach().double() * self.filter  # (num_out_ch, 1, 3, 3)
        weight = mix.weight[:, :, 1:2, 1:2] * filters
        return Kernel(weight, self.bias.detach().double() + filters.sum((1, 2, 3)) * mix.bias)
