"""Read an image file at its full bit depth, with all frames and metadata."""

import contextlib
import importlib
import io
import itertools
import math
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from sr_lab.datasets.images import EXTENSIONS, FORMATS, loses_depth, open_image
from sr_lab.errors import DataError
from sr_lab.inference.pictures import CMYK_NOTE, Note, Picture, Pixels, of_pillow, refuse_unknown_range

# Formats that only upscaling reads; Pillow reads HEIC with the package pillow-heif.
_MORE = ("AVIF", "JPEG2000", "HEIF")
SUFFIXES = (*EXTENSIONS, ".apng", ".avif", ".jp2", ".j2k", ".heic", ".heif")
_MOVING = ("GIF", "PNG", "WEBP", "AVIF")  # formats in which several images are an animation

# Tags that stay true of a larger image; other tags describe how the pixels of the old file were stored.
_KEPT = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright, ExifTags.Base.Rating),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor, ExifTags.Base.XPKeywords),
)
_SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)  # of the old image


@dataclass(frozen=True)
class ImageInfo:
    """What an image file contains in addition to its pixels.

    Args:
        size: Height and width of the upright image.
        format: Pillow's name of the file's format.
        moves: Whether the file is an animation.
        icc: Colour profile.
        dpi: Horizontal and vertical pixels per inch.
        exif: The camera's record, with the orientation reset.
        loop: How many times an animation is shown (0: endlessly); ``None`` if the file does not say.
    """

    size: tuple[int, int]
    format: str
    moves: bool
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes = b""
    loop: int | None = None


@dataclass(frozen=True)
class Frame:
    """One image of a file, and how many milliseconds an animation shows it."""

    picture: Picture
    duration: float = 0.0


def _formats() -> list[str]:
    """Pillow's names of the formats that can be read here."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in (*FORMATS, *_MORE) if name in Image.OPEN]


def read_info(path: Path, max_pixels: float) -> ImageInfo:
    """The metadata of a file, from its header.

    Raises:
        DataError: The file is missing or broken, has more pixels than allowed or values of unknown range, or
            has several pages.
    """
    formats = _formats()
    if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in formats:
        raise DataError(f"images: cannot read {path}: HEIC needs another package; pip install pillow-heif")
    with open_image(path, max_pixels=max_pixels, formats=formats, may_move=True) as image:
        refuse_unknown_range(image)
        return _about(path, image)


def _about(path: Path, image: Image.Image) -> ImageInfo:
    several = bool(getattr(image, "is_animated", False))
    if several and image.format not in (*_MOVING, "MPO"):
        raise DataError(f"images: {path} has several pages; save one page as its own file")
    given = Image.Image.getexif(image)  # Pillow's method for PNG would decode the pixels
    width, height = image.size
    if given.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8) and image.format != "TIFF":
        width, height = height, width
    return ImageInfo(
        size=(height, width),
        format=str(image.format),
        moves=several and image.format in _MOVING,
        icc=None if image.mode == "CMYK" else image.info.get("icc_profile"),
        dpi=_dpi(image.info.get("dpi")),
        exif=_exif(given),
        loop=image.info.get("loop", 1 if image.format == "GIF" else None),
    )


def _dpi(given: object) -> tuple[float, float] | None:
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        horizontal, vertical = (float(value) for value in given)  # type: ignore[attr-defined]  # or a TypeError
        if 1 <= horizontal < 1e6 and 1 <= vertical < 1e6:
            return horizontal, vertical
    return None


def _exif(given: Image.Exif) -> bytes:
    kept = Image.Exif()
    for tag in _KEPT:
        if tag in given:
            kept[tag] = given[tag]
    for group in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := {tag: value for tag, value in given.get_ifd(group).items() if tag not in _SIZES}:
            kept[group] = values
    if ExifTags.Base.Orientation in given:
        kept[ExifTags.Base.Orientation] = 1
    try:
        return kept.tobytes() if len(kept) else b""
    except Exception:  # Pillow raises many exception types for values that it has read but cannot write
        return b""


def read_frames(path: Path, max_pixels: float, note: Note) -> Iterator[Frame]:
    """The upright images of a file in turn; only an animation has several.

    Args:
        path: The file.
        max_pixels: Maximum number of pixels of an image, and of all frames of an animation together.
        note: Called with a sentence if bits or the colour profile are lost.

    Raises:
        DataError: As `read_info`; or the pixels cannot be read, or an animation has too many pixels.
    """
    with open_image(path, max_pixels=max_pixels, formats=_formats(), may_move=True) as image:
        about = _about(path, image)
        if image.mode == "CMYK" and "icc_profile" in image.info:
            note(CMYK_NOTE)
        if not about.moves:
            yield Frame(_picture(path, image, max_pixels, note))
            return
        first = 1 if image.info.get("default_image") else 0  # a still for programs that show no animation
        for number in itertools.count(first):
            try:
                image.seek(number)
            except EOFError:
                return
            if (number + 1 - first) * math.prod(image.size) > max_pixels:
                raise DataError(
                    f"images: {path} has more than {max_pixels:.0f} pixels in all frames together; "
                    "raise max_pixels"
                )
            image.load()
            duration = image.info.get("duration", 0)
            yield Frame(of_pillow(image), float(duration) if isinstance(duration, (int, float)) else 0.0)


def _picture(path: Path, image: Image.Image, max_pixels: float, note: Note) -> Picture:
    picture = _deep(path, image, max_pixels) if loses_depth(image) else None
    if picture is None:
        if loses_depth(image):
            note("16 bits become 8: files of this kind are read with 8 bits")
        elif image.mode.startswith("I;16") and image.has_transparency_data:
            note("16 bits become 8: 16-bit grey with a transparent value is read with 8 bits")
        image.load()
        picture = of_pillow(image)
    return picture.turned(image.getexif().get(ExifTags.Base.Orientation, 1) if image.format != "TIFF" else 1)


def _deep(path: Path, image: Image.Image, max_pixels: float) -> Picture | None:
    """The 16-bit colours of a PNG or TIFF file, of which Pillow's own images have only the high bytes.

    Pillow unpacks such values to either byte, depending on the stated byte order, so two passes give both.
    """
    layout = {_layout(part.args) for part in getattr(image, "tile", ())}
    if layout == {"LA;16B"} and image.format == "PNG":
        return _deep_grey(path, max_pixels)
    if len(layout) != 1 or not layout <= _ORDERS.keys():
        return None
    high, low = (_bytes(path, max_pixels, swap=swap) for swap in (False, True))
    values: Pixels = high.astype(np.uint16) << np.uint16(8) | low
    if values.shape[2] == 4:
        return Picture(values[..., :3], values[..., 3])
    if (invisible := image.info.get("transparency")) is not None:  # in the header of a PNG
        is_seen = (values != np.array(invisible, np.uint16)).any(2)
        return Picture(values, is_seen.astype(np.uint16) * np.uint16(65535))
    return Picture(values)


_NATIVE, _OTHER = ("L", "B") if sys.byteorder == "little" else ("B", "L")
_ORDERS = {
    f"{mode};16{order}": f"{mode};16{swapped}"
    for mode in ("RGB", "RGBA")
    for order, swapped in (("L", "B"), ("B", "L"), ("N", _OTHER))
}


def _layout(arguments: object) -> str:
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _bytes(path: Path, max_pixels: float, *, swap: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The high bytes of the values; with ``swap``, the low bytes."""
    with open_image(path, max_pixels=max_pixels) as image:
        if swap:
            image.tile = [  # type: ignore[attr-defined]  # of an ImageFile
                part._replace(
                    args=(_ORDERS[part.args[0]], *part.args[1:])
                    if isinstance(part.args, tuple)
                    else _ORDERS[part.args]
                )
                for part in image.tile  # type: ignore[attr-defined]
            ]
        image.load()
        return np.array(image)


def _deep_grey(path: Path, max_pixels: float) -> Picture:
    """The values of a 16-bit PNG file with grey and alpha, read as if their four bytes were RGBA."""
    with open_image(path, max_pixels=max_pixels):
        content = bytearray(path.read_bytes())
    content[24:26] = 8, 6  # bits of a value, and the colour type
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        values = np.array(image).view(">u2").astype(np.uint16)
    return Picture(values[..., 0], values[..., 1])
