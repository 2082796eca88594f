"""Plot quality against cost: PSNR against multiply-adds, with the number of parameters as bubble area."""

import io
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.typing import FillStyleType

from sr_lab.reporting import counts, saved_images, svg
from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.labels import without_seed
from sr_lab.reporting.rows import share_rows
from sr_lab.reporting.runs import Run

_MAX_NAMES = 40  # with more networks, most names would be far from their circles
# Whether measured here, colour, fill of the marker in the legend, label.
_KINDS: tuple[tuple[bool, str, FillStyleType, str], ...] = (
    (False, "#c8571b", "none", "PSNR printed in papers"),
    (True, "#1f6fb4", "full", "PSNR measured here"),
)


@dataclass(frozen=True)
class Point:
    """A network in the plot."""

    name: str
    num_params: float
    multi_adds: float  # at a 1280x720 output
    psnr: float  # in dB
    is_measured: bool  # measured by a run (filled), not printed in a paper (hollow)


def draw(points: Sequence[Point], *, title: str, set_name: str) -> bytes:
    """The plot of at least one network as a PNG."""
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    _scatter(figure, points, set_name=set_name)
    figure.axes[0].set_title(f"{title}: quality and cost")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def plots(runs: Sequence[Run]) -> list[tuple[int, str, str]]:
    """Scale, test set and plot (an ``<svg>``) for each scale, on the largest usual set with figures."""
    made = []
    for scale in sorted({run.scale for run in runs if run.sets}):
        of_scale = [run for run in runs if run.scale == scale]
        sets = [name for run in of_scale for name in run.sets]
        usual = [name for name in ("Urban100", "B100", "Manga109", "Set14", "Set5") if name in sets]
        set_name = (usual or sets)[0]
        as_printed = [run for run in of_scale if run.is_as_printed(set_name)]
        if as_printed:  # an axis has one protocol
            of_scale = as_printed
        points = _measured(of_scale, set_name)
        if points:
            with svg.drawing(f"plot{scale}"):
                figure = Figure(figsize=(9, 4.6), layout="constrained")
                if as_printed:
                    points = around(points, scale=scale, set_name=set_name)
                _scatter(figure, points, set_name=set_name)
                plot = svg.inline(figure, label=f"PSNR on {set_name} against multiply-adds")
            made.append((scale, set_name, plot))
    return made


def _measured(runs: Sequence[Run], set_name: str) -> list[Point]:
    """A point for each row of the table, with the mean PSNR over its seeds."""
    groups = share_rows(runs)
    found = []
    for own, name in zip(groups, saved_images.names([own[0] for own in groups]), strict=True):
        values = [
            psnr for run in own if (psnr := run.number(f"test/{set_name}/psnr_y")) and math.isfinite(psnr)
        ]
        multi_adds = next((adds for run in own if (adds := run.number("multi_adds"))), None)
        if values and multi_adds:
            num_params = own[0].number("num_params") or 0
            name = without_seed(name) if len(own) > 1 else name
            found.append(Point(name, num_params, multi_adds, statistics.fmean(values), is_measured=True))
    return found


def around(points: Sequence[Point], *, scale: int, set_name: str) -> list[Point]:
    """Our points and the networks that papers compare.

    Their PSNR is the printed one; their multiply-adds are our count, like all others on the axis, so networks
    that are not implemented here are left out. So are networks far larger than ours and than lightweight
    networks, since EDSR with its 43 M parameters would hide the rest.
    """
    limit = max(4e6, *(2 * point.num_params for point in points))
    labels: dict[str, list[str]] = {}
    for figure in counts.comparisons():
        if figure.scale == scale:
            labels.setdefault(figure.model, []).append(figure.row)
    names = {model: max(own, key=own.count) for model, own in labels.items()}
    found = []
    for model, name in names.items():
        psnr, size = counts.psnr(model, scale, set_name), counts.size(model, scale)
        if psnr is not None and size is not None and size.num_params <= limit:
            shared = list(names.values()).count(name) > 1
            name = f"{name} ({size.num_params / 1e3:.0f} K)" if shared else name
            found.append(Point(name, size.num_params, size.multi_adds, psnr, is_measured=False))
    return [*found, *points]


def _scatter(figure: Figure, points: Sequence[Point], *, set_name: str) -> None:
    axes = figure.add_subplot()
    for is_measured, colour, _, _ in _KINDS:
        of_kind = [point for point in points if point.is_measured == is_measured]
        axes.scatter(
            [point.multi_adds / 1e9 for point in of_kind],
            [point.psnr for point in of_kind],
            [_area(point.num_params) for point in of_kind],
            facecolors=f"{colour}66" if is_measured else "none",
            edgecolors=colour,
            linewidths=1.4,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel("multiply-adds at a 1280x720 output [G], all operations")
    axes.set_ylabel(f"PSNR on {set_name} [dB]")
    axes.grid(alpha=0.25, linewidth=0.6)
    kinds = {point.is_measured for point in points}
    handles: list[Artist] = [
        Line2D([], [], marker="o", linestyle="", color=colour, fillstyle=fill, label=label)
        for is_measured, colour, fill, label in _KINDS
        if is_measured in kinds
    ]
    sizes = {"100 K parameters": 1e5, "1 M": 1e6, "4 M": 4e6}
    handles += [
        axes.scatter([], [], _area(count), facecolors="none", edgecolors="grey", label=label)
        for label, count in sizes.items()
    ]
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, labelspacing=1.8, handletextpad=1.6
    )
    _name(figure, axes, points)


def _name(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each name, ours first, at the free position nearest to its point, with a line if that is far.

    A name without a free position is left out.
    """
    figure.draw_without_rendering()
    pixel = figure.dpi / 72  # in one typographic point
    frame = axes.get_window_extent()
    centres = [axes.transData.transform((point.multi_adds / 1e9, point.psnr)) for point in points]
    radii = [_area(point.num_params) ** 0.5 / 2 * pixel for point in points]
    # A name must not cover another name or the middle of a bubble.
    taken = [
        (x - 0.7 * r, y - 0.7 * r, x + 0.7 * r, y + 0.7 * r) for (x, y), r in zip(centres, radii, strict=True)
    ]
    away, cos, sin = _PLACES.T
    named = (
        range(len(points))
        if len(points) <= _MAX_NAMES
        else [i for i, p in enumerate(points) if _is_best(p, points)]
    )
    for index in sorted(named, key=lambda index: not points[index].is_measured):
        point, (x, y), radius = points[index], centres[index], radii[index]
        name = re.sub(r"_x[0-9]+$", "", point.name)
        text = axes.text(0, 0, shortened(name, 26), fontsize=7.5, va="bottom", zorder=3)
        size = text.get_window_extent()
        reach = 0.8 * radius + (2 + away) * pixel
        # The side of the name that faces the point is on a circle around it.
        left = x + reach * cos - size.width * (1 - cos) / 2
        low = y + reach * sin - size.height * (1 - sin) / 2
        right, high = left + size.width, low + size.height
        inside = (left >= frame.x0) & (right <= frame.x1) & (low >= frame.y0) & (high <= frame.y1)
        x0, y0, x1, y1 = (np.array(edge)[:, None] for edge in zip(*taken, strict=True))
        covers = ((left <= x1) & (right >= x0) & (low <= y1) & (high >= y0)).any(axis=0)
        free = np.flatnonzero(inside & ~covers)
        if not len(free):
            text.remove()
            continue
        place = free[0]
        taken.append((left[place], low[place], right[place], high[place]))
        corner = axes.transData.inverted().transform((left[place], low[place]))
        text.set_position((float(corner[0]), float(corner[1])))
        if away[place] > 4:
            near = (min(max(x, left[place]), right[place]), min(max(y, low[place]), high[place]))
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*ends.T, color="grey", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _is_best(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other network has a higher PSNR at no higher cost."""
    return not any(other.psnr > point.psnr and other.multi_adds <= point.multi_adds for other in points)


# Positions for a name, nearest first: distance from its bubble in typographic points, cosine and sine of the
# direction.
_PLACES = np.array(
    [
        (away, math.cos(math.radians(angle)), math.sin(math.radians(angle)))
        for away in (0, 4, 9, 15, 22, 30, 40, 52, 66, 82, 100)
        for angle in (0, 30, -30, 180, 150, -150, 90, -90, 60, -60, 120, -120)
    ]
)


def _area(num_params: float) -> float:
    """Bubble area in square points, proportional to the parameters."""
    return num_params / 4e3
