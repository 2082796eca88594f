"""Runs as one table: on the terminal, in Markdown, in CSV."""

import csv
import io
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sr_lab.reporting.runs import Run


def fixed(value: float | None, decimals: int) -> str:
    """A number rounded half up, as papers round; ``-`` where it is missing."""
    if value is None:
        return "-"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def head(runs: Sequence[Run]) -> list[str]:
    """What must be known to read the numbers: protocol, budget, where they were made."""
    lines = []
    for title, key in (("protocol", "protocol_says"), ("budget", "budget"), ("device", "device")):
        said = list(dict.fromkeys(str(run.values[key]) for run in runs if key in run.values))
        lines += [f"{title}: {' | '.join(said)}"] if said else []
    if any("cpu_s_per_megapixel" in run.values for run in runs):
        lines.append("CPU: eager float32 passes to 640x360 pixels, median (quartiles); all else at 1280x720")
    commits = dict.fromkeys(
        f"{str(run.values['commit'])[:8]}{' with local changes' if run.values.get('dirty') else ''}"
        for run in runs
        if run.values.get("commit")
    )
    lines += [f"commit: {' | '.join(commits)}"] if commits else []
    if len({run.values["budget"] for run in runs if "budget" in run.values}) > 1:
        lines.append("warning: budgets differ between rows")
    return lines


# Column, key of metrics.json, unit, decimals; the first two are always there.
_SIZES = (("params [K]", "num_params", 1e3, 1), ("multi-adds [G]", "multi_adds", 1e9, 1))
_COSTS = (
    ("paper [G]", "multi_adds_paper", 1e9, 1),
    ("acts [M]", "activations", 1e6, 1),
    ("memory [MiB]", "peak_memory_bytes", 2**20, 0),
    ("CPU [s/MP]", "cpu_s_per_megapixel", 1, 2),
    ("GPU [ms]", "gpu_ms", 1, 2),
    ("GPU memory [MiB]", "gpu_peak_memory_bytes", 2**20, 0),
)


def _with_quartiles(run: Run, key: str, unit: float, decimals: int) -> str:
    """A figure, with its quartiles where it was measured several times."""
    text = fixed(_scaled(run.number(key), unit), decimals)
    quartiles = [fixed(_scaled(run.number(f"{key}_{q}"), unit), decimals) for q in ("q1", "q3")]
    return text if "-" in quartiles else f"{text} ({' to '.join(quartiles)})"


def rows(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Column titles and text cells; bicubic stands above the first network of each scale."""
    sets = list(dict.fromkeys(name for run in runs for name in run.sets))
    columns = ["run", "scale", "params [K]", "multi-adds [G]"]
    columns += [column for column, key, *_ in _COSTS if any(key in run.values for run in runs)]
    columns += [f"{name} {metric}" for name in sets for metric in ("PSNR", "SSIM")]
    timed = any("wall_time_s" in run.values for run in runs)
    columns += ["time [s]"] if timed else []
    cells, baselines = [], set()
    for run in sorted(runs, key=lambda run: run.scale):
        if run.problem:
            cells.append([run.name, "-", run.problem] + [""] * (len(columns) - 3))
            continue
        kind = (run.scale, run.values.get("protocol"))
        if sets and kind not in baselines:
            baselines.add(kind)
            cells.append(_row("bicubic", _baseline(runs, *kind), "bicubic", sets, columns, cost=False))
        cells.append(_row(run.name, run, "test", sets, columns, cost=True))
    return columns, cells


def _baseline(runs: Sequence[Run], scale: int, protocol: object) -> Run:
    """Bicubic's figures on every set that any run measured at this scale by this protocol."""
    values: dict[str, object] = {"scale": scale}
    for run in runs:
        if run.scale == scale and run.values.get("protocol") == protocol:
            values |= {key: value for key, value in run.values.items() if key.startswith("bicubic/")}
    return Run(Path("bicubic"), values)


def _row(
    name: str, run: Run, prefix: str, sets: Sequence[str], columns: Sequence[str], *, cost: bool
) -> list[str]:
    cells = [name, f"x{run.scale}"]
    for column, key, unit, decimals in (*_SIZES, *_COSTS):
        if column in columns:
            cells.append(_with_quartiles(run, key, unit, decimals) if cost else "-")
    for set_name in sets:
        cells.append(fixed(run.number(f"{prefix}/{set_name}/psnr_y"), 2))
        cells.append(fixed(run.number(f"{prefix}/{set_name}/ssim_y"), 4))
    if "time [s]" in columns:
        cells.append(fixed(run.number("wall_time_s"), 0) if cost else "-")
    return cells


def print_table(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print head and table; numbers are never squeezed, however narrow the terminal."""
    console = console or Console(highlight=False)
    columns, cells = rows(runs)
    table = Table()
    for index, column in enumerate(columns):
        title = column if index == 0 else escape(column).replace(" ", "\n", 1)
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*map(escape, row))
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=1000)).maximum
    )
    for line in head(runs):
        console.print(escape(line), soft_wrap=True)
    console.print(table)


def to_markdown(runs: Sequence[Run]) -> str:
    """Head and table in Markdown."""
    columns, cells = rows(runs)
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in [columns, *cells]]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    rule = "|" + "|".join(["---", *["---:"] * (len(columns) - 1)]) + "|"
    return "\n".join([*(f"{line}  " for line in head(runs)), "", lines[0], rule, *lines[1:]]) + "\n"


def to_csv(runs: Sequence[Run]) -> str:
    """Every figure of every run, unrounded, for other programs; images are left out."""
    keys = list(
        dict.fromkeys(
            k for run in runs for k, v in run.values.items() if isinstance(v, (str, int, float, bool))
        )
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, ["folder", "problem", *keys], restval="", extrasaction="ignore")
    writer.writeheader()
    for run in runs:
        writer.writerow({"folder": run.path.name, "problem": run.problem} | run.values)
    return text.getvalue()
