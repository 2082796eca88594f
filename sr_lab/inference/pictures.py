"""The pixels of an image as arrays, and how a network upscales them region by region."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sr_lab.datasets.images import high_bytes, spread
from sr_lab.errors import DataError
from sr_lab.inference.tiling import Tiled
from sr_lab.inference.upscaling import upscale_batch

Pixels: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Progress: TypeAlias = Callable[[float], object]
Note: TypeAlias = Callable[[str], object]
Region: TypeAlias = tuple[slice, slice]

Value = TypeVar("Value", bound=np.generic)

PEAKS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}

CMYK_NOTE = "the CMYK colour profile is dropped: the colours become RGB without it, and may look different"

# Modes that can be converted to RGB or grey; the range of "I" and "F" is unknown.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class Picture:
    """An image with 8 or 16 bits for each value.

    Args:
        colours: ``(H, W)`` for grey or ``(H, W, 3)`` for RGB.
        alpha: ``(H, W)`` of the same type, or ``None`` for an opaque image.
    """

    colours: Pixels
    alpha: Pixels | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.colours.shape[:2]
        return height, width

    def turned(self, orientation: int) -> "Picture":
        """A camera's image turned upright, by its EXIF orientation 1 to 8."""
        if orientation not in _UPRIGHT:
            return self
        turn = _UPRIGHT[orientation]
        return Picture(turn(self.colours), None if self.alpha is None else turn(self.alpha))

    def channels(self) -> Pixels:
        """Colours and alpha in one array ``(H, W)`` or ``(H, W, C)``."""
        return self.colours if self.alpha is None else np.dstack((self.colours, self.alpha))

    def in_8_bits(self) -> "Picture":
        """The image with the values rounded to 8 bits."""
        if self.colours.dtype == np.uint8:
            return self
        return Picture(_rounded(self.colours), None if self.alpha is None else _rounded(self.alpha))


def _rounded(values: Pixels) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


def of_pillow(image: Image.Image) -> Picture:
    """The pixels of a Pillow image; palettes, CMYK and the like become RGB.

    16-bit grey with transparency is reduced to 8 bits.

    Raises:
        DataError: The image has no pixels, or values of unknown range.
    """
    if not (image.width and image.height):
        raise DataError(
            f"upscale: the image has no pixels, got {image.width}x{image.height}; allowed: 1x1 or larger"
        )
    if image.mode.startswith("I;16"):
        if not image.has_transparency_data:
            return Picture(np.asarray(image).astype(np.uint16))
        image = high_bytes(image)
    refuse_unknown_range(image)
    grey = image.mode in ("1", "L", "LA", "La")
    layer = image.convert("RGBA") if image.has_transparency_data else image
    colours = np.asarray(layer.convert("L" if grey else "RGB"))
    return Picture(colours, None if layer is image else np.asarray(layer.getchannel("A")))


def refuse_unknown_range(image: Image.Image) -> None:
    """Refuse an image whose mode does not define the value range, such as 32-bit integers or floats.

    Raises:
        DataError: The range is unknown.
    """
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise DataError(
            f"upscale: cannot upscale a Pillow image of mode {image.mode}, whose range is unknown; "
            f"allowed: {', '.join(_MODES)}, I;16; or pass an array"
        )


def seen(picture: Picture) -> Pixels:
    """The colours that are upscaled: fully transparent pixels get those of their surroundings."""
    return picture.colours if picture.alpha is None else spread(picture.colours, picture.alpha > 0)


def parts(
    image: NDArray[np.generic], model: Tiled, progress: Progress
) -> Iterator[tuple[Region, NDArray[np.generic]]]:
    """Yield regions of the SR image, in the type of ``image``; only regions are held as floats.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` of uint8, uint16, or floats in [0, 1].
        model: The network.
        progress: Called with the finished share of the image after each region.
    """
    peak = PEAKS.get(image.dtype, 1)
    pieces = model.pieces(*image.shape[:2])
    for number, piece in enumerate(pieces, start=1):
        values = np.atleast_3d(image[piece.read]).astype(np.float64)
        pixels = torch.from_numpy(values).permute(2, 0, 1)[None] / peak
        levels = upscale_batch(model.network, pixels)[0].permute(1, 2, 0)[piece.keep].double()
        sr = (levels if peak == 1 else levels.mul_(peak).add_(0.5).floor_()).numpy()
        yield piece.write, sr.astype(image.dtype).reshape(*sr.shape[:2], *image.shape[2:])
        progress(number / len(pieces))


def whole(image: NDArray[Value], model: Tiled, progress: Progress) -> NDArray[Value]:
    """The SR image of an array; see `parts`."""
    height, width = (size * model.scale for size in image.shape[:2])
    sr = np.empty((height, width, *image.shape[2:]), image.dtype)
    for (rows, columns), part in parts(image, model, progress):
        sr[rows, columns] = part
    return sr


def larger_alpha(alpha: Pixels, scale: int) -> Pixels:
    """An alpha channel, upscaled bicubically."""
    height, width = alpha.shape
    size = scale * width, scale * height
    if alpha.dtype == np.uint8:
        return np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
    values = np.asarray(Image.fromarray(alpha.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    return np.floor(values.clip(0, 65535) + 0.5).astype(np.uint16)


def upscaled(picture: Picture, model: Tiled, progress: Progress) -> Picture:
    """The SR image of a picture, with the same channels and bit depth."""
    colours = whole(seen(picture), model, progress)
    alpha = None if picture.alpha is None else larger_alpha(picture.alpha, model.scale)
    return Picture(colours, alpha)
