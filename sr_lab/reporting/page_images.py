"""The images inside the page: whole if they fit, otherwise crops of their middles, otherwise fewer images."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.saved_images import Picture

MAX_BYTES = 24_000_000  # total of the images in a page, which a phone can still open
_SIDES = (None, 768, 512, 384, 256, 192, 128)  # sides of the crops, largest first; None is the whole image


@dataclass(frozen=True)
class Shot:
    """One method's version of an image."""

    name: str  # the method
    kind: str  # ``lr``, ``sr`` or ``hr``
    source: str  # PNG as a data URI
    psnr: float = math.nan  # in dB, ``nan`` for LR and HR
    ssim: float = math.nan  # ``nan`` for LR and HR

    @property
    def score(self) -> str:
        """PSNR and SSIM as papers print them."""
        return "" if math.isnan(self.psnr) else f"{fixed(self.psnr, 2)} dB / {fixed(self.ssim, 4)}"


@dataclass(frozen=True)
class Album:
    """All versions of one image."""

    picture: Picture  # the image
    width: int  # width of what is shown, in HR pixels
    height: int  # height of what is shown
    shots: tuple[Shot, ...]  # LR, bicubic, the runs, HR


def data_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def fitting(found: Sequence[Picture], max_bytes: int) -> tuple[list[Album], str]:
    """As many images as fit, as large as possible, and a sentence on what was left out."""
    albums: list[Album] = []
    side: int | None = None
    for side in _SIDES:
        albums, room = [], max_bytes
        for picture in found:
            made = album(picture, side)
            room -= sum(len(shot.source) for shot in made.shots)
            if room < 0:
                break
            albums.append(made)
        if room >= 0:
            break
    remarks = []
    if side is not None and albums:
        remarks.append(f"only the middle {side} pixels of large images are shown")
    if len(albums) < len(found):
        remarks.append(f"{len(found) - len(albums)} of {len(found)} images are left out")
    return albums, f"To keep the page small, {', and '.join(remarks)}." if remarks else ""


def album(picture: Picture, side: int | None) -> Album:
    """All versions of an image, or of its middle if it is larger than ``side``."""
    scale = picture.scale
    with Image.open(picture.hr, formats=("PNG",)) as hr:
        width, height = hr.size
    box = None
    if side is not None and max(width, height) > side:
        wide, high = (min(side, length) // scale * scale for length in (width, height))
        left, top = ((width - wide) // 2 // scale * scale, (height - high) // 2 // scale * scale)
        box, width, height = (left, top, left + wide, top + high), wide, high
    small = None if box is None else (box[0] // scale, box[1] // scale, box[2] // scale, box[3] // scale)
    shots = [
        Shot("LR, nearest", "lr", _source(picture.lr, small)),
        *(Shot(r.name, "sr", _source(r.file, box), r.psnr, r.ssim) for r in picture.results),
        Shot("HR", "hr", _source(picture.hr, box)),
    ]
    return Album(picture, width, height, tuple(shots))


def _source(path: Path, box: tuple[int, int, int, int] | None) -> str:
    if box is None:
        return data_uri(path.read_bytes())
    content = io.BytesIO()
    with Image.open(path, formats=("PNG",)) as picture:
        picture.crop(box).save(content, "PNG")
    return data_uri(content.getvalue())
