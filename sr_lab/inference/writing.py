"""Write upscaled images as PNG, JPEG, WebP, TIFF or GIF, each with a stamp that says what made it."""

import contextlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sr_lab import files
from sr_lab.datasets.images import open_image
from sr_lab.errors import DataError
from sr_lab.inference.pictures import Note, Picture
from sr_lab.inference.reading import Frame, ImageInfo

Format: TypeAlias = Literal["png", "jpeg", "webp", "tiff", "gif"]
FORMAT_OF: dict[str, Format] = {
    **dict.fromkeys((".png", ".apng"), "png"),
    **dict.fromkeys((".jpg", ".jpeg"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    ".webp": "webp",
    ".gif": "gif",
}
SUFFIX_OF: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "gif": ".gif"}

_STAMP = "sr_lab"  # keyword of the text in a PNG; beginning of the stamp in other formats
_LEVEL = 3  # zlib's level: a third of the time of the default 6, for 8 % more bytes
_SIDES: dict[Format, int] = {"jpeg": 65_500, "webp": 16_383, "gif": 65_535}  # longest side in pixels
_MAX_TIFF = 2**32 - 2**20  # bytes; offsets have 32 bits
_MAX_JPEG_EXIF = 65_533  # bytes
_LONGEST: dict[Format, int] = {"png": 65_535, "gif": 655_350, "webp": 2**24 - 1}  # ms of a frame
_ROWS = 64  # rows of a PNG that are filtered together


def moving_format(about: ImageInfo) -> Format:
    """The format in which an animation stays an animation."""
    formats: dict[str | None, Format] = {"GIF": "gif", "PNG": "png"}
    return formats.get(about.format, "webp")


def refuse_unwritable(about: ImageInfo, scale: int, form: Format) -> None:
    """Refuse a result that its format cannot hold, before it is computed.

    Raises:
        DataError: The result is too large, or it is an animation and the format holds only still images.
    """
    height, width = (scale * side for side in about.size)
    if max(height, width) > _SIDES.get(form, 2**31 - 1) or (
        form == "tiff" and 8 * height * width > _MAX_TIFF
    ):
        raise DataError(f"format: {form} cannot hold {width}x{height} pixels; set format=png")
    if about.moves and form in ("jpeg", "tiff"):
        raise DataError(f"format: {form} cannot hold an animation; allowed: auto, gif, png, webp")
    if not about.moves and form == "gif":
        raise DataError(
            "format: gif has only 256 colours and is for animations; allowed: png, jpeg, webp, tiff"
        )


def write(
    frames: Sequence[Frame],
    about: ImageInfo,
    output: Path | BinaryIO,
    form: Format,
    quality: int,
    stamp: str,
    note: Note,
) -> None:
    """Write a result atomically; missing folders are made.

    Args:
        frames: The upscaled images; one, unless it is an animation.
        about: The metadata of the input, which is kept as far as the format allows.
        output: The file, or an open one.
        form: The format.
        quality: Of JPEG and WebP, 1 to 100; 100 is lossless for WebP.
        stamp: Identifies input and network, see `stamp_of`.
        note: Called with a sentence about what the format cannot hold.

    Raises:
        OSError: The file cannot be written.
    """
    if not isinstance(output, Path):
        _encode(frames, about, output, form, quality, stamp, note)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(output) as file:
        _encode(frames, about, file, form, quality, stamp, note)


def stamp_of(path: Path) -> str | None:
    """The stamp of a file, without decoding its image; ``None`` if the file is not one of our results."""
    if not path.is_file():  # opening a named pipe would block
        return None
    with contextlib.suppress(OSError, DataError), open_image(path, max_pixels=np.inf, may_move=True) as image:
        text = image.info.get(_STAMP)
        if image.format == "PNG":
            return text if isinstance(text, str) else None
        given = image.info.get("comment", b"") if image.format == "GIF" else _processed_by(image)
        text = given.decode("latin-1") if isinstance(given, bytes) else str(given)
        if text.startswith(f"{_STAMP} "):
            return text.removeprefix(f"{_STAMP} ").rstrip("\0")
    return None


def _processed_by(image: Image.Image) -> object:
    return image.getexif().get(ExifTags.Base.ProcessingSoftware, "")


def _encode(
    frames: Sequence[Frame],
    about: ImageInfo,
    file: BinaryIO,
    form: Format,
    quality: int,
    stamp: str,
    note: Note,
) -> None:
    if about.moves:
        _animation(frames, about, file, form, quality, stamp, note)
        return
    (frame,) = frames
    picture = frame.picture
    if form == "png":
        _png(picture, file, icc=about.icc, dpi=about.dpi, exif=about.exif, stamp=stamp)
        return
    if form == "tiff" and picture.channels().ndim == 3 and picture.colours.dtype == np.uint16:
        _deep_tiff(picture, file, icc=about.icc, dpi=about.dpi, stamp=stamp)
        if about.exif:
            note("the EXIF record is dropped: TIFF with 16-bit colours is written without it; PNG keeps it")
        return
    if form != "tiff" and picture.colours.dtype == np.uint16:
        note(f"16 bits become 8: {form} has only 8; png and tiff have 16")
    picture = picture if form == "tiff" else picture.in_8_bits()
    if form == "jpeg" and picture.alpha is not None:
        note("transparent pixels are put on white: jpeg has no transparency; png, webp and tiff do")
    image = _opaque(picture) if form == "jpeg" else _image(picture)
    exif = _stamped(about.exif, stamp)
    if form == "jpeg" and len(exif.tobytes()) > _MAX_JPEG_EXIF:
        note("the EXIF record is dropped: it is too large for jpeg; png, webp and tiff can hold it")
        exif = _stamped(b"", stamp)
    more: dict[str, object] = {"exif": exif}
    if about.icc is not None:
        more["icc_profile"] = about.icc
    if about.dpi is not None and form != "webp":
        more["dpi"] = about.dpi
    if form == "jpeg":
        more |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}
    elif form == "webp":
        more |= {"quality": quality, "lossless": quality == 100, "method": 4}
    image.save(file, form.upper(), **more)


def _stamped(exif: bytes, stamp: str) -> Image.Exif:
    copy = Image.Exif()
    copy.load(exif)
    copy[ExifTags.Base.ProcessingSoftware] = f"{_STAMP} {stamp}"
    return copy


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture.channels()), *_mode_of(picture))


def _mode_of(picture: Picture) -> tuple[str, ...]:
    return ("LA",) if picture.colours.ndim == 2 and picture.alpha is not None else ()


def _opaque(picture: Picture) -> Image.Image:
    if picture.alpha is None:
        return _image(picture)
    white = Image.new("L" if picture.colours.ndim == 2 else "RGB", picture.size[::-1], "white")
    white.paste(Image.fromarray(picture.colours), mask=Image.fromarray(picture.alpha))
    return white


def _animation(
    frames: Sequence[Frame],
    about: ImageInfo,
    file: BinaryIO,
    form: Format,
    quality: int,
    stamp: str,
    note: Note,
) -> None:
    """Write frames, each a whole image that replaces the one before."""
    is_clear = any(frame.picture.alpha is not None for frame in frames)
    images = [_image(frame.picture.in_8_bits()).convert("RGBA" if is_clear else "RGB") for frame in frames]
    more: dict[str, object] = {
        "save_all": True,
        "append_images": images[1:],
        "duration": [min(max(0, round(frame.duration)), _LONGEST[form]) for frame in frames],
    }
    if (longest := max(frame.duration for frame in frames)) > _LONGEST[form]:
        note(f"a frame of {longest / 1e3:g} s is shown for {_LONGEST[form] / 1e3:g} s, the longest in {form}")
    if about.loop is not None and (form != "gif" or about.loop != 1):
        more["loop"] = about.loop
    if form == "gif":
        more |= {"comment": f"{_STAMP} {stamp}".encode(), "disposal": 2 if is_clear else 1}
    elif form == "png":
        text = PngInfo()
        text.add_text(_STAMP, stamp)
        more |= {"pnginfo": text, "compress_level": _LEVEL, "icc_profile": about.icc, "blend": 0}
        more |= {"exif": about.exif} if about.exif else {}
    else:
        more |= {"exif": _stamped(about.exif, stamp), "quality": quality, "lossless": quality == 100}
        more |= {} if about.icc is None else {"icc_profile": about.icc}
    images[0].save(file, form.upper(), **more)


def _deep_tiff(
    picture: Picture, file: BinaryIO, *, icc: bytes | None, dpi: tuple[float, float] | None, stamp: str
) -> None:
    """Write 16-bit colours, which Pillow cannot."""
    import tifffile  # only a 16-bit TIFF needs it

    pixels = picture.channels()
    if picture.colours.ndim == 2:  # Pillow would not read grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb",
        planarconfig="contig",
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        iccprofile=icc,
        resolution=dpi,
        resolutionunit=None if dpi is None else 2,
        software=False,
        metadata=None,
        extratags=[(int(ExifTags.Base.ProcessingSoftware), 2, 0, f"{_STAMP} {stamp}", True)],
    )


# Pillow writes a PNG with only 8 bits, from a copy of the image that has four bytes for each pixel.


def _png(
    picture: Picture,
    file: BinaryIO,
    *,
    icc: bytes | None,
    dpi: tuple[float, float] | None,
    exif: bytes,
    stamp: str,
) -> None:
    is_grey, height, width = picture.colours.ndim == 2, *picture.size
    bits = 8 * picture.colours.dtype.itemsize
    colour_type = (0 if is_grey else 2) + (4 if picture.alpha is not None else 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    if icc is not None:
        _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if dpi is not None:
        per_metre = (round(value / 0.0254) for value in dpi)
        _chunk(file, b"pHYs", struct.pack(">IIB", *per_metre, 1))
    _chunk(file, b"tEXt", f"{_STAMP}\0{stamp}".encode())
    if exif:
        _chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(_LEVEL)
    above: NDArray[np.uint8] | None = None
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        values = Picture(
            picture.colours[rows], None if picture.alpha is None else picture.alpha[rows]
        ).channels()
        lines = np.ascontiguousarray(values, values.dtype.newbyteorder(">")).view(np.uint8)
        lines = lines.reshape(len(values), -1)
        step = lines.shape[1] // width  # bytes of a pixel
        if packed := packer.compress(_filtered(lines, above, step).tobytes()):
            _chunk(file, b"IDAT", packed)
        above = lines[-1]
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _filtered(lines: NDArray[np.uint8], above: NDArray[np.uint8] | None, step: int) -> NDArray[np.uint8]:
    """Rows with their filter's number in front; each gets the filter with the smallest differences.

    Args:
        lines: ``(rows, bytes)``.
        above: The row before the first one, ``None`` at the top of the image.
        step: Bytes of a pixel.
    """
    padded = np.zeros((len(lines) + 1, lines.shape[1] + step), np.uint8)
    padded[1:, step:] = lines
    if above is not None:
        padded[0, step:] = above
    left, up, corner = padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]
    candidates = {1: lines - left, 2: lines - up, 4: lines - _paeth(left, up, corner)}
    best = np.full(len(lines), np.iinfo(np.int64).max)
    filtered = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
    for number, differences in candidates.items():
        cost = np.abs(differences.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64)
        is_better = cost < best
        best[is_better] = cost[is_better]
        filtered[is_better, 0] = number
        filtered[is_better, 1:] = differences[is_better]
    return filtered


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whichever neighbour is nearest to ``left + up - corner`` (PNG specification, 9.4)."""
    to_left = np.abs(up.astype(np.int16) - corner)
    to_up = np.abs(left.astype(np.int16) - corner)
    to_corner = np.abs(left.astype(np.int16) + up - 2 * corner.astype(np.int16))
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
