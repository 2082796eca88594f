"""Figures for print: 7 inches wide, in colours that colour-blind readers can tell apart, with markers."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.typing import RcKeyType
from torch import Tensor

from sr_lab.analysis.pixel_errors import Errors
from sr_lab.analysis.spectrum import HIGH, Spectrum

WIDTH = 7.0  # inches, the text width of a two-column paper
_STYLE: dict[RcKeyType, object] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # TrueType fonts, which publishers accept
    "text.parse_math": False,  # names of files may contain $
}
# Okabe and Ito's colours, without the yellow, which is too light on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LISTED = 8  # blocks that a legend lists; more get a colour scale
_NAMED = 30  # images whose names an axis has room for
_HEAT = "magma"
logging.getLogger("fontTools").setLevel(logging.WARNING)  # otherwise it logs every glyph of a PDF's font


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Args:
        of: The analysed image, for the names of the files: ``baby_x4``; may be empty.
        title: What the figure shows.
        figure: The figure.
        rows: The numbers that the figure shows.
        says: What the numbers mean, a sentence for each network.
    """

    of: str
    title: str
    figure: Figure
    rows: Sequence[Mapping[str, object]]
    says: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """A map with its caption.

    Args:
        caption: What the map shows, e.g. ``block 3``.
        map: ``(H, W)``, or an RGB image ``(H, W, 3)`` in [0, 1], which gets no colour scale.
        unit: Label of the colour scale; empty for an image.
        limits: Ends of the colour scale; ``None``: those of the shared scale, or the 1st and the 99th
            percentile of the map.
    """

    caption: str
    map: Tensor
    unit: str = ""
    limits: tuple[float, float] | None = None


def style() -> AbstractContextManager[None]:
    """Matplotlib's settings for these figures, as a context manager."""
    return rc_context(_STYLE)


def written(figure: Figure, *, made_by: str, says: str) -> dict[str, bytes]:
    """The figure as PNG (300 dpi) and PDF, by suffix.

    Args:
        figure: The figure to write.
        made_by: The task, which the file records as its software.
        says: What the figure shows, which the file records as its description.
    """
    made = {}
    software = f"sr_lab {made_by}"
    # Without a date, the same figure gives the same file.
    recorded = {
        "png": {"Software": software, "Description": says},
        "pdf": {"Creator": software, "Subject": says, "CreationDate": None},
    }
    with style():
        for suffix, metadata in recorded.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, dpi=300, metadata=metadata)
            made[suffix] = content.getvalue()
    return made


def spectra(networks: Mapping[str, Sequence[tuple[str, Spectrum, bool]]], *, title: str) -> Figure:
    """One panel for each network, one line for each block; dashed if the previous block has more fine detail.

    Args:
        networks: For each network the blocks in order: name, spectrum, and whether it is dashed.
        title: What all panels show.
    """
    with style():
        figure, axes = _grid(len(networks), title)
        for position, (axis, (name, blocks)) in enumerate(zip(axes, networks.items(), strict=True)):
            for (block, spectrum, lacks), colour in zip(blocks, _by_depth(len(blocks)), strict=True):
                axis.plot(
                    spectrum.frequency,
                    spectrum.decibels,
                    color=colour,
                    linestyle="--" if lacks else "-",
                    label=f"{block} (less)" if lacks else block,
                )
            axis.axvspan(HIGH, 0.5, color="black", alpha=0.04, linewidth=0)
            axis.set(title=name, xlim=(0, 0.5), xlabel="frequency [cycles/pixel]")
            if position % _columns(len(networks)) == 0:
                axis.set_ylabel("power [dB]")
            if len(blocks) <= _LISTED:
                axis.legend(fontsize=6, frameon=False, title="block", title_fontsize=6)
                continue
            shades = mpl.cm.ScalarMappable(mpl.colors.Normalize(1, len(blocks)), _shades())
            bar = figure.colorbar(shades, ax=axis, fraction=0.04, pad=0.02)
            bar.set_label("block", fontsize=6)
            bar.locator = MaxNLocator(integer=True)
            bar.ax.tick_params(labelsize=6)
            if less := [block for block, _, lacks in blocks if lacks]:
                axis.legend(
                    [Line2D([], [], color="black", linestyle="--")],
                    [f"less: {', '.join(less)}"],
                    fontsize=6,
                    frameon=False,
                )
        return figure


def residuals(networks: Mapping[str, Sequence[tuple[str, float]]], *, title: str) -> Figure:
    """Mean absolute residual of each block by depth; hollow points exceed the first network's maximum."""
    with style():
        figure = Figure(figsize=(WIDTH, 3), layout="constrained")
        axis = figure.subplots()
        first, *others = networks
        limit = max(value for _, value in networks[first])
        for (name, blocks), colour, marker in zip(networks.items(), *_styles(len(networks)), strict=True):
            depth = [(k + 1) / len(blocks) for k in range(len(blocks))]
            values = [value for _, value in blocks]
            axis.plot(depth, values, color=colour, marker=marker, label=name, zorder=2)
            hollow = [k for k, value in enumerate(values) if value > limit]
            axis.plot(
                [depth[k] for k in hollow],
                [values[k] for k in hollow],
                marker=marker,
                linestyle="",
                color=colour,
                markerfacecolor="white",
                zorder=3,
            )
        if others:
            axis.axhline(
                limit, color="black", linewidth=0.8, linestyle=":", zorder=1, label=f"largest of {first}"
            )
        axis.set(title=title, xlabel="depth (block / number of blocks)", ylabel="mean absolute residual")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
        return figure


def maps(rows: Mapping[str, Sequence[Panel]], *, title: str, shared: bool = False) -> Figure:
    """A row of maps for each network; each map has its own colour scale, or a row shares one.

    Args:
        rows: The panels of each network.
        title: What all panels show.
        shared: Whether the maps of a row share one scale, between their 1st and 99th percentile.
    """
    most = max(len(panels) for panels in rows.values())
    columns = min(most, 6)
    lines = [
        (name if start == 0 else "", panels[start : start + columns])
        for name, panels in rows.items()
        for start in range(0, len(panels), columns)
    ]
    first = next(iter(rows.values()))[0].map
    ratio = first.shape[0] / first.shape[1]
    with style():
        side = 0.94 * WIDTH / columns  # without the space between two maps
        bars = sum(any(panel.map.ndim == 2 for panel in panels) for _, panels in lines)
        height = len(lines) * (side * ratio + 0.2) + 0.25 * bars + 0.25
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.suptitle(title, fontsize=8)
        grid = figure.subplots(len(lines), columns, squeeze=False)
        scales = {name: _limits([p.map for p in panels if p.map.ndim == 2]) for name, panels in rows.items()}
        scale = (0.0, 1.0)
        for axes, (name, panels) in zip(grid, lines, strict=True):
            scale = scales.get(name, scale)
            for axis in axes:
                axis.set_axis_off()
            for axis, panel in zip(axes, panels, strict=False):
                _show(axis, panel, scale if shared else None)
            if name:
                axes[0].text(
                    -0.04, 0.5, name, rotation=90, va="center", ha="right", transform=axes[0].transAxes
                )
        return figure


def error_maps(networks: Mapping[str, Errors], bicubic: Errors, *, title: str) -> Figure:
    """Error maps on one scale; below them the errors at edges and elsewhere, and their spectra.

    Args:
        networks: The errors of each network on one image.
        bicubic: The errors of bicubic upscaling, for comparison.
        title: What all panels show.
    """
    first = next(iter(networks.values())).map
    columns = min(4, len(networks))
    lines = math.ceil(len(networks) / columns)
    height = lines * (WIDTH / columns * first.shape[0] / first.shape[1] + 0.4)
    with style():
        figure, above = _above_errors(networks, bicubic, height=height, title=title)
        scale = _limits([each.map for each in networks.values()])
        axes = above.subplots(lines, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (name, each) in zip(axes.flat, networks.items(), strict=False):
            _show(axis, Panel(name, each.map, "grey levels"), scale)
        return figure


def wins(
    gains: Mapping[str, Sequence[tuple[str, float]]],
    networks: Mapping[str, Errors],
    bicubic: Errors,
    *,
    against: str,
    title: str,
) -> Figure:
    """Gain of each network over ``against`` on each image, largest first; below, errors as in `error_maps`.

    Args:
        gains: For each network, the images and its gain in PSNR (dB) on each of them, largest gain first.
        networks: The mean errors of each network over the images.
        bicubic: The errors of bicubic upscaling, for comparison.
        against: Name of the network that the others are compared with.
        title: What all panels show.
    """
    count = len(next(iter(gains.values())))
    named = count <= _NAMED
    with style():
        height = len(gains) * (2.2 if named else 1.5)
        figure, above = _above_errors(networks, bicubic, height=height, title=title)
        axes = above.subplots(len(gains), squeeze=False, sharey=True)[:, 0]
        for axis, (name, images) in zip(axes, gains.items(), strict=True):
            values = np.array([gain for _, gain in images])
            for sign, colour, hatch in ((1, COLOURS[0], ""), (-1, COLOURS[1], "//")):
                own = np.flatnonzero(sign * values > 0)
                axis.bar(own, values[own], color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            better = f"better on {int((values > 0).sum())} of {count} images"
            axis.set_title(f"{name} against {against}: {better}, mean {values.mean():+.3f} dB")
            axis.set(ylabel="gain in PSNR [dB]", xlim=(-0.6, count - 0.4))
            axis.axhline(0, color="black", linewidth=0.8)
            axis.grid(visible=False, axis="x")
            if named:
                axis.set_xticks(range(count), [image for image, _ in images], rotation=40, ha="right")
            else:
                axis.set_xlabel(f"images, from {images[0][0]} to {images[-1][0]}")
        return figure


def _above_errors(
    networks: Mapping[str, Errors], bicubic: Errors, *, height: float, title: str
) -> tuple[Figure, SubFigure]:
    """A figure whose lower part shows the errors of each network, and its empty upper part."""
    figure = Figure(figsize=(WIDTH, height + 2.8), layout="constrained")
    figure.suptitle(title, fontsize=8)
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, 2.6))
    left, right = below.subplots(1, 2)
    every = {"bicubic": bicubic, **networks}
    places = np.arange(len(every))
    edges, flat = [each.edges for each in every.values()], [each.flat for each in every.values()]
    left.bar(places, edges, 0.4, label="at edges", color=COLOURS[1], hatch="//", edgecolor="white")
    left.bar(places + 0.4, flat, 0.4, label="elsewhere", color=COLOURS[0], edgecolor="white")
    left.set_xticks(places + 0.2, list(every), rotation=20, ha="right")
    left.set(ylabel="mean squared error [grey levels²]")
    left.margins(y=0.25)  # room for the legend
    left.legend(frameon=False, ncols=2)
    for (name, each), colour, marker in zip(networks.items(), *_styles(len(networks)), strict=True):
        spectrum = each.spectrum
        right.plot(
            spectrum.frequency,
            spectrum.decibels - bicubic.spectrum.decibels,
            color=colour,
            marker=marker,
            markevery=max(1, len(spectrum.frequency) // 8),
            markersize=3,
            label=name,
        )
    right.axhline(0, color="black", linewidth=0.8)
    right.set(xlim=(0, 0.5), xlabel="frequency [cycles/pixel]", ylabel="error's power against bicubic [dB]")
    right.legend(frameon=False)
    return figure, above


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, ylabel: str
) -> Figure:
    """Values over optimizer steps, one line for each run."""
    with style():
        figure = Figure(figsize=(WIDTH, 3), layout="constrained")
        axis = figure.subplots()
        for (name, (steps, values)), colour, marker in zip(lines.items(), *_styles(len(lines)), strict=True):
            every = max(1, len(steps) // 10)
            axis.plot(steps, values, color=colour, marker=marker, markevery=every, markersize=3, label=name)
        axis.set(title=title, xlabel="optimizer steps", ylabel=ylabel)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.legend(frameon=False)
        return figure


def _show(axis: Axes, panel: Panel, scale: tuple[float, float] | None) -> None:
    axis.set_title(panel.caption, fontsize=7)
    if panel.map.ndim == 3:
        axis.imshow(panel.map.clamp(0, 1).numpy(), interpolation="nearest")
        return
    low, high = panel.limits or scale or _limits([panel.map])
    shown = axis.imshow(panel.map.numpy(), cmap=_HEAT, vmin=low, vmax=high, interpolation="nearest")
    figure = axis.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=axis, location="bottom", fraction=0.05, pad=0.02, aspect=30)
    bar.ax.tick_params(labelsize=5, length=1.5)
    bar.set_label(panel.unit, fontsize=5)


def _limits(found: Sequence[Tensor]) -> tuple[float, float]:
    """The 1st and the 99th percentile of all values, so that one pixel does not darken all others."""
    if not found:
        return 0.0, 1.0
    values = np.concatenate([each.double().flatten().numpy() for each in found])
    low, high = (float(each) for each in np.percentile(values, (1, 99)))
    return low, high if high > low else low + 1


def _grid(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = _columns(count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 2.6 * rows + 0.2), layout="constrained")
    figure.suptitle(title, fontsize=8)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _columns(count: int) -> int:
    return 1 if count == 1 else 2 if count in (2, 4) else 3


def _by_depth(count: int) -> list[tuple[float, ...]]:
    shades = _shades()
    return [shades(k / max(1, count - 1)) for k in range(count)]


def _shades() -> LinearSegmentedColormap:
    """Dark for the first block, light for the last; viridis ends in a yellow that is too light on paper."""
    part = mpl.colormaps["viridis"](np.linspace(0, 0.9, 64))
    return LinearSegmentedColormap.from_list("depth", list(part))


def _styles(count: int) -> tuple[list[str], list[str]]:
    return (
        [COLOURS[k % len(COLOURS)] for k in range(count)],
        [MARKERS[(k + k // len(COLOURS)) % len(MARKERS)] for k in range(count)],
    )
