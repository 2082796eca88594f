"""The zoomed-crop figure, as papers print it: the whole image with a box, and the box as each method has it.

    HR image, 2 cells high   |  HR      bicubic  SRCNN  VDSR
    img_012 (x4)             |  LapSRN  MemNet   EDSR   Ours

Every pixel of a crop is a whole number of pixels of the figure: nothing is resampled but the whole image.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.reporting.csv_text import csv_text
from sr_lab.reporting.grid import fixed
from sr_lab.reporting.pictures import Picture, Pixels, Result, load, safe

_GUTTER = 2
_TEXT = 56  # two lines below each cell
_DPI = 300
_RED = "#d81b1b"


@dataclass(frozen=True)
class Box:
    """A crop in HR pixels; all four are multiples of the scale, so that the LR image has it too."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, image: Pixels) -> Pixels:
        """The crop."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


Crop: TypeAlias = Box | Literal["auto"]


@dataclass(frozen=True)
class Cell:
    """Where a crop stands in the figure's PNG.

    Args:
        name: HR or the method.
        left: First column.
        top: First row.
        zoom: Pixels of the figure for one of the image, each way.
    """

    name: str
    left: int
    top: int
    zoom: int


@dataclass(frozen=True)
class CropFigure:
    r"""The figure in its forms.

    Args:
        png: Pixels.
        pdf: Text as text, crops as they are.
        latex: A skeleton of ``\subfloat`` for the files that `write` writes.
        box: The crop.
        cells: Where the crops stand.
    """

    png: bytes
    pdf: bytes
    latex: str
    box: Box
    cells: tuple[Cell, ...]


def choose(picture: Picture, *, size: int = 48) -> Box:
    """The window in which the methods' errors differ most from each other: chosen by a rule, not by taste.

    Per pixel the variance over the methods of the mean absolute error of the channels, summed in the window.

    Args:
        picture: At least two methods.
        size: Side of the window in HR pixels, brought down to a multiple of the scale.
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


def draw(picture: Picture, *, crop: Crop = "auto", methods: Sequence[str] = ()) -> CropFigure:
    """The figure of one image.

    Args:
        picture: An image with what the methods made of it.
        crop: A box, or ``auto`` (see `choose`).
        methods: The methods to show, in this order; at most seven; the first seven if none are named.

    Raises:
        ConfigError: The box does not lie in the image or not on the LR grid, or there is no such method.
    """
    results = _chosen(picture, methods)
    hr = load(picture.hr)
    box = choose(picture) if crop == "auto" else crop
    _check(box, hr, picture.scale)
    zoom = max(1, round(192 / box.height))
    wide, high = box.width * zoom, box.height * zoom
    columns = min(4, math.ceil((len(results) + 1) / 2))
    rows = math.ceil((len(results) + 1) / columns)
    tall = rows * high + (rows - 1) * (_TEXT + _GUTTER)
    whole = _resized(hr, tall)
    left = whole.shape[1] + 4 * _GUTTER
    width, height = left + columns * (wide + _GUTTER) - _GUTTER, tall + _TEXT
    best = _ranks(results)
    with rc_context({"font.family": "serif", "pdf.fonttype": 42, "text.parse_math": False}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        _place(figure, whole, 0, 0)
        ratio = tall / hr.shape[0]
        _box(figure, box, ratio)
        _caption(
            figure,
            whole.shape[1] / 2,
            tall,
            [(f"{picture.image} (\N{MULTIPLICATION SIGN}{picture.scale})", 0)],
        )
        _caption(figure, whole.shape[1] / 2, tall + _TEXT // 2 - 4, [(f"from {picture.set_name}", 0)])
        cells = []
        for index, result in enumerate((None, *results)):
            x = left + index % columns * (wide + _GUTTER)
            y = index // columns * (high + _TEXT + _GUTTER)
            image = hr if result is None else load(result.file)
            pixels = box.cut(image).repeat(zoom, axis=0).repeat(zoom, axis=1)
            _place(figure, pixels, x, y)
            name = "HR" if result is None else result.name
            cells.append(Cell(name, x, y, zoom))
            _caption(figure, x + wide / 2, y + high, [(_short(name), 0)])
            _caption(figure, x + wide / 2, y + high + _TEXT // 2 - 4, _score(result, best))
        png, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    latex = _latex(picture, results, best)
    return CropFigure(png.getvalue(), pdf.getvalue(), latex, box, tuple(cells))


def write(folder: Path, picture: Picture, *, crop: Crop = "auto", methods: Sequence[str] = ()) -> Path:
    """Write the figure as PNG, PDF and LaTeX, its crops as single PNGs, and a csv with the coordinates.

    Args:
        folder: Where the files go.
        picture: See `draw`.
        crop: See `draw`.
        methods: See `draw`.

    Returns:
        The PNG.
    """
    made = draw(picture, crop=crop, methods=methods)
    stem = _stem(picture)
    files.write(folder / f"{stem}.png", made.png)
    files.write(folder / f"{stem}.pdf", made.pdf)
    files.write(folder / f"{stem}.tex", made.latex)
    results = _chosen(picture, methods)
    rows = []
    for result in (None, *results):
        name, file = ("HR", picture.hr) if result is None else (result.name, result.file)
        files.write(folder / f"{stem}_{safe(name)}.png", _png(made.box.cut(load(file))))
        row = {"set": picture.set_name, "image": picture.image, "scale": picture.scale, "method": name}
        row |= {"rule": "auto" if crop == "auto" else "given"} | asdict(made.box)
        rows.append(
            row if result is None else row | {"psnr_y": result.score.psnr, "ssim_y": result.score.ssim}
        )
    files.write(folder / f"{stem}.csv", csv_text(_COLUMNS, rows))
    return folder / f"{stem}.png"


_COLUMNS = (
    *("set", "image", "scale", "rule", "method", "psnr_y", "ssim_y"),
    *("left", "top", "width", "height"),
)


def _chosen(picture: Picture, methods: Sequence[str]) -> list[Result]:
    by_name = {result.name: result for result in picture.results}
    unknown = [name for name in methods if name not in by_name]
    if unknown:
        raise ConfigError(
            f"crops: there is no method '{unknown[0]}' for {picture.image}; allowed: {', '.join(by_name)}"
        )
    if len(methods) > 7:
        raise ConfigError(f"crops: a figure has room for 7 methods beside HR, got {len(methods)}; name fewer")
    return [by_name[name] for name in methods] if methods else list(picture.results[:7])


def _check(box: Box, hr: Pixels, scale: int) -> None:
    height, width = hr.shape[:2]
    if any(value % scale for value in (box.left, box.top, box.width, box.height)):
        raise ConfigError(f"crop: {box} is not on the LR grid; give multiples of the scale {scale}")
    inside = box.left >= 0 and box.top >= 0 and box.left + box.width <= width
    if not inside or box.top + box.height > height or box.width < 1 or box.height < 1:
        raise ConfigError(f"crop: {box} does not lie in the image of {width}x{height} pixels")


def _ranks(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """The two best distinct printed PSNRs and SSIMs."""
    numbers = [(fixed(r.score.psnr, 2), fixed(r.score.ssim, 4)) for r in results]
    psnrs, ssims = (
        sorted(set(column), key=_value, reverse=True)[:2] for column in zip(*numbers, strict=True)
    )
    return psnrs, ssims


def _value(text: str) -> float:
    return float(text) if text != "nan" else -math.inf


def _score(result: Result | None, best: tuple[list[str], list[str]]) -> list[tuple[str, int]]:
    """Parts of the second line with their ranks."""
    if result is None:
        return [("PSNR/SSIM", 0)]
    psnr, ssim = fixed(result.score.psnr, 2), fixed(result.score.ssim, 4)
    return [(psnr, _rank(psnr, best[0])), ("/", 0), (ssim, _rank(ssim, best[1]))]


def _rank(text: str, best: Sequence[str]) -> int:
    return best.index(text) + 1 if text in best else 0


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _place(figure: Figure, pixels: Pixels, left: int, top: int) -> None:
    """Pixels as they are, counted from the top."""
    bottom = round(figure.get_figheight() * _DPI) - top - pixels.shape[0]
    figure.figimage(pixels, left, bottom, origin="upper")


def _box(figure: Figure, box: Box, ratio: float) -> None:
    """A red frame around the crop in the whole image, outside its pixels."""
    width, height = figure.get_figwidth() * _DPI, figure.get_figheight() * _DPI
    line = 1.5 * _DPI / 72
    left, top = box.left * ratio - line / 2, box.top * ratio - line / 2
    size = (box.width * ratio + line, box.height * ratio + line)
    figure.add_artist(
        Rectangle(
            (left / width, 1 - (top + size[1]) / height),
            size[0] / width,
            size[1] / height,
            fill=False,
            edgecolor=_RED,
            linewidth=1.5,
            transform=figure.transFigure,
        )
    )


def _caption(figure: Figure, centre: float, top: float, parts: Sequence[tuple[str, int]]) -> None:
    """One line below a cell: bold is best, blue second; laid out by hand, since a text has one weight."""
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
    widths = [text.get_window_extent().width for text in texts]
    x = centre - sum(widths) / 2
    for text, advance in zip(texts, widths, strict=True):
        text.set_x(x / width)
        x += advance


def _resized(image: Pixels, height: int) -> Pixels:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _png(image: Pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def _stem(picture: Picture) -> str:
    return f"crops_{safe(picture.set_name)}_{safe(picture.image)}_x{picture.scale}"


def _latex(picture: Picture, results: Sequence[Result], best: tuple[list[str], list[str]]) -> str:
    r"""One ``\subfloat`` a cell, four a line; the crops are single files that LaTeX enlarges."""
    lines = [
        r"% \usepackage{graphicx,subfig}; set the PDF viewer's interpolation off to see single pixels",
        r"\begin{figure*}[t]",
        r"\centering",
    ]
    for index, result in enumerate((None, *results)):
        name = "HR" if result is None else result.name
        score = "".join(
            rf"\textbf{{{text}}}" if rank == 1 else rf"\underline{{{text}}}" if rank == 2 else text
            for text, rank in _score(result, best)
        )
        file = f"{_stem(picture)}_{safe(name)}.png"
        lines.append(
            rf"\subfloat[{{{_escaped(name)}\\{score}}}]"
            rf"{{\includegraphics[width=0.24\textwidth]{{{file}}}}}" + (r"\\" if index % 4 == 3 else "%")
        )
    title = f"{_escaped(picture.image)} from {_escaped(picture.set_name)}, $\\times{picture.scale}$"
    lines += [rf"\caption{{{title}. Best bold, second underlined.}}", r"\end{figure*}"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(named.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
