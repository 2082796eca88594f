"""Enlarging an image with a network, whatever channels the two have and however large the image is."""

import copy
import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError, SRLabError
from sr_lab.ops.colour import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.complexity import multi_adds, peak_memory
from sr_lab.ops.resize import imresize
from sr_lab.system.devices import exact_float32

Tile: TypeAlias = int | Literal["auto", "none"]

MEMORY = 2 * 2**30  # bytes of live tensors that a piece may take; a process takes up to 1.6 times as much
ALWAYS_WHOLE = 96 * 96  # LR pixels that fit whatever the network

# Where no overlap makes pieces equal to the whole. With tiles of 96 and official weights, Set14 x4 moves by
# -0.009 (IMDN) and -0.006 dB (A2F-SD) without overlap, by +0.012 and +0.017 dB from an overlap of 12 on.
_FAR_OVERLAP = 24
_FAR_ALIGN = 24  # windows of 8 pixels, pooling by 6
_FAR_TILE = 96

_IMRESIZE_REACH = 2  # LR pixels to either side that chroma beside a luma network depends on


@torch.no_grad()
def upscale_batch(network: nn.Module, image: Tensor) -> Tensor:
    """Enlarge images in evaluation mode, on the device and in the precision of the network.

    A network for luma restores luma and leaves chroma to MATLAB's bicubic ``imresize``, as its papers do. A
    grey image goes through a colour network with three equal channels, and its luma comes back.

    Args:
        network: ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``, with its ``colour`` and ``scale``.
        image: ``(N, 3, H, W)``, or ``(N, 1, H, W)`` for grey, in [0, 1].

    Returns:
        ``(N, 3 or 1, rH, rW)`` in float32, clipped to [0, 1], on the device of ``image``.
    """
    weight = next(network.parameters(), image)
    lr = image.to(weight.device, weight.dtype if weight.is_floating_point() else torch.float32)
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with exact_float32(), torch.autocast(lr.device.type, enabled=False):
            sr = _upscale(network, lr)
    finally:
        for module, was in training.items():
            module.training = was
    return sr.float().clamp(0, 1).to(image.device)


def _upscale(network: nn.Module, lr: Tensor) -> Tensor:
    colour, is_grey = getattr(network, "colour", "rgb"), lr.shape[1] == 1
    if colour == "any":
        return cast(Tensor, network(lr))
    if colour == "rgb":
        sr: Tensor = network(lr.expand(-1, 3, -1, -1))
        return rgb_to_y(sr, full_range=True) if is_grey else sr
    if is_grey:  # networks learn luma of the studio range
        luma: Tensor = network((16 + 219 * lr) / 255)
        return (luma * 255 - 16) / 219
    ycbcr = rgb_to_ycbcr(lr)
    luma = network(ycbcr[:, :1])
    chroma = imresize(ycbcr[:, 1:], numerator=cast(int, network.scale))
    return ycbcr_to_rgb(torch.cat((luma, chroma), dim=1))


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory is full, of the machine or a GPU; engines have no type for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        not isinstance(error, SRLabError)
        and re.search(r"not enough memory|bad.?alloc|allocate memory|memory allocation", str(error), re.I)
        is not None
    )


@dataclass(frozen=True)
class Piece:
    """A part of an image that is enlarged by itself.

    Args:
        read: Rows and columns of the LR image that the network is given.
        keep: Rows and columns of what it returns that are right.
        write: Rows and columns of the SR image that those are.
    """

    read: tuple[slice, slice]
    keep: tuple[slice, slice]
    write: tuple[slice, slice]


_WHOLE = slice(None), slice(None)


class Tiled(nn.Module):
    """A network that takes an image in pieces where it is too large to be taken whole.

    Where every operation of a network is local, the pieces overlap by what a pixel depends on, and the result
    is that of the whole image. Where one is not (pooling over the image, attention over segments, ESA), the
    result is another one, whatever the overlap, and ``approximate`` says so.

    Args:
        network: ``(N, C, H, W)`` -> ``(N, C, rH, rW)``: a network, or what a backend runs in its place.
        tile: ``auto``: whole images as far as ``memory`` reaches, then the pieces that cost least. ``none``:
            always whole. Or the side of a piece in LR pixels, overlap included.
        memory: Bytes of intermediate results that a piece may take.
        like: The torch network that ``network`` computes, from which memory, costs and reach are found out;
            what was found is remembered as long as it lives. ``None``: ``network``.

    Raises:
        ConfigError: ``tile`` is none of these; in ``pieces``, it leaves nothing beside the overlap.
    """

    def __init__(
        self, network: nn.Module, *, tile: Tile = "auto", memory: int = MEMORY, like: nn.Module | None = None
    ) -> None:
        super().__init__()
        if tile not in ("auto", "none") and (type(tile) is not int or tile < 1):
            raise ConfigError(f"tile: got {tile!r}; allowed: auto, none, or the side of a tile in LR pixels")
        self.network = network
        self.tile = tile
        self.memory = memory
        self.colour = getattr(network, "colour", "rgb")
        self.told: str | None = None  # in which tiles the largest images were taken, if any were
        self._like = [network if like is None else like]  # in a list: no part of this module

    @property
    def scale(self) -> int:
        """Factor of enlargement."""
        return _scale(self._like[0])

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge a batch, in pieces if need be."""
        pieces = self.pieces(*lr.shape[-2:], batch=len(lr))
        if len(pieces) == 1:
            whole: Tensor = self.network(lr)
            return whole
        sr: Tensor | None = None
        for piece in pieces:
            part = self.network(lr[..., *piece.read])
            if sr is None:
                sr = part.new_empty(*part.shape[:2], *(size * self.scale for size in lr.shape[-2:]))
            sr[..., *piece.write] = part[..., *piece.keep]
        assert sr is not None
        return sr

    def pieces(self, height: int, width: int, *, batch: int = 1) -> list[Piece]:
        """How an image of this many LR pixels is taken; one piece is the whole image.

        Args:
            height: Rows.
            width: Columns.
            batch: Images at a time.
        """
        tile = self._tile(height, width, batch)
        if tile == (height, width):
            return [Piece(_WHOLE, _WHOLE, _WHOLE)]
        reach = _reach(self._like[0])
        overlap, align = _overlap(reach)
        self.told = f"{height}x{width} pixels in tiles of {tile[0]}x{tile[1]}, overlapping by {overlap}; " + (
            "equal to the whole image" if reach else "not equal to the whole image, all of which it sees"
        )
        return _pieces((height, width), tile, overlap=overlap, align=align, scale=self.scale)

    def _tile(self, height: int, width: int, batch: int) -> tuple[int, int]:
        """Rows and columns of a piece."""
        size = height, width
        if self.tile == "none" or (self.tile == "auto" and batch * height * width <= ALWAYS_WHOLE):
            return size
        if isinstance(self.tile, int):
            if max(size) <= self.tile:
                return size
            overlap, align = _overlap(_reach(self._like[0]))
            smallest = max(2 * overlap + align, _min_size(self._like[0]) + align)
            if self.tile < smallest:
                raise ConfigError(
                    f"tile: pieces of {type(self._like[0]).__name__} overlap by {overlap} LR pixels on every "
                    f"side, got tile={self.tile}; allowed: {smallest} or more, auto or none"
                )
            return min(height, self.tile), min(width, self.tile)
        network = self._like[0]
        max_pixels = int(self.memory / (batch * _bytes_per_pixel(network)))
        if height * width <= max_pixels:
            return size
        return _cheapest(size, max_pixels, _work(network), _reach(network), _min_size(network))


@dataclass(frozen=True)
class Reach:
    """How far a network of local operations sees.

    Args:
        pixels: LR pixels to every side that an output pixel depends on.
        align: A piece has to start at a multiple of so many LR pixels (strides, windows).
    """

    pixels: int
    align: int


_Found = TypeVar("_Found")


def _remembered(find: Callable[[nn.Module], _Found]) -> Callable[[nn.Module], _Found]:
    """Find something out once for each network, as long as that lives."""
    known: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(network: nn.Module) -> _Found:
        if network not in known:
            known[network] = find(network)
        return known[network]

    return found


@_remembered
def _scale(network: nn.Module) -> int:
    """Factor of enlargement, by the size of what comes out where the network does not say."""
    said = getattr(network, "scale", None)
    if isinstance(said, int):
        return said
    side = max(_min_size(network), 16)
    on_meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        return int(on_meta(torch.empty(1, _channels(network), side, side, device="meta")).shape[-1]) // side


def _min_size(network: nn.Module) -> int:
    return int(getattr(network, "min_size", 1))


def _channels(network: nn.Module) -> int:
    return 1 if getattr(network, "colour", "rgb") == "y" else 3


_SIDES = (48, 96)  # of the LR images on which costs are followed, without computing a value


@_remembered
def _bytes_per_pixel(network: nn.Module) -> float:
    """Live tensors for each LR pixel of a colour image, its colours and their rounding included."""
    in_float32, scale = _ForColour(copy.deepcopy(network).float()), _scale(network)
    weights = sum(value.nbytes for value in [*in_float32.parameters(), *in_float32.buffers()])
    memory = peak_memory(in_float32, scale=scale, hr_size=(scale * _SIDES[1],) * 2)
    return (memory - weights) / _SIDES[1] ** 2


class _ForColour(nn.Module):
    """All that becomes of a colour image on its way to whole numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor) -> Tensor:
        return upscale_batch(self.network, lr).double()


@_remembered
def _work(network: nn.Module) -> tuple[float, float]:
    """Multiply-adds for each LR pixel, and for each pair of them (attention over the image)."""
    scale = _scale(network)
    small, large = (
        multi_adds(network, scale=scale, rule="all", hr_size=(scale * side,) * 2) / side**2 for side in _SIDES
    )
    if large <= 1.02 * small:  # what differs is the rounding of sizes
        return max(small, 1.0), 0.0
    quadratic = (large - small) / (_SIDES[1] ** 2 - _SIDES[0] ** 2)
    return max(small - quadratic * _SIDES[0] ** 2, 0.0), quadratic


@_remembered
@torch.no_grad()
def _reach(network: nn.Module) -> Reach | None:
    """How far a network sees, or ``None`` where pieces of no reasonable overlap equal the whole.

    A pixel that is no number makes every value that depends on it no number, whatever the weights. Strips in
    float64 then tell whether a piece that overlaps by so much is equal to the whole: a network with strides
    sees no further, but what it sees depends on where the piece begins.
    """
    exact = copy.deepcopy(network).cpu().double().eval()
    pixels = _IMRESIZE_REACH
    for axis in (2, 3):
        spread = _spread(exact, axis, _scale(network))
        if spread is None:
            return None
        pixels = max(pixels, spread)
    for align in (1, 2, 4, 8, 16):
        # Behind a stride it depends on where a pixel stands how far it is seen.
        reach = Reach(pixels + (align if align > 1 else 0), align)
        if all(_equals_whole(exact, axis, reach, _scale(network)) for axis in (2, 3)):
            return reach
    return None


def _strip(network: nn.Module, axis: int, length: int) -> Tensor:
    """A random image in float64, long along one axis and as short as the network allows on the other."""
    short = max(_min_size(network), 2)  # torch's antialiased interpolation of one column is wrong
    shape = [1, _channels(network), short, short]
    shape[axis] = length
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _spread(network: nn.Module, axis: int, scale: int, lengths: Sequence[int] = (32, 256)) -> int | None:
    """LR pixels over which one pixel has an influence; ``None``: all of the longest strip."""
    for length in lengths:
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


def _equals_whole(network: nn.Module, axis: int, reach: Reach, scale: int) -> bool:
    """Whether the two ends of a strip, each enlarged by itself, are those of the whole strip."""
    for steps in (5, 7):  # no multiple of a common stride
        start = steps * reach.align
        length = start + 2 * (reach.pixels + 8 * reach.align) + _min_size(network) + 3
        lr = _strip(network, axis, length)
        stop = (length - start) // reach.align * reach.align
        whole = network(lr)
        tail = network(lr.narrow(axis, start, length - start))
        head = network(lr.narrow(axis, 0, stop))
        after, before = scale * (start + reach.pixels), scale * (stop - reach.pixels)
        differences = (
            whole.narrow(axis, after, whole.shape[axis] - after)
            - tail.narrow(axis, after - scale * start, whole.shape[axis] - after),
            whole.narrow(axis, 0, before) - head.narrow(axis, 0, before),
        )
        worst = max(difference.abs().max() for difference in differences)
        if not worst <= 1e-6 * whole.abs().max():  # parts that insist on float32 come to 1e-7
            return False
    return True


def _overlap(reach: Reach | None) -> tuple[int, int]:
    """LR pixels that a piece reads on each side of what is kept of it, and the raster of where it starts."""
    if reach is None:
        return _FAR_OVERLAP, _FAR_ALIGN
    return math.ceil(reach.pixels / reach.align) * reach.align, reach.align


def _cheapest(
    size: tuple[int, int], max_pixels: int, work: tuple[float, float], reach: Reach | None, min_size: int
) -> tuple[int, int]:
    """Rows and columns of the pieces, of at most ``max_pixels``, that cost least together.

    Where not even the smallest piece is that small, the smallest.
    """
    overlap, align = _overlap(reach)
    smallest = max(2 * overlap, min_size, _FAR_TILE if reach is None else 0) + align
    along_axes = []  # side of a piece -> pieces
    for length in size:
        inner = length - 2 * overlap
        counts = range(2, max(2, inner // align) + 1)
        # Most counts share their side with another one: there are some 2 * sqrt(length) of them.
        sides = dict.fromkeys(align * math.ceil(inner / count / align) + 2 * overlap for count in counts)
        fitting_sides = [side for side in sides if smallest <= side < length] or [min(smallest, length)]
        along_axes.append(
            {side: _num_cuts(length, side, overlap, align) for side in [length, *fitting_sides]}
        )
    linear, quadratic = work
    choices = [
        (rows * columns * height * width * (linear + quadratic * height * width), height, width)
        for height, rows in along_axes[0].items()
        for width, columns in along_axes[1].items()
    ]
    fitting = [choice for choice in choices if choice[1] * choice[2] <= max_pixels]
    best = min(fitting) if fitting else min(choices, key=lambda choice: choice[1] * choice[2])
    return best[1:]


def _pieces(
    size: tuple[int, int], tile: tuple[int, int], *, overlap: int, align: int, scale: int
) -> list[Piece]:
    rows, columns = (_cuts(*lengths, overlap, align) for lengths in zip(size, tile, strict=True))
    return [
        Piece((of_row[0], of_column[0]), (of_row[1], of_column[1]), (of_row[2], of_column[2]))
        for of_row in (_upscaled(cut, scale) for cut in rows)
        for of_column in (_upscaled(cut, scale) for cut in columns)
    ]


def _cuts(length: int, tile: int, overlap: int, align: int) -> list[tuple[int, int, int, int]]:
    """Where pieces start and stop along an axis, and which part of each is kept.

    All have the length ``tile``, but for a last one that ``align`` makes shorter. No piece is cut at an edge
    of the image, where a network pads in its own way.
    """
    if tile >= length:
        return [(0, length, 0, length)]
    starts = [*_starts(length, tile, overlap, align), _last_start(length, tile, align)]
    stops = [*(start + tile for start in starts[:-1]), length]
    kept_from = [0, *(start + overlap for start in starts[1:])]
    kept_to = [*kept_from[1:], length]
    return list(zip(starts, stops, kept_from, kept_to, strict=True))


def _num_cuts(length: int, tile: int, overlap: int, align: int) -> int:
    """How many `_cuts` there are, without making them."""
    return 1 if tile >= length else len(_starts(length, tile, overlap, align)) + 1


def _starts(length: int, tile: int, overlap: int, align: int) -> range:
    """Where the pieces start, but for the last one."""
    return range(0, _last_start(length, tile, align), (tile - 2 * overlap) // align * align)


def _last_start(length: int, tile: int, align: int) -> int:
    return math.ceil((length - tile) / align) * align


def _upscaled(cut: tuple[int, int, int, int], scale: int) -> tuple[slice, slice, slice]:
    """What is read of the LR image, kept of the piece and written of the SR image along an axis."""
    start, stop, kept_from, kept_to = cut
    return (
        slice(start, stop),
        slice(scale * (kept_from - start), scale * (kept_to - start)),
        slice(scale * kept_from, scale * kept_to),
    )
