"""The zoomed-crop figure, as papers print it: the whole image with a box, and the box as each method has it.

    HR image, 2 cells high   |  HR      bicubic  SRCNN  VDSR
    img_012 (x4)             |  LapSRN  MemNet   EDSR   Ours

Every pixel of a crop becomes a square of whole pixels; only the whole image on the left is resampled.
"""

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.typing import RcKeyType
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from sr_lab import files
from sr_lab.reporting.formatting import fixed, shortened
from sr_lab.reporting.latex import escape
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.saved_images import Picture, Pixels, Result, load, safe

_GUTTER = 2
_TEXT = 56  # two lines below each cell
_DPI = 300
_MAX_METHODS = 7
_STYLE: dict[RcKeyType, object] = {"font.family": "serif", "pdf.fonttype": 42, "text.parse_math": False}
_COLUMNS = (
    *("set", "image", "scale", "rule", "method", "psnr_y", "ssim_y"),
    *("left", "top", "width", "height"),
)
logging.getLogger("fontTools").setLevel(logging.WARNING)  # else it logs every glyph of a PDF's font


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


def choose(picture: Picture, *, size: int = 48) -> Box:
    """The window in which the methods' errors differ most: chosen by a rule, not by taste.

    The rule: per pixel, the variance over the methods of the channels' mean absolute error; summed over the
    window.

    Args:
        picture: At least two methods.
        size: Side of the window in HR pixels, rounded down to a multiple of the scale.
    """
    hr, scale = load(picture.hr).astype(np.float32), picture.scale
    errors = np.stack([np.abs(load(result.file) - hr).mean(axis=2) for result in picture.results])
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    variance = errors.var(axis=0)[: height * scale, : width * scale]
    cells = variance.reshape(height, scale, width, scale).sum(axis=(1, 3))
    side = max(1, size // scale)
    rows, columns = min(side, height), min(side, width)
    sums = sliding_window_view(cells, (rows, columns)).sum(axis=(2, 3))
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return Box(int(left) * scale, int(top) * scale, columns * scale, rows * scale)


def most_different(found: Sequence[Picture]) -> list[Picture]:
    """For each set and scale, the image on which the methods' PSNR differ most."""
    by_set: dict[tuple[str, int], list[Picture]] = {}
    for picture in found:
        by_set.setdefault((picture.set_name, picture.scale), []).append(picture)
    return [max(of_set, key=_spread) for of_set in by_set.values()]


def _spread(picture: Picture) -> float:
    values = [result.psnr for result in picture.results if math.isfinite(result.psnr)]
    return max(values, default=0.0) - min(values, default=0.0)


def write(folder: Path, picture: Picture) -> Path:
    """Write the figure as PNG, PDF and LaTeX, its crops as single PNGs, and a csv with their place.

    Returns:
        The PNG.
    """
    box = choose(picture)
    stem = _stem(picture)
    png, pdf = io.BytesIO(), io.BytesIO()
    with rc_context(_STYLE):
        figure = _draw(picture, box)
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    files.write(folder / f"{stem}.png", png.getvalue())
    files.write(folder / f"{stem}.pdf", pdf.getvalue())
    files.write(folder / f"{stem}.tex", _latex(picture))
    rows = []
    for result in (None, *_shown(picture)):
        name, file = _name_and_file(picture, result)
        content = io.BytesIO()
        Image.fromarray(box.cut(load(file))).save(content, "PNG")
        files.write(folder / _file(picture, name), content.getvalue())
        row = {"set": picture.set_name, "image": picture.image, "scale": picture.scale, "method": name}
        row |= {"rule": "auto"} | asdict(box)
        rows.append(row if result is None else row | {"psnr_y": result.psnr, "ssim_y": result.ssim})
    files.write(folder / f"{stem}.csv", csv_text(_COLUMNS, rows))
    return folder / f"{stem}.png"


def _draw(picture: Picture, box: Box) -> Figure:
    """The figure of one image: bicubic and the last six runs (a paper's own network comes last)."""
    results = _shown(picture)
    hr = load(picture.hr)
    zoom = max(1, round(192 / box.height))
    wide, high = box.width * zoom, box.height * zoom
    columns = min(4, math.ceil((len(results) + 1) / 2))
    rows = math.ceil((len(results) + 1) / columns)
    tall = rows * high + (rows - 1) * (_TEXT + _GUTTER)
    whole = _resized(hr, tall)
    left = whole.shape[1] + 4 * _GUTTER
    width, height = left + columns * (wide + _GUTTER) - _GUTTER, tall + _TEXT
    best = _best(results)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    _place(figure, whole, 0, 0)
    ratio = tall / hr.shape[0]
    _frame(figure, [ratio * value for value in (box.left, box.top, box.width, box.height)])
    room, title = whole.shape[1], f"{picture.image} (\N{MULTIPLICATION SIGN}{picture.scale})"
    _caption(figure, room / 2, tall, [(title, 0)], room=room)
    _caption(figure, room / 2, tall + _TEXT // 2 - 4, [(f"from {picture.set_name}", 0)], room=room)
    for index, result in enumerate((None, *results)):
        x = left + index % columns * (wide + _GUTTER)
        y = index // columns * (high + _TEXT + _GUTTER)
        name, file = _name_and_file(picture, result)
        _place(figure, box.cut(load(file)).repeat(zoom, axis=0).repeat(zoom, axis=1), x, y)
        _caption(figure, x + wide / 2, y + high, [(name, 0)], room=wide)
        _caption(figure, x + wide / 2, y + high + _TEXT // 2 - 4, _score(result, best))
    return figure


def _shown(picture: Picture) -> list[Result]:
    first, *rest = picture.results
    return [first, *rest[-(_MAX_METHODS - 1) :]]


def _name_and_file(picture: Picture, result: Result | None) -> tuple[str, Path]:
    return ("HR", picture.hr) if result is None else (result.name, result.file)


def _best(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """The two best distinct PSNRs and SSIMs, as printed."""
    numbers = [(fixed(result.psnr, 2), fixed(result.ssim, 4)) for result in results]
    psnrs, ssims = (
        sorted({text for text in column if text != "nan"}, key=float, reverse=True)[:2]
        for column in zip(*numbers, strict=True)
    )
    return psnrs, ssims


def _score(result: Result | None, best: tuple[list[str], list[str]]) -> list[tuple[str, int]]:
    """Parts of the line below a name, with their ranks."""
    if result is None:
        return [("PSNR/SSIM", 0)]
    psnr, ssim = fixed(result.psnr, 2), fixed(result.ssim, 4)
    return [(psnr, _rank(psnr, best[0])), ("/", 0), (ssim, _rank(ssim, best[1]))]


def _rank(text: str, best: Sequence[str]) -> int:
    return best.index(text) + 1 if text in best else 0


def _place(figure: Figure, pixels: Pixels, left: int, top: int) -> None:
    """Put pixels into the figure unchanged, ``top`` pixels below its upper edge."""
    bottom = round(figure.get_figheight() * _DPI) - top - pixels.shape[0]
    figure.figimage(pixels, left, bottom, origin="upper")


def _frame(figure: Figure, place: Sequence[float], points: float = 1.5) -> None:
    """A red frame around left, top, width and height, given in pixels of the figure."""
    width, height = figure.get_figwidth() * _DPI, figure.get_figheight() * _DPI
    line = points * _DPI / 72
    left, top = place[0] - line / 2, place[1] - line / 2
    size = (place[2] + line, place[3] + line)
    figure.add_artist(
        Rectangle(
            (left / width, 1 - (top + size[1]) / height),
            size[0] / width,
            size[1] / height,
            fill=False,
            edgecolor="#d81b1b",
            linewidth=points,
            transform=figure.transFigure,
        )
    )


def _caption(
    figure: Figure, centre: float, top: float, parts: Sequence[tuple[str, int]], *, room: float = math.inf
) -> None:
    """One centred line below a cell: the best bold, the second best blue.

    Each part is a text of its own, since matplotlib gives a text one weight. Names are shortened until they
    fit into ``room`` pixels.
    """
    width, height = figure.get_figwidth() * _DPI, figure.get_figheight() * _DPI
    texts = [
        figure.text(
            0,
            1 - (top + 7) / height,
            text,
            fontsize=5.6,
            va="top",
            weight="bold" if rank == 1 else "normal",
            color="#1746a2" if rank == 2 else "black",
        )
        for text, rank in parts
    ]
    for text in texts:
        whole, limit = text.get_text(), len(text.get_text())
        while text.get_window_extent().width > room and limit > 3:
            limit -= 1
            text.set_text(shortened(whole, limit))
    widths = [text.get_window_extent().width for text in texts]
    x = centre - sum(widths) / 2
    for text, advance in zip(texts, widths, strict=True):
        text.set_x(x / width)
        x += advance


def _resized(image: Pixels, height: int) -> Pixels:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _stem(picture: Picture) -> str:
    return f"crops_{safe(picture.set_name)}_{safe(picture.image)}_x{picture.scale}"


def _file(picture: Picture, name: str) -> str:
    """File of a single crop."""
    return f"{_stem(picture)}_{safe(name)}.png"


def _latex(picture: Picture) -> str:
    r"""One ``\subfloat`` for each cell, four in a line; LaTeX scales the crops, which are single files."""
    lines = [
        r"% \usepackage{graphicx,subfig}; turn off interpolation in the PDF viewer to see single pixels",
        r"\begin{figure*}[t]",
        r"\centering",
        r"\captionsetup[subfloat]{labelformat=empty,justification=centering}",  # no (a), as in papers
    ]
    results = _shown(picture)
    best = _best(results)
    for index, result in enumerate((None, *results)):
        name, _ = _name_and_file(picture, result)
        score = "".join(
            rf"\textbf{{{text}}}" if rank == 1 else rf"\underline{{{text}}}" if rank == 2 else text
            for text, rank in _score(result, best)
        )
        crop = rf"\includegraphics[width=0.24\textwidth]{{{_file(picture, name)}}}"
        lines.append(
            rf"\subfloat[{{{escape(name)}\\{score}}}]{{{crop}}}" + (r"\\" if index % 4 == 3 else "%")
        )
    title = f"{escape(picture.image)} from {escape(picture.set_name)}, $\\times{picture.scale}$"
    caption = f"{title}. The best figures are bold, the second best underlined."
    return "\n".join([*lines, rf"\caption{{{caption}}}", r"\end{figure*}", ""])
