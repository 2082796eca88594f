"""Plot quality against cost: PSNR against multiply-adds, with the number of parameters as bubble area."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from matplotlib.typing import FillStyleType

from sr_lab.reporting import counts, saved_images, svg
from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.runs import Run

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
        points = [
            Point(name, run.number("num_params") or 0, multi_adds, psnr, is_measured=True)
            for run, name in zip(of_scale, saved_images.names(of_scale), strict=True)
            if (multi_adds := run.number("multi_adds"))
            and (psnr := run.number(f"test/{set_name}/psnr_y"))
            and math.isfinite(psnr)
        ]
        if points:
            with svg.drawing(f"plot{scale}"):
                figure = Figure(figsize=(9, 4.6), layout="constrained")
                if as_printed:
                    points = around(points, scale=scale, set_name=set_name)
                _scatter(figure, points, set_name=set_name)
                plot = svg.inline(figure, label=f"PSNR on {set_name} against multiply-adds")
            made.append((scale, set_name, plot))
    return made


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
        Bbox.from_extents(x - 0.7 * r, y - 0.7 * r, x + 0.7 * r, y + 0.7 * r)
        for (x, y), r in zip(centres, radii, strict=True)
    ]
    for index in sorted(range(len(points)), key=lambda index: not points[index].is_measured):
        point, (x, y), radius = points[index], centres[index], radii[index]
        name = re.sub(r"_x[0-9]+$", "", point.name)
        text = axes.text(0, 0, shortened(name, 26), fontsize=7.5, va="bottom", zorder=3)
        size = text.get_window_extent()
        for away, angle in _PLACES:
            reach = 0.8 * radius + (2 + away) * pixel
            # The side of the name that faces the point is on a circle around it.
            left = x + reach * math.cos(angle) - size.width * (1 - math.cos(angle)) / 2
            low = y + reach * math.sin(angle) - size.height * (1 - math.sin(angle)) / 2
            box = Bbox.from_bounds(left, low, size.width, size.height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        else:
            text.remove()
            continue
        taken.append(box)
        corner = axes.transData.inverted().transform((left, low))
        text.set_position((float(corner[0]), float(corner[1])))
        if away > 4:
            near = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*ends.T, color="grey", linewidth=0.5, zorder=1, scalex=False, scaley=False)


# Positions for a name: distance from its bubble in typographic points, and direction.
_PLACES = tuple(
    (away, math.radians(angle))
    for away in (0, 4, 9, 15, 22, 30, 40, 52, 66, 82, 100)
    for angle in (0, 30, -30, 180, 150, -150, 90, -90, 60, -60, 120, -120)
)


def _area(num_params: float) -> float:
    """Bubble area in square points, proportional to the parameters."""
    return num_params / 4e3
