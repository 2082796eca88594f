"""The zoomed-crop figure of papers: the whole image with a box, and each method's result in the box.

    HR image, 2 cells high   |  HR      bicubic  SRCNN  VDSR
    img_012 (x4)             |  LapSRN  MemNet   EDSR   Ours

Every pixel of a crop becomes a square of whole pixels; only the whole image on the left is resampled.
"""

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Transform
from matplotlib.typing import RcKeyType
from PIL import Image

from sr_lab import files
from sr_lab.errors import DataError
from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.latex import MARKS, escape
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.saved_images import Picture, Pixels, Result, load, safe
from sr_lab.reporting.table import Cell, Column, Row, mark_best

_GUTTER = 2
_TEXT = 56  # two lines below each cell
_DPI = 300
_MAX_METHODS = 7
_STYLE: dict[RcKeyType, object] = {"font.family": "serif", "pdf.fonttype": 42, "text.parse_math": False}
_METRICS = (Column("PSNR", higher_is_better=True), Column("SSIM", decimals=4, higher_is_better=True))
_COLUMNS = (
    *("set", "image", "scale", "rule", "method", "psnr_y", "ssim_y"),
    *("left", "top", "width", "height"),
)
Score: TypeAlias = list[tuple[str, int]]  # parts of a text line, with their ranks
logging.getLogger("fontTools").setLevel(logging.WARNING)  # otherwise it logs every glyph of a PDF's font


@dataclass(frozen=True)
class Box:
    """A crop in HR pixels; all four numbers are multiples of the scale, so that it fits the LR image."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, image: Pixels) -> Pixels:
        """The crop."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def cut(picture: Picture, *, size: int = 48) -> tuple[Box, list[Pixels]]:
    """The window in which the methods' errors differ most (`window`), and it in HR and every method.

    Args:
        picture: The results of at least two methods.
        size: Side of the window in HR pixels.
    """
    hr, *results = (load(file) for file in (picture.hr, *(result.file for result in picture.results)))
    box = window(hr, results, picture.scale, size)
    return box, [box.cut(image).copy() for image in (hr, *results)]


def window(hr: Pixels, results: Sequence[Pixels], scale: int, size: int) -> Box:
    """Choose the window in which the methods' errors differ most, by a fixed rule.

    The rule sums over the window, for each pixel, the variance over the methods of the absolute error
    averaged over channels.

    Args:
        hr: The HR image ``(H, W, 3)``.
        results: The same image from at least two methods.
        scale: Upscaling factor.
        size: Side of the window in HR pixels, rounded down to a multiple of the scale.
    """
    truth = hr.astype(np.float32)
    errors = np.stack([np.abs(result - truth).mean(axis=2) for result in results])
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    variance = errors.var(axis=0)[: height * scale, : width * scale]
    cells = variance.reshape(height, scale, width, scale).sum(axis=(1, 3))
    side = max(1, size // scale)
    rows, columns = min(side, height), min(side, width)
    # A window's sum from the sums of everything above and to the left of its corners.
    total = np.pad(cells, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    sums = (
        total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    )
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return Box(int(left) * scale, int(top) * scale, columns * scale, rows * scale)


def ranked(found: Sequence[Picture]) -> list[Picture]:
    """Images by how much the methods' PSNR values differ: each set's first, then each set's second, ..."""
    by_set: dict[tuple[str, int], list[Picture]] = {}
    for picture in found:
        by_set.setdefault((picture.set_name, picture.scale), []).append(picture)
    ordered = [sorted(of_set, key=_spread, reverse=True) for of_set in by_set.values()]
    return [picture for same_rank in zip_longest(*ordered) for picture in same_rank if picture is not None]


def most_different(found: Sequence[Picture]) -> list[Picture]:
    """For each set and scale, the image on which the methods' PSNR values differ most."""
    return ranked(found)[: len({(picture.set_name, picture.scale) for picture in found})]


def _spread(picture: Picture) -> float:
    values = [result.psnr for result in picture.results if math.isfinite(result.psnr)]
    return max(values, default=0.0) - min(values, default=0.0)


def write(folder: Path, picture: Picture) -> Path:
    """Write the figure as PNG, PDF and LaTeX, its crops as separate PNGs, and a csv with their position.

    Returns:
        Path of the PNG.

    Raises:
        DataError: The folder is a link, which could lead out of a stranger's folder of runs.
    """
    if folder.is_symlink():
        raise DataError(f"{folder}: is a link, and files would be written where it leads; remove it")
    picture = in_figure(picture)
    (box, crops), cells = cut(picture), scored(picture)
    stem = f"crops_{safe(picture.set_name)}_{safe(picture.image)}_x{picture.scale}"
    png, pdf = io.BytesIO(), io.BytesIO()
    with rc_context(_STYLE):
        figure = _draw(picture, box, crops, cells)
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    files.write(folder / f"{stem}.png", png.getvalue())
    files.write(folder / f"{stem}.pdf", pdf.getvalue())
    files.write(folder / f"{stem}.tex", _latex(picture, stem, cells))
    rows: list[dict[str, object]] = []
    for (shown, _), crop in zip(cells, crops, strict=True):
        content = io.BytesIO()
        Image.fromarray(crop).save(content, "PNG")
        files.write(folder / f"{stem}_{safe(shown.name)}.png", content.getvalue())
        row = {"set": picture.set_name, "image": picture.image, "scale": picture.scale, "method": shown.name}
        scores = {} if shown.file == picture.hr else {"psnr_y": shown.psnr, "ssim_y": shown.ssim}
        rows.append(row | {"rule": "auto"} | asdict(box) | scores)
    files.write(folder / f"{stem}.csv", csv_text(_COLUMNS, rows))
    return folder / f"{stem}.png"


def in_figure(picture: Picture) -> Picture:
    """The image with the methods of its figure: bicubic and the last six (a paper's own network is last)."""
    first, *rest = picture.results
    return replace(picture, results=(first, *rest[-(_MAX_METHODS - 1) :]))


def scored(picture: Picture) -> list[tuple[Result, Score]]:
    """HR and every method, each with its figures."""
    results = picture.results
    whole = [Row(r.name, (Cell(r.psnr), Cell(r.ssim)), protocol=r.protocol) for r in results]
    rows = mark_best(_METRICS, whole)
    found: list[tuple[Result, Score]] = [(Result("HR", picture.hr), [("PSNR/SSIM", 0)])]
    for result, row in zip(results, rows, strict=True):
        psnr, ssim = (
            (cell.shown(column), cell.rank) for cell, column in zip(row.cells, _METRICS, strict=True)
        )
        found.append((result, [psnr, ("/", 0), ssim]))
    return found


def _draw(
    picture: Picture, box: Box, crops: Sequence[Pixels], cells: Sequence[tuple[Result, Score]]
) -> Figure:
    hr = load(picture.hr)
    zoom = max(1, round(192 / box.height))
    wide, high = box.width * zoom, box.height * zoom
    columns = min(4, math.ceil(len(cells) / 2))
    rows = math.ceil(len(cells) / columns)
    tall = rows * high + (rows - 1) * (_TEXT + _GUTTER)
    room = round(hr.shape[1] * tall / hr.shape[0])
    whole = np.asarray(Image.fromarray(hr).resize((room, tall), Image.Resampling.LANCZOS))
    left = room + 4 * _GUTTER
    width, height = left + columns * (wide + _GUTTER) - _GUTTER, tall + _TEXT
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    _place(figure, whole, 0, 0)
    _frame(figure, box, tall / hr.shape[0])
    title = f"{picture.image} (\N{MULTIPLICATION SIGN}{picture.scale})"
    _caption(figure, room / 2, tall, [(title, 0)], room=room)
    _caption(figure, room / 2, tall + _TEXT // 2 - 4, [(f"from {picture.set_name}", 0)], room=room)
    for index, (shown, score) in enumerate(cells):
        x = left + index % columns * (wide + _GUTTER)
        y = index // columns * (high + _TEXT + _GUTTER)
        _place(figure, crops[index].repeat(zoom, axis=0).repeat(zoom, axis=1), x, y)
        _caption(figure, x + wide / 2, y + high, [(shown.name, 0)], room=wide)
        _caption(figure, x + wide / 2, y + high + _TEXT // 2 - 4, score)
    return figure


def _place(figure: Figure, pixels: Pixels, left: int, top: int) -> None:
    """Put pixels into the figure unchanged, ``top`` pixels below its upper edge."""
    bottom = round(figure.get_figheight() * _DPI) - top - pixels.shape[0]
    figure.figimage(pixels, left, bottom, origin="upper")


def _pixels(figure: Figure) -> Transform:
    """Coordinates in pixels of the PNG, from the upper left corner."""
    return Affine2D().scale(1 / _DPI, -1 / _DPI).translate(0, figure.get_figheight()) + figure.dpi_scale_trans


def _frame(figure: Figure, box: Box, ratio: float) -> None:
    """Draw a red frame around the box in the whole image, which is shown ``ratio`` times as large."""
    points = 1.5
    line = points * _DPI / 72
    corner = ratio * box.left - line / 2, ratio * box.top - line / 2
    size = ratio * box.width + line, ratio * box.height + line
    frame = Rectangle(corner, *size, fill=False, edgecolor="#d81b1b", linewidth=points)
    frame.set_transform(_pixels(figure))
    figure.add_artist(frame)


def _caption(figure: Figure, centre: float, top: float, parts: Score, *, room: float = math.inf) -> None:
    """Write one centred line below a cell: the best bold, the second best blue.

    Each part is a separate text, since a matplotlib text has only one weight. Names are shortened until they
    fit into ``room`` pixels.
    """
    look = {"transform": _pixels(figure), "fontsize": 5.6, "va": "top"}
    texts = [figure.text(0, top + 7, text, look) for text, _ in parts]
    for text, (_, rank) in zip(texts, parts, strict=True):
        text.set(weight="bold" if rank == 1 else "normal", color="#1746a2" if rank == 2 else "black")
    for text in texts:
        whole, limit = text.get_text(), len(text.get_text())
        while text.get_window_extent().width > room and limit > 3:
            limit -= 1
            text.set_text(shortened(whole, limit))
    widths = [text.get_window_extent().width for text in texts]
    x = centre - sum(widths) / 2
    for text, advance in zip(texts, widths, strict=True):
        text.set_x(x)
        x += advance


def _latex(picture: Picture, stem: str, cells: Sequence[tuple[Result, Score]]) -> str:
    r"""One ``\subfloat`` for each cell, four in a line; LaTeX scales the crops, which are separate files."""
    lines = [
        r"% \usepackage{graphicx,subfig}; turn off interpolation in the PDF viewer to see single pixels",
        r"\begin{figure*}[t]",
        r"\centering",
        r"\captionsetup[subfloat]{labelformat=empty,justification=centering}",  # no label (a), as in papers
    ]
    for index, (shown, parts) in enumerate(cells):
        score = "".join(MARKS[rank].format(text) for text, rank in parts)
        crop = rf"\includegraphics[width=0.24\textwidth]{{{stem}_{safe(shown.name)}.png}}"
        end = r"\\" if index % 4 == 3 else "%"
        lines.append(rf"\subfloat[{{{escape(shown.name)}\\{score}}}]{{{crop}}}{end}")
    title = f"{escape(picture.image)} from {escape(picture.set_name)}, $\\times{picture.scale}$"
    caption = f"{title}. The best figures are bold, the second best underlined."
    return "\n".join([*lines, rf"\caption{{{caption}}}", r"\end{figure*}", ""])
