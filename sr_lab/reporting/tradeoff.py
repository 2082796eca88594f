"""Plot quality against cost: PSNR against parameters, multiply-adds and time."""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

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

Source: TypeAlias = Literal["paper", "weights", "run"]
Cost: TypeAlias = Literal["num_params", "multi_adds", "time"]

_ORDER: tuple[Source, ...] = ("run", "weights", "paper")  # the order in which names are placed
_MAX_NAMES = 40  # with more networks, most names would be far from their circles
_RANGE = 1.0  # dB below the best network; networks further below are only listed, except runs
# Where a PSNR comes from -> the colour, marker, fill style and label of its entry in the legend.
_SOURCES: Mapping[Source, tuple[str, str, FillStyleType, str]] = {
    "paper": ("#c8571b", "o", "none", "PSNR printed in papers"),
    "weights": ("#5b8a3c", "D", "full", "PSNR of published weights"),
    "run": ("#1f6fb4", "o", "full", "PSNR measured here"),
}


@dataclass(frozen=True)
class Point:
    """A network in the plot.

    Args:
        name: What it is called.
        num_params: Number of parameters.
        multi_adds: All operations at a 1280x720 output, by our count.
        psnr: PSNR in dB.
        source: Where the PSNR comes from: a paper, published weights, or a run.
        time: As in `Times`; ``None`` if it was not measured.
    """

    name: str
    num_params: float
    multi_adds: float
    psnr: float
    source: Source
    time: float | None = None

    def cost(self, kind: Cost) -> float | None:
        """The cost in the unit of its axis; ``None`` if it is unknown."""
        return {"num_params": self.num_params / 1e3, "multi_adds": self.multi_adds / 1e9, "time": self.time}[
            kind
        ]


@dataclass(frozen=True)
class Times:
    """Times of networks on one device, as runs of ``task=complexity`` measured them.

    Args:
        label: Label of the axis.
        values: Network (`network_of`) -> its time; a paper's own network also under its ``model=`` and scale.
    """

    label: str
    values: Mapping[str, float]

    @classmethod
    def of(cls, costs: Sequence[Run]) -> "Times":
        """The times on the device on which most of the runs were measured; none if there are no such runs."""
        found: list[tuple[str, str, Run]] = []
        for key, what in (("gpu_ms", "time for 1280x720 pixels [ms]"), ("cpu_s_per_megapixel", _CPU_TIME)):
            measured = [run for run in costs if not run.problem and run.number(key) is not None]
            found += [(key, f"{what}, {run.values.get('device')}", run) for run in measured]
        if not found:
            return cls("", {})
        (key, label), _ = Counter((key, label) for key, label, _ in found).most_common(1)[0]
        values: dict[str, float] = {}
        for run in [run for *own, run in found if own == [key, label]]:
            time = run.number(key)
            assert time is not None
            values[network_of(run)] = time
            if is_of_paper(run):
                values[_of_paper(str(run.values.get("option")), run.scale)] = time
        return cls(label, values)

    def of_model(self, model: str, scale: int) -> float | None:
        """The time of the network that papers compare under this ``model=``."""
        return self.values.get(_of_paper(model, scale))


_CPU_TIME = "time for a megapixel [s]"
NO_TIMES = Times("", {})


def network_of(run: Run) -> str:
    """A string that identifies the network and scale of a run."""
    parts = ("model", "upsampler", "strategy", "scale")
    return json.dumps([run.identity.get(part) for part in parts], sort_keys=True)


def is_of_paper(run: Run) -> bool:
    """Whether a run has the published form of its ``model=``, which papers compare, and no variant of it."""
    size = counts.size(str(run.values.get("option")), run.scale)
    return size is not None and size.multi_adds == run.number("multi_adds")


def _of_paper(model: str, scale: int) -> str:
    return f"{model} x{scale}"


def figure(points: Sequence[Point], *, title: str, set_name: str, time: str = "") -> Figure:
    """One panel for each cost: parameters, multiply-adds, and time if it was measured.

    Args:
        points: At least one network.
        title: What all panels show.
        set_name: The test set.
        time: Label of the axis of time.
    """
    kinds: list[Cost] = ["num_params", "multi_adds"]
    kinds += ["time"] if any(point.time is not None for point in points) else []
    made = Figure(figsize=(7, 3.2 * len(kinds) + 0.7), layout="constrained")
    made.suptitle(title, fontsize=8)
    panels = dict(zip(kinds, made.subplots(len(kinds), squeeze=False)[:, 0], strict=True))
    shown, below = _near_the_best(points)
    for kind, axes in panels.items():
        _panel(axes, shown, kind, set_name=set_name, label=_label(kind, time))
    handles = _legend(panels["multi_adds"], shown)
    made.legend(
        handles=handles, loc="outside lower center", frameon=False, ncols=6, handletextpad=1.2, borderpad=1.6
    )
    made.draw_without_rendering()
    for kind, axes in panels.items():
        _name(made, axes, shown, kind)
    if below:
        listed = ", ".join(f"{point.name} {point.psnr:.2f}" for point in below)
        note = f"below the axis: {listed} dB"
        panels["num_params"].text(0.01, 0.02, note, fontsize=6.5, transform=panels["num_params"].transAxes)
    return made


def _near_the_best(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points to draw, and those so far below the best that they would flatten the others."""
    limit = max(point.psnr for point in points) - _RANGE
    limit = min([limit, *(point.psnr for point in points if point.source == "run")])
    below = {point.name: point for point in points if point.psnr < limit}
    return [point for point in points if point.psnr >= limit], list(below.values())


def rows(points: Sequence[Point]) -> list[dict[str, object]]:
    """The numbers behind a figure."""
    return [
        {
            "network": point.name,
            "psnr_from": point.source,
            "num_params": point.num_params,
            "multi_adds_at_1280x720": point.multi_adds,
            "time": point.time,
            "psnr_db": point.psnr,
        }
        for point in points
    ]


def plots(runs: Sequence[Run]) -> list[tuple[int, str, str]]:
    """Scale, test set and plot (an ``<svg>``) for each scale, on the largest usual set that was measured."""
    made = []
    for scale in sorted({run.scale for run in runs if run.sets}):
        of_scale = [run for run in runs if run.scale == scale]
        sets = [name for run in of_scale for name in run.sets]
        usual = [name for name in ("Urban100", "B100", "Manga109", "Set14", "Set5") if name in sets]
        set_name = (usual or sets)[0]
        as_printed = [run for run in of_scale if run.is_as_printed(set_name)]
        if as_printed:  # an axis must not mix protocols
            of_scale = as_printed
        points = measured(of_scale, set_name)
        if points:
            with svg.drawing(f"plot{scale}"):
                made_figure = Figure(figsize=(9, 4.6), layout="constrained")
                if as_printed:
                    points = around(points, scale=scale, set_name=set_name)
                _scatter(made_figure, points, set_name=set_name)
                plot = svg.inline(made_figure, label=f"PSNR on {set_name} against multiply-adds")
            made.append((scale, set_name, plot))
    return made


def measured(runs: Sequence[Run], set_name: str, times: Times = NO_TIMES) -> list[Point]:
    """A point for each row of a table of finished runs, with the mean PSNR over its seeds."""
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
            is_published = str(own[0].values.get("ckpt")).startswith("zoo/")
            source: Source = "weights" if is_published else "run"
            time = times.values.get(network_of(own[0]))
            found.append(Point(name, num_params, multi_adds, statistics.fmean(values), source, time))
    return found


def printed(
    scale: int, set_name: str, *, table: tuple[str, str] | None = None, times: Times = NO_TIMES
) -> list[Point]:
    """The networks that papers compare, with their printed PSNR.

    All costs on an axis are our own counts, so networks that are not implemented here are left out.

    Args:
        scale: Upscaling factor.
        set_name: The test set.
        table: Paper and table that the networks and values are from; ``None``: all papers, with the value
            that most of them print.
        times: Measured times.
    """
    labels: dict[str, list[str]] = {}
    own: dict[str, float] = {}
    for printed_figure in counts.comparisons():
        if printed_figure.scale == scale and table in (None, (printed_figure.paper, printed_figure.table)):
            labels.setdefault(printed_figure.model, []).append(printed_figure.row)
            if (printed_figure.set_name, printed_figure.metric) == (set_name, "psnr_y"):
                own[printed_figure.model] = printed_figure.value
    names = {model: max(own, key=own.count) for model, own in labels.items()}
    found = []
    for model, name in names.items():
        psnr = own.get(model) if table is not None else counts.psnr(model, scale, set_name)
        size = counts.size(model, scale)
        if psnr is not None and size is not None:
            shared = list(names.values()).count(name) > 1
            name = f"{name} ({size.num_params / 1e3:.0f} K)" if shared else name
            time = times.of_model(model, scale)
            found.append(Point(name, size.num_params, size.multi_adds, psnr, "paper", time))
    return found


def around(points: Sequence[Point], *, scale: int, set_name: str) -> list[Point]:
    """Our points and the networks that papers compare.

    Networks far larger than ours and than lightweight networks are left out: on an axis that
    includes EDSR with its 43 M parameters, all other points would lie close together.
    """
    limit = max(4e6, *(2 * point.num_params for point in points), 0)
    others = printed(scale, set_name)
    return [*(other for other in others if other.num_params <= limit), *points]


def _scatter(made: Figure, points: Sequence[Point], *, set_name: str) -> None:
    axes = made.add_subplot()
    _panel(axes, points, "multi_adds", set_name=set_name, label=_label("multi_adds"))
    handles = _legend(axes, points)
    made.legend(
        handles=handles, loc="outside right upper", frameon=False, labelspacing=1.8, handletextpad=1.6
    )
    made.draw_without_rendering()
    _name(made, axes, points, "multi_adds")


def _label(kind: Cost, time: str = "") -> str:
    return {
        "num_params": "parameters [K]",
        "multi_adds": "multiply-adds at a 1280x720 output [G], all operations",
        "time": time,
    }[kind]


def _panel(axes: Axes, points: Sequence[Point], kind: Cost, *, set_name: str, label: str) -> None:
    for source, (colour, marker, fill, _) in _SOURCES.items():
        own = [
            (point, x) for point in points if point.source == source and (x := point.cost(kind)) is not None
        ]
        axes.scatter(
            [x for _, x in own],
            [point.psnr for point, _ in own],
            [_area(point, kind) for point, _ in own],
            marker=marker,
            facecolors=f"{colour}55" if fill == "full" else "none",
            edgecolors=colour,
            linewidths=1.1,
        )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8))
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel(f"PSNR on {set_name} [dB]")
    axes.grid(alpha=0.25, linewidth=0.6)


def _legend(axes: Axes, points: Sequence[Point]) -> list[Artist]:
    """Entries for the sources and for the sizes of the markers."""
    sources = {point.source for point in points}
    handles: list[Artist] = [
        Line2D([], [], marker=marker, linestyle="", color=colour, fillstyle=fill, label=label)
        for source, (colour, marker, fill, label) in _SOURCES.items()
        if source in sources
    ]
    sizes = {"100 K parameters": 1e5, "1 M": 1e6, "4 M": 4e6}
    most = max(point.num_params for point in points)
    handles += [
        axes.scatter([], [], count / 4e3, facecolors="none", edgecolors="grey", label=label)
        for label, count in sizes.items()
        if count < 2 * most
    ]
    return handles


def _name(made: Figure, axes: Axes, every: Sequence[Point], kind: Cost) -> None:
    """Write each name, ours first, at the free position nearest to its point; distant names get a line.

    A name without a free position is left out. If markers of one network overlap, only one of them is named.
    """
    pixel = made.dpi / 72  # in one typographic point
    frame = axes.get_window_extent()
    own = [(point, x) for point in every if (x := point.cost(kind)) is not None]
    points = [point for point, _ in own]
    centres = [axes.transData.transform((x, point.psnr)) for point, x in own]
    radii = [_area(point, kind) ** 0.5 / 2 * pixel for point in points]
    # A name must not cover another name or the middle of a bubble.
    taken = [
        (x - 0.7 * r, y - 0.7 * r, x + 0.7 * r, y + 0.7 * r) for (x, y), r in zip(centres, radii, strict=True)
    ]
    away, cos, sin = _PLACES.T
    named = (
        range(len(points))
        if len({point.name for point in points}) <= _MAX_NAMES
        else [i for i, (point, x) in enumerate(own) if _is_best(point, x, own)]
    )
    written: list[int] = []
    for index in sorted(named, key=lambda index: _ORDER.index(points[index].source)):
        point, (x, y), radius = points[index], centres[index], radii[index]
        if any(
            points[other].name == point.name
            and math.dist(centres[other], centres[index]) < radii[other] + radius
            for other in written
        ):
            continue
        written.append(index)
        name = re.sub(r"_x[0-9]+$", "", point.name)
        text = axes.text(0, 0, shortened(name, 26), fontsize=7.5, va="bottom", zorder=3)
        size = text.get_window_extent()
        reach = 0.8 * radius + (2 + away) * pixel
        # The side of the name that faces the point is on a circle around the point.
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


def _is_best(point: Point, cost: float, points: Sequence[tuple[Point, float]]) -> bool:
    """Whether no other network has a higher PSNR at no higher cost."""
    return not any(other.psnr > point.psnr and own <= cost for other, own in points)


# Positions for a name, nearest first: distance from its bubble in typographic points, cosine and sine of the
# direction.
_PLACES = np.array(
    [
        (away, math.cos(math.radians(angle)), math.sin(math.radians(angle)))
        for away in (0, 4, 9, 15, 22, 30, 40, 52, 66, 82, 100)
        for angle in (0, 30, -30, 180, 150, -150, 90, -90, 60, -60, 120, -120)
    ]
)


def _area(point: Point, kind: Cost) -> float:
    """Area of a marker in square points: proportional to the parameters, except where these are an axis."""
    return 40.0 if kind == "num_params" else point.num_params / 4e3
