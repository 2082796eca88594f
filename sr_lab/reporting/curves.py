"""How trainings went: loss, validation PSNR and learning rate, from each run's ``metrics.csv``."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from sr_lab.reporting import pictures, svg
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import RunFolder

_PANELS = (
    ("train/loss", "training loss"),
    ("val/psnr_y", "validation PSNR [dB]"),
    ("learning_rate", "learning rate"),
)
_MAX_POINTS = 400  # a line of a picture some 400 pixels wide


@dataclass(frozen=True)
class Curve:
    """One column of a training's record.

    Args:
        name: The run.
        steps: Optimizer steps.
        values: The column at these steps.
    """

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


def read(runs: Sequence[Run], column: str) -> list[Curve]:
    """The column of each run that has recorded it."""
    found = []
    for run, name in zip(runs, pictures.names(runs), strict=True):
        file = RunFolder(run.path).record
        points = []
        if file.is_file():
            with file.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    point = (_number(row.get("step")), _number(row.get(column)))
                    if all(map(math.isfinite, point)):
                        points.append(point)
        if points:
            points = points[:: math.ceil(len(points) / _MAX_POINTS)]
            steps, values = zip(*points, strict=True)
            found.append(Curve(name, steps, values))
    return found


def _number(text: str | None) -> float:
    """A row that a kill has cut short has holes, and perhaps half a number."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def draw(runs: Sequence[Run]) -> str:
    """The three panels side by side as an ``<svg>``, empty if no run was a training."""
    curves = {column: read(runs, column) for column, _ in _PANELS}
    order = list(dict.fromkeys(curve.name for found in curves.values() for curve in found))
    if not order:
        return ""
    columns = min(4, len(order))
    with svg.drawing("curves"):
        rows = math.ceil(len(order) / columns)
        figure = Figure(figsize=(11, 3.2 + 0.22 * rows), layout="constrained")
        for axes, (column, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
            for curve in curves[column]:
                index = order.index(curve.name)
                axes.plot(
                    curve.steps,
                    curve.values,
                    color=svg.COLOURS[index % len(svg.COLOURS)],
                    linestyle=("-", "--", ":")[index // len(svg.COLOURS) % 3],
                    linewidth=1.5,
                    marker="o" if len(curve.steps) == 1 else None,
                    markersize=4,
                    label=_shown(curve.name),
                )
            axes.set_title(title, fontsize=9.5, loc="left")
            axes.set_xlabel("step")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.grid(axis="y")
            if column == "train/loss" and curves[column]:
                _log_scale(axes, [value for curve in curves[column] for value in curve.values])
        labels: dict[str, Artist] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                labels.setdefault(label, handle)
        figure.legend(list(labels.values()), list(labels), loc="outside lower left", ncols=columns)
        return svg.inline(figure, label="Training curves: loss, validation PSNR and learning rate")


def _log_scale(axes: Axes, values: Sequence[float]) -> None:
    """A loss falls fast and then slowly; ticks as plain numbers."""
    if min(values) <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _shown(name: str) -> str:
    """A label that begins with ``_`` is none to matplotlib."""
    return name if not name.startswith("_") else f" {name}"
