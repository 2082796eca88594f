"""What a network needs for one pixel: memory, multiply-adds, and the surrounding pixels (the reach)."""

import copy
import functools
import math
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sr_lab.inference.upscaling import upscale_batch
from sr_lab.layers.network import min_size_of, num_image_ch, scale_of
from sr_lab.ops.complexity import largest_result, multi_adds, peak_memory

_IMRESIZE_REACH = 2  # LR pixels on each side that `imresize` reads, for the chroma of a luma network
_SIDES = (48, 96)  # sides of the LR images for which costs are counted

Found = TypeVar("Found")


def _once_per_network(find: Callable[[nn.Module], Found]) -> Callable[[nn.Module], Found]:
    """Compute a property of a network on first use, and cache it as long as the network exists."""
    known: WeakKeyDictionary[nn.Module, Found] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(network: nn.Module) -> Found:
        if network not in known:
            known[network] = find(network)
        return known[network]

    return found


@_once_per_network
def measured_scale(network: nn.Module) -> int:
    """Upscaling factor; measured on a small image if the network does not state it."""
    stated = scale_of(network)
    if stated is not None:
        return stated
    side = max(min_size_of(network), 16)
    on_meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        return (
            int(on_meta(torch.empty(1, num_image_ch(network), side, side, device="meta")).shape[-1]) // side
        )


@_once_per_network
def bytes_per_pixel(network: nn.Module) -> float:
    """Peak memory of a colour image in bytes per LR pixel, including the conversion of colours."""
    whole, scale = _ColourToDouble(network), measured_scale(network)
    weights = sum(value.nbytes for value in [*whole.parameters(), *whole.buffers()])
    memory = peak_memory(whole, scale=scale, hr_size=(scale * _SIDES[1],) * 2)
    return (memory - weights) / _SIDES[1] ** 2


@_once_per_network
def bytes_of_a_result(network: nn.Module) -> float:
    """Bytes per LR pixel of the largest intermediate result or output."""
    scale = measured_scale(network)
    size = (scale * _SIDES[1],) * 2
    return largest_result(copy.deepcopy(network).float(), scale=scale, hr_size=size) / _SIDES[1] ** 2


class _ColourToDouble(nn.Module):
    """The whole computation on a colour image, in float32, before its result is rounded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).float()

    def forward(self, lr: Tensor) -> Tensor:
        return upscale_batch(self.network, lr).double()


@_once_per_network
def is_quadratic(network: nn.Module) -> bool:
    """Whether a pixel costs more multiply-adds in a larger image, as with attention over the whole image."""
    scale = measured_scale(network)
    small, large = (
        multi_adds(network, scale=scale, rule="all", hr_size=(scale * side,) * 2) / side**2 for side in _SIDES
    )
    return large > 1.02 * small  # rounding the sizes changes less than 2 %


@_once_per_network
@torch.no_grad()
def reach(network: nn.Module) -> int | None:
    """LR pixels on each side that an output pixel depends on; ``None`` if tiles never equal the whole image.

    A NaN in one pixel spreads to every value that depends on it, whatever the weights; this gives the
    distance. Strips in float64 then confirm that tiles with this overlap equal the whole image, which is not
    the case if the network has strides.
    """
    exact, scale = copy.deepcopy(network).cpu().double().eval(), measured_scale(network)
    distances = [_nan_distance(exact, axis, scale) for axis in (2, 3)]
    if None in distances:
        return None
    pixels = max(_IMRESIZE_REACH, *(distance for distance in distances if distance is not None))
    return pixels if all(_equals_whole(exact, axis, pixels, scale) for axis in (2, 3)) else None


def _strip(network: nn.Module, axis: int, length: int) -> Tensor:
    """A random image in float64, long along one axis and as short as the network allows on the other."""
    short = max(min_size_of(network), 2)  # torch's antialiased interpolation of a single column is wrong
    shape = [1, num_image_ch(network), short, short]
    shape[axis] = length
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _nan_distance(network: nn.Module, axis: int, scale: int) -> int | None:
    """Distance in LR pixels over which a pixel has influence; ``None`` if it spans the longest strip."""
    for length in (32, 256):
        furthest = 0
        for position in (0, length - 1):
            lr = _strip(network, axis, length)
            lr.select(axis, position).fill_(math.nan)
            reached = network(lr).isnan().transpose(axis, 0).flatten(1).any(1).nonzero() // scale
            furthest = max(furthest, int((reached - position).abs().max()) if len(reached) else 0)
            if furthest == length - 1:  # the strip is too short
                break
        else:
            return furthest
    return None


def _equals_whole(network: nn.Module, axis: int, pixels: int, scale: int) -> bool:
    """Whether the two ends of a strip, each upscaled on its own, equal those of the whole strip."""
    for start in (5, 7):  # not a multiple of a common stride
        length = start + 2 * (pixels + 8) + min_size_of(network) + 3
        stop = length - start
        lr = _strip(network, axis, length)
        whole = network(lr)
        tail = network(lr.narrow(axis, start, length - start))
        head = network(lr.narrow(axis, 0, stop))
        after, before = scale * (start + pixels), scale * (stop - pixels)
        differences = (
            whole.narrow(axis, after, scale * length - after)
            - tail.narrow(axis, scale * pixels, scale * length - after),
            whole.narrow(axis, 0, before) - head.narrow(axis, 0, before),
        )
        worst = max(difference.abs().max() for difference in differences)
        if not worst <= 1e-6 * whole.abs().max():  # float32-only operations differ by 1e-7
            return False
    return True
