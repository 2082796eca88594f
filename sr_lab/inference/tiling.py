"""A network that upscales large images in tiles."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.inference.footprint import bytes_of_a_result, bytes_per_pixel, is_quadratic, measured_scale, reach
from sr_lab.layers.network import colour_of, min_size_of

Tile: TypeAlias = int | Literal["auto", "none"]

# Bytes of live tensors that a tile may take on a CPU; the process takes up to 1.6 times as much.
MEMORY = 2 * 2**30
# glibc keeps freed blocks of up to 32 MiB for reuse; for a larger block, the system has to clear new
# memory. So if an image has to be divided on a CPU, tiles with smaller results are faster, as long as their
# overlap adds at most a quarter: the x2 network in the package upscales a photo of 5 megapixels in 21 s with
# 1.1 GB in such tiles, but in 34 s with 2.5 GB in tiles of 904x864 (two cores).
_REUSED = 31 * 2**20
_OVERLAPS = 19  # (19 / (19 - 2))**2 = 1.25
ALWAYS_WHOLE = 96 * 96  # LR pixels that fit into memory with any network

# For networks whose outputs depend on the whole image: no overlap makes tiles exact. With tiles of 96 and
# official weights, the PSNR on Set14 x4 changes by -0.009 (IMDN) and -0.006 dB (A2F-SD) without overlap, and
# by +0.012 and +0.017 dB with an overlap of 12 or more.
_FAR_OVERLAP = 24
_FAR_ALIGN = 24  # a multiple of both the 8-pixel windows and the pooling factor 6
_FAR_TILE = 120  # smallest side that ``auto`` chooses: smaller tiles are mostly overlap
_ATTENTION_TILE = 144  # best for attention over the image, where pixels of larger tiles cost more


@dataclass(frozen=True)
class Piece:
    """A part of an image that is upscaled on its own.

    Args:
        read: Rows and columns of the LR image that the network is given.
        keep: Rows and columns of the network's output that are correct.
        write: Rows and columns of the SR image where the kept part belongs.
    """

    read: tuple[slice, slice]
    keep: tuple[slice, slice]
    write: tuple[slice, slice]


_WHOLE = slice(None), slice(None)


class Tiled(nn.Module):
    """A network that upscales an image in tiles if it is too large to process at once.

    If every operation of the network is local, tiles overlap by as many pixels as an output depends on, and
    the result equals the whole-image result. Otherwise (pooling over the image, attention over segments,
    ESA), the result differs, whatever the overlap. ``note`` says which is the case.

    Args:
        network: ``(N, C, H, W)`` -> ``(N, C, rH, rW)``: a network, or the backend that runs it.
        tile: ``auto``: whole images as far as ``memory`` allows, then nearly square tiles. ``none``: always
            the whole image. Or the side of a tile in LR pixels, overlap included.
        memory: Bytes of intermediate results that a tile may take. ``None``: half of what is free on the GPU
            of the network, or 2 GiB on a CPU.
        like: The torch network behind ``network``, whose memory and reach decide the tiles; both are computed
            once per network. ``None``: ``network`` itself.

    Raises:
        ConfigError: ``tile`` has any other value; in ``pieces``, it is too small for the overlap.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        tile: Tile = "auto",
        memory: int | None = None,
        like: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if tile not in ("auto", "none") and (type(tile) is not int or tile < 1):
            raise ConfigError(f"tile: got {tile!r}; allowed: auto, none, or the side of a tile in LR pixels")
        self.network = network
        self.tile = tile
        self._memory = memory
        self.colour = colour_of(network)
        self.note: str | None = None  # describes the tiles of the last tiled image
        self._like = [network if like is None else like]  # a network in a list is not a submodule

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return measured_scale(self._like[0])

    @property
    def memory(self) -> int:
        """Bytes of intermediate results that a tile may take."""
        if self._memory is None:
            device = self._device
            self._memory = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else MEMORY
        return self._memory

    @memory.setter
    def memory(self, memory: int) -> None:
        self._memory = memory

    @property
    def _device(self) -> torch.device:
        weight = next(self.network.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    @property
    def is_exact(self) -> bool:
        """Whether an image in tiles equals the whole image."""
        return reach(self._like[0]) is not None

    def with_memory(self, memory: int) -> "Tiled":
        """The same network, whose tiles may take a different amount of memory."""
        return Tiled(self.network, tile=self.tile, memory=memory, like=self._like[0])

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale a batch, in tiles if needed."""
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
        """How an image is divided; a single piece is the whole image.

        Args:
            height: Rows of LR pixels.
            width: Columns of LR pixels.
            batch: Number of images that are upscaled together.
        """
        tile = self._tile(height, width, batch)
        if tile == (height, width):
            return [Piece(_WHOLE, _WHOLE, _WHOLE)]
        network = self._like[0]
        grid = _grid(network)
        equal = "not equal" if reach(network) is None else "equal"
        self.note = (
            f"{width}x{height} pixels in tiles of {tile[1]}x{tile[0]}, overlapping by {grid.overlap}; "
            f"{equal} to the whole image"
        )
        rows, columns = (
            _cuts(length, side, grid, self.scale) for length, side in zip((height, width), tile, strict=True)
        )
        return [Piece(*zip(row, column, strict=True)) for row in rows for column in columns]

    def _tile(self, height: int, width: int, batch: int) -> tuple[int, int]:
        """Rows and columns of a tile; those of the whole image if it is not divided."""
        size, network = (height, width), self._like[0]
        if self.tile == "none" or (self.tile == "auto" and batch * height * width <= ALWAYS_WHOLE):
            return size
        if isinstance(self.tile, int):
            if max(size) <= self.tile:
                return size
            grid = _grid(network)
            if self.tile < grid.smallest:
                raise ConfigError(
                    f"tile: tiles of {type(network).__name__} overlap by {grid.overlap} LR pixels on every "
                    f"side, got tile={self.tile}; allowed: {grid.smallest} or more, auto or none"
                )
            return min(height, self.tile), min(width, self.tile)
        max_pixels = int(self.memory / (batch * bytes_per_pixel(network)))
        if height * width <= max_pixels:
            return size
        overlap = reach(network)
        if overlap is None:
            max_pixels = _ATTENTION_TILE**2 if is_quadratic(network) else max(max_pixels, _FAR_TILE**2)
        elif self._device.type == "cpu":
            reused = int(_REUSED / (batch * bytes_of_a_result(network)))
            if math.isqrt(reused) >= _OVERLAPS * overlap:
                max_pixels = min(max_pixels, reused)
        return _nearly_square(size, max_pixels, _grid(network))


class _Grid(NamedTuple):
    """Limits on the tiles of a network, in LR pixels.

    Args:
        overlap: Pixels read on each side of the part that is kept.
        align: Tiles start at multiples of this number.
        smallest: Minimum side of a tile.
    """

    overlap: int
    align: int
    smallest: int


def _grid(network: nn.Module) -> _Grid:
    pixels = reach(network)
    overlap, align = (_FAR_OVERLAP, _FAR_ALIGN) if pixels is None else (pixels, 1)
    return _Grid(overlap, align, max(2 * overlap, min_size_of(network)) + align)


def _nearly_square(size: tuple[int, int], max_pixels: int, grid: _Grid) -> tuple[int, int]:
    """Height and width of tiles of at most ``max_pixels``: as high as a square, then as wide as fits.

    Over all networks, this costs 0.3 (Set14) to 0.9 % (9000x9900 pixels) more multiply-adds than the best
    possible tiles. If even the smallest tile has more than ``max_pixels``, the smallest tile is used.
    """
    rows = _even_side(size[0], math.isqrt(max_pixels), grid)
    return rows, _even_side(size[1], max_pixels // rows, grid)


def _even_side(length: int, largest: int, grid: _Grid) -> int:
    """Side of the tiles along an axis; there are as few equal tiles as ``largest`` allows."""
    largest = max(largest, grid.smallest)
    if largest >= length:
        return length
    inner = length - 2 * grid.overlap
    count = math.ceil(inner / ((largest - 2 * grid.overlap) // grid.align * grid.align))
    return max(grid.smallest, math.ceil(inner / count / grid.align) * grid.align + 2 * grid.overlap)


def _cuts(length: int, tile: int, grid: _Grid, scale: int) -> list[tuple[slice, slice, slice]]:
    """What each tile reads, keeps and writes along an axis (see `Piece`).

    All tiles have the same side, except that ``align`` may make the last one shorter. At the edges of the
    image nothing is cut off, since the network does its own padding there.
    """
    starts = [0]
    if tile < length:
        last = math.ceil((length - tile) / grid.align) * grid.align
        step = (tile - 2 * grid.overlap) // grid.align * grid.align
        starts = [*range(0, last, step), last]
    kept = [0, *(start + grid.overlap for start in starts[1:]), length]
    return [
        (
            slice(start, min(start + tile, length)),
            slice(scale * (begin - start), scale * (end - start)),
            slice(scale * begin, scale * end),
        )
        for start, begin, end in zip(starts, kept[:-1], kept[1:], strict=True)
    ]
