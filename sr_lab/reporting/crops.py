"""The zoomed-crop figure of papers: the whole image with a box, and each method's result in the box.

    HR image, 2 cells high   |  HR      bicubic  SRCNN  VDSR
    img_012 (x4)             |  LapSRN  MemNet   EDSR   Ours

Every pixel of a crop becomes a square of whole pixels; only the whole image on the left is resampled.
"""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Transform
from matplotlib.typing import RcKeyType
from PIL import Image, ImageDraw

from sr_lab import files
from sr_lab.errors import DataError
from sr_lab.files import printable
from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.latex import MARKS, escape
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.saved_images import Picture, Pixels, load, safe
from sr_lab.reporting.table import Cell, Column, Row, mark_best

SIZE = 48  # side of a chosen window in HR pixels
_SHOWN_SIZE = 192  # height of a crop in the figure, roughly
_WIDEST = 2 * _SHOWN_SIZE  # of a crop
_GUTTER = 2
_LINE = 28  # of text below a cell
_DPI = 200  # the figure is as wide as a page of two columns, and its text has 8.4 points
_MAX_METHODS = 7
_RED = "#d81b1b"
_STYLE: dict[RcKeyType, object] = {"font.family": "serif", "pdf.fonttype": 42, "text.parse_math": False}
_METRICS = (Column("PSNR", higher_is_better=True), Column("SSIM", decimals=4, higher_is_better=True))
_COLUMNS = (
    *("set", "image", "scale", "rule", "method", "source", "protocol", "psnr_y", "ssim_y"),
    *("left", "top", "width", "height"),
)
Rule: TypeAlias = Literal["auto", "given"]  # how the window was chosen
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


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a whole image: the HR image, or the result of a method.

    Args:
        name: What it is called in the figure.
        pixels: ``(H, W, 3)``.
        psnr: PSNR of the whole image in dB; ``nan`` if unknown.
        ssim: SSIM of the whole image; ``nan`` if unknown.
        protocol: The protocol with which both were measured.
        source: The weights of the method, for the csv.
    """

    name: str
    pixels: Pixels
    psnr: float = math.nan
    ssim: float = math.nan
    protocol: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a figure shows.

    Args:
        set_name: The test set of the image; empty if it is from no set.
        image: Name of the image.
        scale: Upscaling factor.
        hr: The HR image; ``None`` if only the LR image was given, so that nothing was measured.
        whole: The image on the left, in any size.
        methods: The results; bicubic first.
    """

    set_name: str
    image: str
    scale: int
    hr: Version | None
    whole: Pixels
    methods: tuple[Version, ...]

    @classmethod
    def of(cls, picture: Picture) -> "Comparison":
        """The comparison of an image that runs have saved.

        The figure shows bicubic and the last six methods, since a paper's own network is last.
        """
        first, *rest = picture.results
        kept = (first, *rest[-(_MAX_METHODS - 1) :])
        hr = Version("HR", load(picture.hr))
        methods = tuple(Version(r.name, load(r.file), r.psnr, r.ssim, r.protocol) for r in kept)
        return cls(picture.set_name, picture.image, picture.scale, hr, hr.pixels, methods)

    @property
    def versions(self) -> list[Version]:
        """HR, if there is one, and every method."""
        return [*([] if self.hr is None else [self.hr]), *self.methods]

    def window(self, size: int = SIZE) -> Box:
        """The window of ``size`` HR pixels in which the methods differ most, see `window`."""
        hr = None if self.hr is None else self.hr.pixels
        return window(hr, [method.pixels for method in self.methods], self.scale, size)

    def scores(self) -> list[Score]:
        """PSNR and SSIM of each of `versions`, as they are printed; empty without an HR image."""
        if self.hr is None:
            return [[] for _ in self.methods]
        whole = [Row(m.name, (Cell(m.psnr), Cell(m.ssim)), protocol=m.protocol) for m in self.methods]
        found: list[Score] = [[("PSNR/SSIM", 0)]]
        for row in mark_best(_METRICS, whole):
            psnr, ssim = (
                (cell.shown(column), cell.rank) for cell, column in zip(row.cells, _METRICS, strict=True)
            )
            found.append([psnr, ("/", 0), ssim])
        return found


def window(hr: Pixels | None, results: Sequence[Pixels], scale: int, size: int) -> Box:
    """Choose the window in which the methods' errors differ most, by a fixed rule.

    For each pixel, the rule averages the absolute error of each method over channels, and takes the variance
    of these errors over the methods; the window with the largest sum of variances is chosen. Without an HR
    image, the results themselves are used instead of their errors.

    Args:
        hr: The HR image ``(H, W, 3)``, or ``None``.
        results: The same image from at least two methods.
        scale: Upscaling factor.
        size: Side of the window in HR pixels, rounded down to a multiple of the scale.
    """
    truth = np.float32(0) if hr is None else hr.astype(np.float32)
    errors = np.stack([np.abs(result - truth).mean(axis=2) for result in results])
    height, width = (length // scale for length in results[0].shape[:2])
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
    """Images sorted by the spread of the methods' PSNR: each set's first, then each set's second, ..."""
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
    """Write the figure of an image that runs have saved; see `write_figure`.

    Returns:
        Path of the PNG.

    Raises:
        DataError: The folder is a link, which could lead out of an untrusted folder of runs.
    """
    if folder.is_symlink():
        raise DataError(f"{folder}: is a link, and the files would be written to its target; remove the link")
    comparison = Comparison.of(picture)
    stem = f"crops_{safe(picture.set_name)}_{safe(picture.image)}_x{picture.scale}"
    return write_figure(folder, stem, comparison, comparison.window(), rule="auto")[0]


def write_figure(folder: Path, stem: str, comparison: Comparison, box: Box, *, rule: Rule) -> list[Path]:
    """Write the figure as PNG, PDF and LaTeX, its images as separate PNGs, and a csv with the numbers.

    Args:
        folder: Where the files are written.
        stem: Beginning of the files' names.
        comparison: What the figure shows.
        box: The window.
        rule: How the window was chosen, for the csv.

    Returns:
        The files, in the order of `files_of`.
    """
    versions, scores = comparison.versions, comparison.scores()
    zoom = _zoom(box)
    crops = [box.cut(version.pixels).repeat(zoom, axis=0).repeat(zoom, axis=1) for version in versions]
    png, pdf = io.BytesIO(), io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # shown as an empty box
        figure = _draw(comparison, box, crops, scores)
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    measured = {"set": comparison.set_name, "image": comparison.image, "scale": comparison.scale}
    rows = [
        measured
        | {"rule": rule, "method": version.name, "source": version.source, "protocol": version.protocol}
        | ({} if math.isnan(version.psnr) else {"psnr_y": version.psnr, "ssim_y": version.ssim})
        | asdict(box)
        for version in versions
    ]
    contents: list[str | bytes] = [
        png.getvalue(),
        pdf.getvalue(),
        _latex(comparison, stem, scores),
        csv_text(_COLUMNS, rows),
        *map(_png, (_framed(comparison, box), *crops)),
    ]
    paths = files_of(folder, stem, [version.name for version in versions])
    for path, content in zip(paths, contents, strict=True):
        files.write(path, content)
    return paths


def files_of(folder: Path, stem: str, names: Sequence[str]) -> list[Path]:
    """The files of a figure: the figure in four forms, the whole image, and a crop for each name."""
    kinds = ("png", "pdf", "tex", "csv")
    crops = (f"{stem}_{name}.png" for name in ("whole", *(f"crop_{safe(name)}" for name in names)))
    return [*(folder / f"{stem}.{kind}" for kind in kinds), *(folder / crop for crop in crops)]


def _png(pixels: Pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _zoom(box: Box) -> int:
    """The side of the square that each pixel of a crop becomes."""
    return max(1, min(round(_SHOWN_SIZE / box.height), _WIDEST // box.width))


def _columns_of(cells: int) -> int:
    """The number of columns: two rows of up to four cells, or three rows of up to six."""
    return min(6, max(min(4, math.ceil(cells / 2)), math.ceil(cells / 3)))


def _draw(comparison: Comparison, box: Box, crops: Sequence[Pixels], scores: Sequence[Score]) -> Figure:
    high, wide = crops[0].shape[:2]
    columns = _columns_of(len(crops))
    rows = math.ceil(len(crops) / columns)
    text = _LINE * (1 if comparison.hr is None else 2)
    tall = rows * high + (rows - 1) * (text + _GUTTER)
    whole = _resized(comparison.whole, tall, max(columns * wide, 3 * tall // 2))
    room = whole.shape[1]
    left = room + 4 * _GUTTER
    width, height = left + columns * (wide + _GUTTER) - _GUTTER, tall + 2 * _LINE
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    _place(figure, whole, 0, 0)
    _frame(figure, box, whole.shape[0] / comparison.methods[0].pixels.shape[0])
    title = f"{comparison.image} (\N{MULTIPLICATION SIGN}{comparison.scale})"
    below = whole.shape[0]
    _caption(figure, room / 2, below, [(title, 0)], room=room)
    if comparison.set_name:
        _caption(figure, room / 2, below + _LINE - 4, [(f"from {comparison.set_name}", 0)], room=room)
    for index, (version, crop) in enumerate(zip(comparison.versions, crops, strict=True)):
        x = left + index % columns * (wide + _GUTTER)
        y = index // columns * (high + text + _GUTTER)
        _place(figure, crop, x, y)
        _caption(figure, x + wide / 2, y + high, [(version.name, 0)], room=wide)
        _caption(figure, x + wide / 2, y + high + _LINE - 4, scores[index])
    return figure


def _resized(whole: Pixels, tall: int, wide: int) -> Pixels:
    """The whole image, ``tall`` pixels high or ``wide`` pixels wide, whichever is smaller."""
    height, width = whole.shape[:2]
    ratio = min(tall / height, wide / width)
    size = max(1, round(ratio * width)), max(1, round(ratio * height))
    return np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.LANCZOS))


def _framed(comparison: Comparison, box: Box) -> Pixels:
    """The whole image with the box, for LaTeX, in the size of the figure."""
    whole = Image.fromarray(_resized(comparison.whole, 2 * _SHOWN_SIZE, 4 * _SHOWN_SIZE))
    ratio = whole.height / comparison.methods[0].pixels.shape[0]
    corners = [ratio * box.left, ratio * box.top]
    corners += [corners[0] + ratio * box.width - 1, corners[1] + ratio * box.height - 1]
    around = [corner + sign * 2 for corner, sign in zip(corners, (-1, -1, 1, 1), strict=True)]
    ImageDraw.Draw(whole).rectangle(around, outline=_RED, width=3)
    return np.asarray(whole)


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
    frame = Rectangle(corner, *size, fill=False, edgecolor=_RED, linewidth=points)
    frame.set_transform(_pixels(figure))
    figure.add_artist(frame)


def _caption(figure: Figure, centre: float, top: float, parts: Score, *, room: float = math.inf) -> None:
    """Write one centred line below a cell: the best bold, the second best blue.

    Each part is a separate text, since a matplotlib text has only one weight. Names are shortened until they
    fit into ``room`` pixels.
    """
    look = {"transform": _pixels(figure), "fontsize": 8.4, "va": "top"}
    texts = [figure.text(0, top + 7, printable(text), look) for text, _ in parts]
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


def _latex(comparison: Comparison, stem: str, scores: Sequence[Score]) -> str:
    """LaTeX code of the figure, with text in the paper's font: the whole image and a table of crops."""
    columns = _columns_of(len(scores))
    width = rf"{0.98 / columns:.3f}\linewidth"
    whole, *crops = (path.name for path in files_of(Path(), stem, [v.name for v in comparison.versions])[4:])
    table: list[str] = []
    cells = list(zip(comparison.versions, crops, scores, strict=True))
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        images = [rf"\includegraphics[width={width}]{{{crop}}}" for _, crop, _ in row]
        names = [rf"\parbox[t]{{{width}}}{{\centering {escape(version.name)}}}" for version, _, _ in row]
        table += [" &\n".join(images) + r" \\", " &\n".join(names) + r" \\"]
        if comparison.hr is not None:
            printed = ["".join(MARKS[rank].format(text) for text, rank in score) for *_, score in row]
            table.append(" & ".join(printed) + r" \\")
        table[-1] += "[2pt]"
    of_set = f" from {escape(comparison.set_name)}" if comparison.set_name else ""
    title = f"{escape(comparison.image)}{of_set}, $\\times{comparison.scale}$"
    best = "" if comparison.hr is None else " The best values are bold, the second best underlined."
    return "\n".join(
        [
            r"% \usepackage{graphicx}",
            "% The same figure as one file, with its own fonts:",
            rf"%   \includegraphics[width=\textwidth]{{{stem}.pdf}}",
            r"\begin{figure*}[t]",
            r"\centering\footnotesize",
            r"\begin{minipage}{0.36\textwidth}",
            r"\centering",
            rf"\includegraphics[width=\linewidth,height=\linewidth,keepaspectratio]{{{whole}}}\\",
            title,
            r"\end{minipage}\hfill",
            r"\begin{minipage}{0.62\textwidth}",
            r"\centering",
            r"\setlength{\tabcolsep}{1pt}",
            rf"\begin{{tabular}}{{@{{}}{'c' * columns}@{{}}}}",
            *table,
            r"\end{tabular}",
            r"\end{minipage}",
            rf"\caption{{{title}.{best}}}",
            r"\end{figure*}",
            "",
        ]
    )
