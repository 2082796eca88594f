"""The images inside the page: the part of each in which the methods differ most, stored once and losslessly.

Every method gets the same number of pixels in all, so a page grows with the number of methods, and fewer
images are shown larger. The pixels are those that were measured, so the page can measure them again.
"""

import base64
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sr_lab.reporting import crops
from sr_lab.reporting.crops import Box, Comparison, Score
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.saved_images import Picture, Pixels, load

_SIDE, _LEAST_SIDE = 304, 192  # sides of a part in HR pixels; the viewer shows 304 pixels at twice their size
_PIXELS = 260_000  # of all images of a method, about 0.4 MB in the page
_MAX_METHODS = 12  # runs of one scale; more cannot be compared by eye
_OVERVIEW = 480  # longer side of the small whole image that shows where a part is


@dataclass(frozen=True)
class Shot:
    """One method's version of an image."""

    name: str  # the method
    kind: str  # ``lr``, ``sr`` or ``hr``
    source: str = ""  # lossless WebP as a data URI; empty if ``same`` is set
    same: str = ""  # another method with the same pixels
    psnr: float = math.nan  # in dB, ``nan`` for LR and HR
    ssim: float = math.nan  # ``nan`` for LR and HR

    @property
    def score(self) -> str:
        """PSNR and SSIM as papers print them."""
        return "" if math.isnan(self.psnr) else f"{fixed(self.psnr, 2)} dB / {fixed(self.ssim, 4)}"


@dataclass(frozen=True)
class Overview:
    """A whole HR image, small and compressed with loss, to show where a part of it is."""

    source: str  # WebP as a data URI
    width: int  # of the HR image
    height: int  # of the HR image
    box: Box  # the part


@dataclass(frozen=True)
class Album:
    """All versions of one image."""

    picture: Picture  # the image
    width: int  # width of what is shown, in HR pixels
    height: int  # height of what is shown
    overview: Overview | None  # ``None`` if the whole image is shown
    shots: tuple[Shot, ...]  # LR, bicubic, the runs, HR


@dataclass(frozen=True)
class Strip:
    """The zoomed crops of one image."""

    picture: Picture
    overview: Overview
    cells: tuple[tuple[str, str, Score], ...]  # method, WebP as a data URI, PSNR and SSIM with their ranks


def albums(found: Sequence[Picture]) -> tuple[list[Album], str]:
    """The images of the page in the order of the test, and a sentence on what was left out.

    Args:
        found: Every image that the runs have saved.
    """
    made, left_out = [], {"images": 0, "runs": 0}
    for scale in dict.fromkeys(picture.scale for picture in found):
        of_scale = [picture for picture in found if picture.scale == scale]
        kept = crops.ranked(of_scale)[: _PIXELS // _LEAST_SIDE**2]
        methods, hidden = _methods(kept)
        left_out["images"] += len(of_scale) - len(kept)
        left_out["runs"] += hidden
        side = min(_SIDE, max(_LEAST_SIDE, math.isqrt(_PIXELS // len(kept))))
        for picture in of_scale:
            if picture in kept:
                results = tuple(result for result in picture.results[1:] if result.name in methods)
                made.append(album(replace(picture, results=(picture.results[0], *results)), side))
    remarks = []
    if any(one.overview is not None for one in made):
        remarks.append("large images are cut to the part in which the methods differ most")
    if left_out["images"]:
        remarks.append(
            f"{len(made)} of {len(found)} images are shown, those on which the methods differ most"
        )
    if left_out["runs"]:
        verb = "run is" if left_out["runs"] == 1 else "runs are"
        remarks.append(
            f"{left_out['runs']} {verb} left out (shown are the first run and the {_MAX_METHODS - 1} with "
            "the highest PSNR)"
        )
    return made, f"To keep the page small, {'; '.join(remarks)}." if remarks else ""


def _methods(found: Sequence[Picture]) -> tuple[set[str], int]:
    """The first run, usually the baseline, and the best of the others; and the number of runs left out."""
    scores: dict[str, list[float]] = {}
    for picture in found:
        for result in picture.results[1:]:
            scores.setdefault(result.name, []).append(-math.inf if math.isnan(result.psnr) else result.psnr)
    first, *others = scores
    others.sort(key=lambda name: statistics.fmean(scores[name]), reverse=True)
    kept = {first, *others[: _MAX_METHODS - 1]}
    return kept, len(scores) - len(kept)


def album(picture: Picture, side: int) -> Album:
    """All versions of an image, or of the part of at most ``side`` pixels in which they differ most."""
    scale = picture.scale
    hr, lr = load(picture.hr), load(picture.lr)
    results = [load(result.file) for result in picture.results]
    height, width = hr.shape[:2]
    box, overview = Box(0, 0, width, height), None
    if max(width, height) > side:
        box = crops.window(hr, results, scale, side)
        overview = _overview(hr, box)
    small = Box(*(length // scale for length in (box.left, box.top, box.width, box.height)))
    shots: list[Shot] = [Shot("LR, nearest", "lr", encoded(small.cut(lr)))]
    shots += [
        Shot(result.name, "sr", encoded(box.cut(pixels)), psnr=result.psnr, ssim=result.ssim)
        for result, pixels in zip(picture.results, results, strict=True)
    ]
    shots.append(Shot("HR", "hr", encoded(box.cut(hr))))
    return Album(picture, box.width, box.height, overview, tuple(_stored_once(shots)))


def strip(picture: Picture) -> Strip:
    """The zoomed crops of an image, with the methods and the window of the figure in ``crops/``."""
    comparison = Comparison.of(picture)
    box = comparison.window()
    cells = [
        (version.name, encoded(box.cut(version.pixels)), score)
        for version, score in zip(comparison.versions, comparison.scores(), strict=True)
    ]
    return Strip(picture, _overview(comparison.whole, box), tuple(cells))


def _stored_once(shots: Iterable[Shot]) -> list[Shot]:
    """The shots; one with the same pixels as an earlier shot only refers to that shot."""
    known: dict[str, str] = {}
    return [
        shot
        if known.setdefault(shot.source, shot.name) == shot.name
        else replace(shot, source="", same=known[shot.source])
        for shot in shots
    ]


def _overview(hr: Pixels, box: Box) -> Overview:
    image = Image.fromarray(hr)
    image.thumbnail((_OVERVIEW, _OVERVIEW))
    return Overview(encoded(image, lossless=False), hr.shape[1], hr.shape[0], box)


def encoded(image: Pixels | Image.Image, *, lossless: bool = True) -> str:
    """An image ``(H, W, 3)`` as the data URI of a WebP, which is a third smaller than a PNG."""
    content = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    # Slower methods save 3 %.
    picture.save(content, "WEBP", lossless=lossless, method=2, quality=50 if lossless else 75)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
