"""The zoomed-crop figure, as papers print it: the whole image with a box, and the box as each method has it.

    HR image, 2 cells high   |  HR      bicubic  SRCNN  VDSR
    img_012 (x4)             |  LapSRN  MemNet   EDSR   Ours

A cell may hold more than one crop, one below the other: of a second box, framed in blue, and the error of the
first. Every pixel of a crop is a whole number of pixels of the figure: nothing is resampled but the whole
image.
"""

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.reporting.csv_text import csv_text
from sr_lab.reporting.grid import fixed, shortened
from sr_lab.reporting.latex import escape
from sr_lab.reporting.pictures import Picture, Pixels, Result, load, safe

_GUTTER = 2
_TEXT = 56  # two lines below each cell
_DPI = 300
_RED, _BLUE = "#d81b1b", "#1f62d0"
_MAX_ERROR = 0.1  # of the range, where the colour bar ends
_MAX_METHODS = 7
logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every glyph that a PDF's font keeps


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
Kind: TypeAlias = Literal["crop", "second", "error"]


@dataclass(frozen=True)
class Cell:
    """Where a crop stands in the figure's PNG.

    Args:
        name: HR or the method.
        left: First column.
        top: First row.
        zoom: Pixels of the figure for one of the image, each way.
        kind: ``crop``, ``second`` of the second box, or ``error`` of the first.
    """

    name: str
    left: int
    top: int
    zoom: int
    kind: Kind = "crop"


@dataclass(frozen=True)
class CropFigure:
    r"""The figure in its forms.

    Args:
        png: Pixels.
        pdf: Text as text, crops as they are.
        latex: A skeleton of ``\subfloat`` for the files that `write` writes.
        box: The crop.
        second: The second crop, if there is one.
        cells: Where the crops stand.
    """

    png: bytes
    pdf: bytes
    latex: str
    box: Box
    second: Box | None
    cells: tuple[Cell, ...]


def choose(picture: Picture, *, size: int = 48, beside: Box | None = None) -> Box:
    """The window in which the methods' errors differ most from each other: chosen by a rule, not by taste.

    Per pixel the variance over the methods of the mean absolute error of the channels, summed in the window.

    Args:
        picture: At least two methods.
        size: Side of the window in HR pixels, brought down to a multiple of the scale.
        beside: A box that the window must not overlap, as long as there is room elsewhere.
    """
    hr, scale = load(picture.hr).astype(np.float32), picture.scale
    errors = np.stack([np.abs(load(result.file) - hr).mean(axis=2) for result in picture.results])
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    variance = errors.var(axis=0)[: height * scale, : width * scale]
    cells = variance.reshape(height, scale, width, scale).sum(axis=(1, 3))
    side = max(1, size // scale)
    rows, columns = min(side, height), min(side, width)
    sums = sliding_window_view(cells, (rows, columns)).sum(axis=(2, 3))
    if beside is not None:
        y, x = beside.top // scale, beside.left // scale
        high, wide = beside.height // scale, beside.width // scale
        sums = sums.copy()
        sums[max(0, y - rows + 1) : y + high, max(0, x - columns + 1) : x + wide] = -1
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return Box(int(left) * scale, int(top) * scale, columns * scale, rows * scale)


def draw(
    picture: Picture,
    *,
    crop: Crop = "auto",
    methods: Sequence[str] = (),
    second: Crop | None = None,
    errors: bool = False,
) -> CropFigure:
    """The figure of one image.

    Args:
        picture: An image with what the methods made of it.
        crop: A box, or ``auto`` (see `choose`).
        methods: The methods to show, in this order, at most seven; if none are named, all of up to seven, of
            more bicubic and the last six (a paper's own network comes last).
        second: Another box of the same size, framed in blue.
        errors: Whether the error stands below each crop: mean absolute difference of the channels to HR, on
            one scale of colours for all.

    Raises:
        ConfigError: A box does not lie in the image or not on the LR grid, or there is no such method.
    """
    results = _chosen(picture, methods)
    hr = load(picture.hr)
    box = choose(picture) if crop == "auto" else crop
    other = choose(picture, size=box.height, beside=box) if second == "auto" else second
    boxes: dict[Kind, Box] = {"crop": box, **({} if other is None else {"second": other})}
    for own in boxes.values():
        _check(own, hr, picture.scale)
    if other is not None and (other.width, other.height) != (box.width, box.height):
        raise ConfigError(f"crop: the second box must be as large as the first, {box}, got {other}")
    kinds: list[Kind] = [*boxes, *(("error",) if errors else ())]
    zoom = max(1, round(192 / box.height))
    wide, high = box.width * zoom, box.height * zoom
    gutter = _GUTTER if other is None else 3 * _GUTTER  # room for the frames
    stack = len(kinds) * (high + gutter) - gutter
    columns = min(4, math.ceil((len(results) + 1) / 2)) if len(kinds) == 1 else len(results) + 1
    rows = math.ceil((len(results) + 1) / columns)
    tall = rows * stack + (rows - 1) * (_TEXT + gutter)
    whole = _resized(hr, tall)
    left = whole.shape[1] + 4 * _GUTTER
    width, height = left + columns * (wide + gutter) - _GUTTER, tall + _TEXT
    best = _ranks(results)
    with rc_context({"font.family": "serif", "pdf.fonttype": 42, "text.parse_math": False}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        _place(figure, whole, 0, 0)
        ratio = tall / hr.shape[0]
        for own, colour in zip(boxes.values(), (_RED, _BLUE), strict=False):
            _frame(figure, [ratio * v for v in (own.left, own.top, own.width, own.height)], colour, 1.5)
        room, name = whole.shape[1], f"{picture.image} (\N{MULTIPLICATION SIGN}{picture.scale})"
        _caption(figure, room / 2, tall, [(name, 0)], room=room)
        _caption(figure, room / 2, tall + _TEXT // 2 - 4, [(f"from {picture.set_name}", 0)], room=room)
        cells = []
        for index, result in enumerate((None, *results)):
            x = left + index % columns * (wide + gutter)
            y = index // columns * (stack + _TEXT + gutter)
            image = hr if result is None else load(result.file)
            name = "HR" if result is None else result.name
            for number, kind in enumerate(kinds):
                top = y + number * (high + gutter)
                if kind == "error" and result is None:
                    _colour_bar(figure, x, top, wide, high)
                    continue
                pixels = _error(image, hr, box) if kind == "error" else boxes[kind].cut(image)
                _place(figure, pixels.repeat(zoom, axis=0).repeat(zoom, axis=1), x, top)
                cells.append(Cell(name, x, top, zoom, kind))
                if other is not None and kind != "error":
                    _frame(figure, [x, top, wide, high], _RED if kind == "crop" else _BLUE, 0.48)
            _caption(figure, x + wide / 2, y + stack, [(name, 0)], room=wide)
            _caption(figure, x + wide / 2, y + stack + _TEXT // 2 - 4, _score(result, best))
        png, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    latex = _latex(picture, results, best, kinds)
    return CropFigure(png.getvalue(), pdf.getvalue(), latex, box, other, tuple(cells))


def striking(found: Sequence[Picture]) -> list[Picture]:
    """Of each set and scale the image on which the methods' PSNR differ most: again a rule, not taste."""
    by_set: dict[tuple[str, int], list[Picture]] = {}
    for picture in found:
        by_set.setdefault((picture.set_name, picture.scale), []).append(picture)
    return [max(of_set, key=_spread) for of_set in by_set.values()]


def _spread(picture: Picture) -> float:
    values = [result.score.psnr for result in picture.results if math.isfinite(result.score.psnr)]
    return max(values, default=0.0) - min(values, default=0.0)


def write(
    folder: Path,
    picture: Picture,
    *,
    crop: Crop = "auto",
    methods: Sequence[str] = (),
    second: Crop | None = None,
    errors: bool = False,
) -> Path:
    """Write the figure as PNG, PDF and LaTeX, its crops as single PNGs, and a csv with the coordinates.

    Args:
        folder: Where the files go.
        picture: See `draw`.
        crop: See `draw`.
        methods: See `draw`.
        second: See `draw`.
        errors: See `draw`.

    Returns:
        The PNG.
    """
    made = draw(picture, crop=crop, methods=methods, second=second, errors=errors)
    stem = _stem(picture)
    files.write(folder / f"{stem}.png", made.png)
    files.write(folder / f"{stem}.pdf", made.pdf)
    files.write(folder / f"{stem}.tex", made.latex)
    results = _chosen(picture, methods)
    hr = load(picture.hr)
    rows = []
    for result in (None, *results):
        name = "HR" if result is None else result.name
        image = hr if result is None else load(result.file)
        given: dict[Kind, tuple[Box, Crop]] = {"crop": (made.box, crop)}
        if made.second is not None and second is not None:
            given["second"] = (made.second, second)
        for kind, (box, asked) in given.items():
            files.write(folder / _file(picture, name, kind), _png(box.cut(image)))
            row = {"set": picture.set_name, "image": picture.image, "scale": picture.scale, "method": name}
            row |= {"rule": "auto" if asked == "auto" else "given"} | asdict(box)
            if result is not None:
                row |= {"psnr_y": result.score.psnr, "ssim_y": result.score.ssim}
            rows.append(row)
        if errors and result is not None:
            files.write(folder / _file(picture, name, "error"), _png(_error(image, hr, made.box)))
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
    if len(methods) > _MAX_METHODS:
        raise ConfigError(
            f"crops: a figure has room for {_MAX_METHODS} methods beside HR, got {len(methods)}; name fewer"
        )
    if methods:
        return [by_name[name] for name in methods]
    first, *others = picture.results
    return [first, *others[-(_MAX_METHODS - 1) :]]


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


def _place(figure: Figure, pixels: Pixels, left: int, top: int) -> None:
    """Pixels as they are, counted from the top."""
    bottom = round(figure.get_figheight() * _DPI) - top - pixels.shape[0]
    figure.figimage(pixels, left, bottom, origin="upper")


def _frame(figure: Figure, place: Sequence[float], colour: str, points: float) -> None:
    """A frame around left, top, width and height in pixels of the figure, outside of them."""
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
            edgecolor=colour,
            linewidth=points,
            transform=figure.transFigure,
        )
    )


def _error(image: Pixels, hr: Pixels, box: Box) -> Pixels:
    """Mean absolute difference of the channels as a colour, ``(H, W, 3)``."""
    difference = np.abs(box.cut(image).astype(np.float32) - box.cut(hr)).mean(axis=2) / 255
    return _coloured(difference / _MAX_ERROR)


def _coloured(values: NDArray[np.floating]) -> Pixels:
    """0..1 as colours that grow evenly lighter, in print and to colour-blind readers."""
    levels = (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    colours = np.asarray(matplotlib.colormaps["cividis"](np.arange(256), bytes=True))[:, :3]
    return np.asarray(colours[levels], dtype=np.uint8)


def _colour_bar(figure: Figure, left: int, top: int, wide: int, high: int) -> None:
    """What the colours of the errors mean, in the place of HR's error, which is none."""
    thick, margin = max(4, high // 10), wide // 10
    ramp = np.linspace(0, 1, wide - 2 * margin)[None].repeat(thick, axis=0)
    middle = top + high // 2 - thick
    _place(figure, _coloured(ramp), left + margin, middle)
    _caption(figure, left + margin, middle + thick - 4, [("0", 0)])
    _caption(figure, left + wide - margin, middle + thick - 4, [(f"{_MAX_ERROR:g}", 0)])
    _caption(figure, left + wide / 2, middle - _TEXT // 2 - 6, [("|error|", 0)])


def _caption(
    figure: Figure, centre: float, top: float, parts: Sequence[tuple[str, int]], *, room: float = math.inf
) -> None:
    """One line below a cell: bold is best, blue second; laid out by hand, since a text has one weight.

    Names are shortened to the room that there is, in pixels of the figure.
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


def _png(image: Pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def _stem(picture: Picture) -> str:
    return f"crops_{safe(picture.set_name)}_{safe(picture.image)}_x{picture.scale}"


def _file(picture: Picture, name: str, kind: Kind) -> str:
    """A single crop's file."""
    return f"{_stem(picture)}_{safe(name)}{'' if kind == 'crop' else f'_{kind}'}.png"


def _latex(
    picture: Picture, results: Sequence[Result], best: tuple[list[str], list[str]], kinds: Sequence[Kind]
) -> str:
    r"""One ``\subfloat`` a cell, four a line; the crops are single files that LaTeX enlarges."""
    lines = [
        r"% \usepackage{graphicx,subfig}; set the PDF viewer's interpolation off to see single pixels",
        r"\begin{figure*}[t]",
        r"\centering",
        r"\captionsetup[subfloat]{labelformat=empty,justification=centering}",  # no (a), as papers print it
    ]
    for index, result in enumerate((None, *results)):
        name = "HR" if result is None else result.name
        score = "".join(
            rf"\textbf{{{text}}}" if rank == 1 else rf"\underline{{{text}}}" if rank == 2 else text
            for text, rank in _score(result, best)
        )
        shown = [kind for kind in kinds if result is not None or kind != "error"]
        crops = [rf"\includegraphics[width=0.24\textwidth]{{{_file(picture, name, k)}}}" for k in shown]
        if len(crops) > 1:
            crops = [r"\shortstack{" + r"\\".join(crops) + "}"]
        lines.append(
            rf"\subfloat[{{{escape(name)}\\{score}}}]{{{crops[0]}}}" + (r"\\" if index % 4 == 3 else "%")
        )
    title = f"{escape(picture.image)} from {escape(picture.set_name)}, $\\times{picture.scale}$"
    said = "Best bold, second underlined."
    if "error" in kinds:
        said += f" Errors from 0 (dark) to {_MAX_ERROR:g} (bright)."
    lines += [rf"\caption{{{title}. {said}}}", r"\end{figure*}"]
    return "\n".join(lines) + "\n"
