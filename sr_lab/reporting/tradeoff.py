"""The picture of what quality costs: PSNR over multiply-adds, parameters as area. Needs no torch."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from matplotlib.typing import FillStyleType

from sr_lab.reporting import published, svg

# Whether measured here, colour, fill of the legend's mark, label.
_KINDS: tuple[tuple[bool, str, FillStyleType, str], ...] = (
    (False, "#c8571b", "none", "printed in papers"),
    (True, "#1f6fb4", "full", "measured here"),
)


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
    _scatter(figure, points, set_name=set_name)
    figure.axes[0].set_title(f"{title}: quality and cost")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def draw_svg(points: Sequence[Point], *, set_name: str, salt: str) -> str:
    """The picture as an ``<svg>`` inside a page.

    Args:
        points: At least one.
        set_name: Test set of the PSNR.
        salt: Other than that of every other figure of the page.
    """
    with svg.drawing(salt):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        _scatter(figure, points, set_name=set_name)
        return svg.inline(figure, label=f"PSNR on {set_name} over multiply-adds")


def around(points: Sequence[Point], *, scale: int, set_name: str) -> list[Point]:
    """Points of ours among what the papers print of the networks that they compare.

    Left out is what is far larger than ours and than lightweight networks: EDSR's 43 M would hide the rest.

    Args:
        points: Ours.
        scale: Enlargement.
        set_name: Test set.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for figure in published.comparisons():
        in_set = figure.metric == "psnr_y" and figure.set_name == set_name
        if figure.scale == scale and (in_set or figure.metric in ("num_params_k", "multi_adds_g")):
            found.setdefault(figure.row, {}).setdefault(figure.metric, []).append(figure.value)
    most = {row: {m: max(v, key=v.count) for m, v in metrics.items()} for row, metrics in found.items()}
    limit = max(4e6, *(2 * point.num_params for point in points)) / 1e3
    return [
        Point(row, m["num_params_k"] * 1e3, m["multi_adds_g"] * 1e9, m["psnr_y"], is_measured=False)
        for row, m in most.items()
        if len(m) == 3 and m["num_params_k"] <= limit
    ] + list(points)


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
    figure.legend(handles=handles, loc="outside right upper", frameon=False, labelspacing=1.8)
    _name(figure, axes, points)


def _name(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write names beside the points, ours first; where the papers' stand too close, only some have theirs."""
    figure.draw_without_rendering()
    taken: list[Bbox] = []
    for point in sorted(points, key=lambda point: not point.is_measured):
        offset = _area(point.num_params) ** 0.5 / 2 * 0.8
        text = axes.annotate(
            point.name.rpartition("_x")[0] or point.name,
            (point.multi_adds / 1e9, point.psnr),
            xytext=(offset + 2, offset * 0.3),
            textcoords="offset points",
            fontsize=7.5,
        )
        box = text.get_window_extent()
        if not point.is_measured and any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _area(num_params: float) -> float:
    """Bubble area in square points, in proportion."""
    return num_params / 4e3
