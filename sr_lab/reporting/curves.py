"""Training curves from ``metrics.csv``: loss, validation PSNR of each set, learning rate and more."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from sr_lab.reporting import saved_images, svg
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import RunFolder

_MAX_POINTS = 200  # a panel is about 400 pixels wide
_MANY = 12  # with more lines, they are thinner
_DASHES = ("", "5 3", "1.5 2.5", "7 2 1.5 2")  # dash patterns of SVG, in points


@dataclass(frozen=True)
class Curve:
    """One column of a training run's record."""

    name: str  # name of the run
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Key:
    """Entry of the legend: the line of a run in every panel."""

    name: str
    colour: str
    dash: str  # SVG's ``stroke-dasharray``, empty for a solid line


@dataclass(frozen=True)
class Training:
    """Curves of all runs."""

    # Title and plot (``<svg>``) of each quantity. Runs with the same curve share one line, labelled
    # with the number of runs; ``data-run`` of a line lists their positions in the legend.
    panels: list[tuple[str, str]]
    keys: list[Key]  # the legend
    # Whether any run was interrupted; dotted vertical lines show where it resumed.
    has_restarts: bool


def read(runs: Sequence[Run], column: str) -> list[Curve]:
    """One column of the record, for each run that has it."""
    found = []
    for run, name in zip(runs, saved_images.names(runs), strict=True):
        points = [(row["step"], row[column]) for row in run.record if {"step", column} <= row.keys()]
        if points:
            shown = [*points[: -1 : math.ceil(len(points) / _MAX_POINTS)], points[-1]]
            steps, values = zip(*shown, strict=True)
            found.append(Curve(name, steps, values))
    return found


def restarts(run: Run) -> tuple[float, ...]:
    """Steps at which a training run resumed.

    The run folder says when the last attempt began. Earlier interruptions are recognised as pauses of more
    than a minute, and of more than ten times the usual pause, between two rows without a validation.
    """
    rows = [row for row in run.record if {"step", "time"} <= row.keys()]
    pairs = [(one["time"], other["time"], one["step"], other) for one, other in itertools.pairwise(rows)]
    usual = statistics.median([after - before for before, after, *_ in pairs]) if pairs else 0.0
    begun = RunFolder(run.path).since()
    found = []
    for before, after, step, row in pairs:
        paused = "val/psnr_y" not in row and after - before > max(60.0, 10 * usual)
        if paused or (begun is not None and before < begun < after):
            found.append(step)
    return tuple(found)


def draw(runs: Sequence[Run]) -> Training:
    """One panel for each quantity that a run has recorded."""
    curves = [(title, column, factor, read(runs, column)) for title, column, factor in _columns(runs)]
    curves = [quantity for quantity in curves if quantity[3]]
    order = list(dict.fromkeys(curve.name for *_, found in curves for curve in found))
    styles = itertools.cycle(itertools.product(_DASHES, svg.COLOURS))
    keys = [Key(name, colour, dash) for name, (dash, colour) in zip(order, styles, strict=False)]
    marks = {name: restarts(run) for run, name in zip(runs, saved_images.names(runs), strict=True)}
    panels = []
    for number, (title, column, factor, found) in enumerate(curves):
        with svg.drawing(f"curves{number}"):
            figure = Figure(figsize=(4.4, 2.7), layout="constrained")
            axes = figure.add_subplot()
            lines: dict[tuple[tuple[float, ...], ...], list[int]] = {}  # runs with the same points, one line
            for curve in found:
                lines.setdefault((curve.steps, curve.values), []).append(order.index(curve.name))
            for place, ((steps, values), runs_of_line) in enumerate(lines.items()):
                restarted = {step for index in runs_of_line for step in marks[order[index]]}
                _line(axes, steps, [value * factor for value in values], keys, runs_of_line, restarted)
                if len(runs_of_line) > 1:
                    _count(axes, steps, values, factor, len(runs_of_line), place)
            axes.set_xlabel("step")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.grid(axis="y")
            if column == "train/loss":
                _log_scale(axes, [value for curve in found for value in curve.values])
            label = f"{title} over steps, one line for each run"
            panels.append((title, svg.inline(figure, label=label)))
    return Training(panels, keys, any(marks[name] for name in order))


def _columns(runs: Sequence[Run]) -> list[tuple[str, str, float]]:
    """Title, column of the record, and the factor for its values."""
    known = dict.fromkeys(column for run in runs for row in run.record for column in row)
    sets = [c for c in known if c.startswith("val/") and c.endswith("/psnr_y") and c.count("/") == 2]
    validation = [(f"PSNR, {column.split('/')[1].replace('_', ' ')} [dB]", column, 1.0) for column in sets]
    memory = [
        (f"{c.removesuffix('_bytes').replace('_', ' ')} [MiB]", c, 2.0**-20) for c in known if "memory" in c
    ]
    return [
        ("training loss", "train/loss", 1.0),
        *(validation or [("PSNR, validation [dB]", "val/psnr_y", 1.0)]),
        ("learning rate", "learning_rate", 1.0),
        ("waiting for data [% of the time]", "data_wait", 100.0),
        *memory,
    ]


def _line(
    axes: Axes,
    steps: Sequence[float],
    values: Sequence[float],
    keys: Sequence[Key],
    runs: Sequence[int],
    restarted: Iterable[float],
) -> None:
    """Draw the line of a run; a line that several runs share has the colour of the text."""
    key = keys[runs[0]] if len(runs) == 1 else Key("", svg.INK, "")
    dashes = tuple(map(float, key.dash.split()))
    (line,) = axes.plot(
        steps,
        values,
        color=key.colour,
        linestyle=(0, dashes) if dashes else "-",
        linewidth=1.5 if len(keys) <= _MANY else 0.8,
        marker="o" if len(steps) == 1 else None,
        markersize=4,
    )
    lines = [line, *(axes.axvline(step, color=key.colour, linewidth=1, linestyle=":") for step in restarted)]
    for part in lines:
        part.set_gid(f"{svg.RUN}{' '.join(map(str, runs))}")


def _count(
    axes: Axes, steps: Sequence[float], values: Sequence[float], factor: float, count: int, place: int
) -> None:
    """Write above a line how many runs share it; ``place`` is the number of shared lines before it."""
    index = len(steps) * (1 + 2 * (place % 4)) // 9
    axes.annotate(
        f"{count} runs",
        (steps[index], values[index] * factor),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=7.5,
    )


def _log_scale(axes: Axes, values: Sequence[float]) -> None:
    """Set a logarithmic axis with plain numbers, since a loss falls fast at first, then slowly."""
    if min(values) <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
