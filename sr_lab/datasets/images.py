"""Image files: which there are in a folder, and their pixels as 8-bit RGB."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sr_lab.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MAX_PIXELS = 89_478_485  # a larger image is taken for a decompression bomb: the limit at which Pillow warns

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


def list_images(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files and subfolders are skipped.

    Args:
        folder: Folder to look in.

    Returns:
        At least one path, no two with the same stem.

    Raises:
        DataError: The folder is missing, has no image, or has two with the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"images: there is no folder {folder}; put the images there or name another one")
    files = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
        ),
        key=lambda path: path.name,
    )
    if not files:
        raise DataError(f"images: the folder {folder} has no image; allowed: {', '.join(EXTENSIONS)}")
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f"images: {other.name} and {path.name} in {folder} have the same stem; "
                "remove or rename one of them"
            )
    return files


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Pixels of an image file as 8-bit RGB.

    Grey becomes three equal channels, palettes and CMYK become RGB, what is not opaque is laid on white, of
    16 bit the high byte is kept, and the orientation a camera noted in EXIF is applied. Colour profiles are
    ignored.

    Args:
        path: File in one of the formats of `EXTENSIONS`, told by its content.

    Returns:
        Array ``(H, W, 3)``.

    Raises:
        DataError: The file is missing, broken, truncated, animated, too large or has values beyond 16 bit.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check(path, image)
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many types for broken files
        raise DataError(f"images: cannot read {path}: {error}; replace or remove the file") from error


def is_grey(path: str | Path) -> bool:
    """Whether an image file has one channel, transparency aside; palettes and equal channels do not count.

    Raises:
        DataError: The file is missing or is no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode in _GREY_MODES
    except Exception as error:  # as in `read_image`
        raise DataError(f"images: cannot read {path}: {error}; replace or remove the file") from error


def check_single(path: str | Path, image: Image.Image) -> None:
    """Refuse animations and several pages, of which all but the first would be lost.

    Raises:
        DataError: With the path.
    """
    # A camera's JPEG may carry further pictures (MPO: depth, preview); the first is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise DataError(f"images: {path} is animated or has several pages; save one frame as its own file")


def _check(path: str | Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"images: {path} has {height}x{width} pixels; allowed: {MAX_PIXELS} in all, cut it into pieces"
        )
    check_single(path, image)
    if image.mode in ("I", "F"):
        raise DataError(f"images: {path} has values of 32 bit; allowed: 8 or 16 bit, convert it first")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(white, layer).convert("RGB"))
    return np.array(image.convert("RGB"))
