"""List the image files of a folder, and read their pixels as 8-bit RGB."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from sr_lab.datasets.registry import how_to_get
from sr_lab.errors import DataError
from sr_lab.files import below
from sr_lab.system.unix import at_once

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MAX_PIXELS = 89_478_485  # Pillow's limit; a larger image is treated as a decompression bomb

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
_Level = TypeVar("_Level", bound=np.unsignedinteger[Any])

_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


def list_images(folder: str | Path, *, where: str = "images") -> list[Path]:
    """Image files of a folder, sorted by name; hidden files and subfolders are skipped.

    Args:
        folder: Folder to look in.
        where: The setting that names it, for messages.

    Returns:
        At least one path; no two have the same stem.

    Raises:
        DataError: The folder is missing, has no image, or has two images with the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{where}: there is no folder {folder}; put the images there or give another folder"
            f"{how_to_get(folder)}"
        )
    files = _images_in(folder)
    if not files:
        raise DataError(f"{where}: the folder {folder} has no image; {_instead_of(folder)}")
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f"{where}: {other.name} and {path.name} in {folder} have the same stem; "
                "remove or rename one of them"
            )
    return files


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
        ),
        key=lambda path: path.name,
    )


_SHOWN = 3  # maximum number of sub-folders that an error lists


def _instead_of(folder: Path) -> str:
    """What to do about a folder without images: use a sub-folder that has images, if there is one."""
    found = []
    images = (path for path in below(folder) if path.suffix.lower() in EXTENSIONS)
    for place in sorted({path.parent for path in images}):
        hidden = any(part.startswith(".") for part in place.relative_to(folder).parts)
        if not hidden and (here := _images_in(place)):
            found.append(f"{len(here)} in {place}")
            if len(found) > _SHOWN:
                break
    if not found:
        return f"allowed: {', '.join(EXTENSIONS)}"
    more = ", ..." if len(found) > _SHOWN else ""
    return (
        f"its sub-folders have images, which are not searched: {', '.join(found[:_SHOWN])}{more}; give these"
    )


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Pixels of an image file as 8-bit RGB.

    Grey becomes three equal channels, palettes and CMYK become RGB, transparent pixels are put on white,
    16-bit values keep only their high byte, and the camera's EXIF orientation is applied. Colour profiles are
    ignored.

    Args:
        path: File in one of the formats of `EXTENSIONS`, recognised by its content.

    Returns:
        Array ``(H, W, 3)``.

    Raises:
        DataError: The file is missing, broken, truncated, animated or too large, or has more than 16 bits per
            value.
    """
    with open_image(path) as image:
        if image.mode in ("I", "F"):
            raise DataError(f"images: {path} has 32-bit values; allowed: 8 or 16 bits; convert it first")
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels of the image that `read_image` would return, without decoding the file.

    Raises:
        DataError: The file is missing or not an image.
    """
    with open_image(path) as image:
        width, height = image.size
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_turned else (height, width)


@contextlib.contextmanager
def open_image(
    path: str | Path,
    *,
    max_pixels: float | None = None,
    formats: Sequence[str] = FORMATS,
    may_move: bool = False,
) -> Iterator[Image.Image]:
    """Open an image file that may be broken or hostile; an exception in the block is reported as a DataError.

    Args:
        path: As in `read_image`.
        max_pixels: Maximum number of pixels, by default `MAX_PIXELS`; larger limits need the user's consent.
        formats: Pillow's names of the allowed formats.
        may_move: Whether the file may contain several images.

    Raises:
        DataError: The file is missing, broken, truncated, animated or too large.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # if another library has set it, missing parts become grey
    most = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with _at_most(most), _Reader(path) as file, Image.open(file, formats=tuple(formats)) as image:
            _check(path, image, most, is_fixed=max_pixels is None, may_move=may_move)
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many exception types for broken files
        is_other = isinstance(error, UnidentifiedImageError)
        said = f"it is not one of {', '.join(formats)}" if is_other else " ".join(str(error).split())
        raise DataError(f"images: cannot read {path}: {said}; replace or remove the file") from error


@contextlib.contextmanager
def _at_most(pixels: float) -> Iterator[None]:
    """Turn off Pillow's own limit, which also causes warnings, if ours is higher."""
    before = Image.MAX_IMAGE_PIXELS
    if before is not None and pixels > before:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


class _Reader(io.BufferedReader):
    """A file that allows only as many reads as an image of its size needs.

    A file of a few megabytes may have a million empty parts, which would take Pillow minutes to read.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path, opener=at_once))
        self.size = os.fstat(self.fileno()).st_size
        self._left = 10_000 + self.size // 64  # a part of a GIF has 256 bytes and is read in two pieces

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BufferedReader` does.

        Raises:
            OSError: The file has too many parts.
        """
        self._left -= 1
        if self._left < 0:
            raise OSError("it has too many parts for its size")
        return super().read(size)


def is_grey(path: str | Path) -> bool:
    """Whether an image file has one channel apart from alpha; a palette or equal channels do not count.

    Raises:
        DataError: The file is missing or not an image.
    """
    with open_image(path) as image:
        return image.mode in _GREY_MODES


def _check(path: str | Path, image: Image.Image, most: float, *, is_fixed: bool, may_move: bool) -> None:
    width, height = image.size
    if width * height > most:
        instead = "cut it into pieces" if is_fixed else "raise max_pixels, or cut it into pieces"
        raise DataError(f"images: {path} has {width}x{height} pixels; allowed: {most:.0f} in all; {instead}")
    # A camera's JPEG may contain several images (MPO: depth, preview); the first is the photograph.
    if not may_move and getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"images: {path} is animated or has several pages; save one frame as its own file")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        image = high_bytes(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(white, layer).convert("RGB"))
    return np.array(image.convert("RGB"))


def high_bytes(image: Image.Image) -> Image.Image:
    """Reduce a 16-bit grey image to 8 bits; a PNG's transparent value becomes an alpha channel."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        is_seen = values != image.info["transparency"]
        grey.putalpha(Image.fromarray(255 * is_seen.astype(np.uint8)))
    return grey


def loses_depth(image: Image.Image) -> bool:
    """Whether Pillow will reduce the 16-bit colours of an opened, not yet loaded image to 8 bits."""
    return not image.mode.startswith("I") and any(
        ";16" in str(part.args) for part in getattr(image, "tile", ())
    )


def spread(colours: NDArray[_Level], is_seen: NDArray[np.bool_]) -> NDArray[_Level]:
    """Give invisible pixels the colours of the nearest visible pixels.

    The colour of a transparent pixel is arbitrary, and a filter would mix it into its neighbours. Each such
    pixel gets the mean of the visible pixels in the smallest block around it (2x2, 4x4, ...) that contains
    any.

    Args:
        colours: ``(H, W)`` or ``(H, W, C)`` of 8 or 16 bits.
        is_seen: ``(H, W)``, true for pixels that are not fully transparent.

    Returns:
        The colours; those of visible pixels are unchanged.
    """
    if is_seen.all() or not is_seen.any():
        return colours
    height, width = is_seen.shape
    mask = is_seen.reshape(height, width, *(1,) * (colours.ndim - 2))
    sums, counts = _of_blocks(colours * mask), _of_blocks(mask)
    means: NDArray[_Level] = ((sums + counts // 2) // np.maximum(counts, 1)).astype(colours.dtype)
    coarse = spread(means, counts.reshape(counts.shape[:2]) > 0)
    return np.where(mask, colours, coarse.repeat(2, 0).repeat(2, 1)[:height, :width])


def _of_blocks(values: NDArray[np.generic]) -> NDArray[np.uint32]:
    """Sums of blocks of 2x2 pixels; pixels outside the image are 0."""
    height, width, *rest = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2), *((0, 0) for _ in rest)))
    rows = np.add(even[::2], even[1::2], dtype=np.uint32)
    sums: NDArray[np.uint32] = rows[:, ::2] + rows[:, 1::2]
    return sums
