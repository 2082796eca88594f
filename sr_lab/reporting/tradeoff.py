"""The picture of what quality costs: PSNR over multiply-adds, parameters as area. Needs no torch."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


@dataclass(frozen=True)
class Point:
    """A network in the picture.

    Args:
        name: Label.
        num_params: Parameters.
        multi_adds: At a 1280x720 output.
        psnr: In dB.
        is_measured: Of a run of ours (filled), not printed in a paper (hollow).
    """

    name: str
    num_params: float
    multi_adds: float
    psnr: float
    is_measured: bool


def draw(points: Sequence[Point], *, title: str, set_name: str) -> bytes:
    """The picture as a PNG.

    Args:
        points: At least one.
        title: Above the picture.
        set_name: Test set of the PSNR.
    """
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for is_measured, label in ((False, "printed in papers"), (True, "measured here")):
        of_kind = [point for point in points if point.is_measured == is_measured]
        if of_kind:
            axes.scatter(
                [point.multi_adds / 1e9 for point in of_kind],
                [point.psnr for point in of_kind],
                [_area(point.num_params) for point in of_kind],
                facecolors="#1f6fb466" if is_measured else "none",
                edgecolors="#1f6fb4" if is_measured else "#c8571b",
                linewidths=1.4,
                label=label,
            )
    for point in points:
        offset = _area(point.num_params) ** 0.5 / 2 * 0.8
        axes.annotate(
            point.name.rpartition("_x")[0] or point.name,
            (point.multi_adds / 1e9, point.psnr),
            xytext=(offset + 2, offset * 0.3),
            textcoords="offset points",
            fontsize=7.5,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel("multiply-adds at a 1280x720 output [G], all operations")
    axes.set_ylabel(f"PSNR on {set_name} [dB]")
    axes.set_title(f"{title}: quality and cost")
    axes.grid(alpha=0.25, linewidth=0.6)
    handles, labels = axes.get_legend_handles_labels()
    sizes = {"100 K parameters": 1e5, "1 M": 1e6, "4 M": 4e6}
    handles += [
        axes.scatter([], [], _area(count), facecolors="none", edgecolors="grey") for count in sizes.values()
    ]
    figure.legend(handles, [*labels, *sizes], loc="outside right upper", frameon=False, labelspacing=1.8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _area(num_params: float) -> float:
    """Bubble area in square points, in proportion."""
    return num_params / 4e3
