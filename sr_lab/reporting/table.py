"""Runs as one plain table, and any table on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sr_lab.reporting.csv_text import csv_text
from sr_lab.reporting.grid import Grid, lines, shortened, titles
from sr_lab.reporting.grid import fixed as fixed
from sr_lab.reporting.runs import Run


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def head(runs: Sequence[Run]) -> list[str]:
    """What must be known to read the numbers: protocol, budget, where they were made."""
    lines = []
    for title, key in (
        ("protocol", "protocol_says"),
        ("trained on", "degradation_says"),
        ("budget", "budget"),
        ("device", "device"),
    ):
        said = list(dict.fromkeys(str(run.values[key]) for run in runs if key in run.values))
        lines += [f"{title}: {' | '.join(said)}"] if said else []
    early = [
        f"{run.name} at step {run.values.get('steps')} of {run.values['planned_steps']}"
        for run in runs
        if "planned_steps" in run.values
    ]
    lines += [f"stopped early: {' | '.join(early)}"] if early else []
    skipped = [
        f"{run.name} {run.values['skipped_steps']} of {run.values.get('steps')}"
        for run in runs
        if run.number("skipped_steps")
    ]
    lines += (
        [f"steps skipped, of which loss or gradient was no number: {' | '.join(skipped)}"] if skipped else []
    )
    if any("cpu_s_per_megapixel" in run.values for run in runs):
        lines.append("CPU: eager float32 passes to 640x360 pixels, median (quartiles); all else at 1280x720")
    commits = dict.fromkeys(
        f"{str(run.values['commit'])[:8]}{' with local changes' if run.values.get('dirty') else ''}"
        for run in runs
        if run.values.get("commit")
    )
    lines += [f"commit: {' | '.join(commits)}"] if commits else []
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    lines += [f"seeds: {', '.join(map(str, seeds))}"] if seeds else []
    for title, key in (("budgets", "budget"), ("protocols", "protocol")):
        if len({run.values[key] for run in runs if key in run.values}) > 1:
            lines.append(f"warning: {title} differ between rows")
    return lines


# Column, key of metrics.json, unit, decimals; the first two are always there.
_SIZES = (("params [K]", "num_params", 1e3, 1), ("multi-adds [G]", "multi_adds", 1e9, 1))
COSTS = (
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
    columns += [column for column, key, *_ in COSTS if any(key in run.values for run in runs)]
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
    for column, key, unit, decimals in (*_SIZES, *COSTS):
        if column in columns:
            cells.append(_with_quartiles(run, key, unit, decimals) if cost else "-")
    for set_name in sets:
        cells.append(fixed(run.number(f"{prefix}/{set_name}/psnr_y"), 2))
        cells.append(fixed(run.number(f"{prefix}/{set_name}/ssim_y"), 4))
    if "time [s]" in columns:
        cells.append(fixed(run.number("wall_time_s"), 0) if cost else "-")
    return cells


def print_table(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print head and table of runs as they are, one row each."""
    columns, cells = rows(runs)
    table = _table(columns)
    for row in cells:
        table.add_row(*map(escape, row))
    print_wide(table, head(runs), console)


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print a table, ours beside the paper's; best bold, second underlined."""
    table = _table(titles(grid))
    styles = {0: "", 1: "bold", 2: "underline"}
    for line in lines(grid):
        texts = [line.texts[0], *map(shortened, line.texts[1:])]
        cells = [Text(text, styles[rank]) for text, rank in zip(texts, line.ranks, strict=True)]
        style = "" if line.kind == "row" else "dim"
        table.add_row(*cells, style=style, end_section=line.ends_block)
    console = print_wide(table, [grid.title, *grid.head], console)
    for note in grid.notes():
        console.print(Text(note), soft_wrap=True)


def _table(columns: Sequence[str]) -> Table:
    table = Table()
    for index, column in enumerate(columns):
        title = column if index == 0 else escape(column).replace(" ", "\n", 1)
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def print_wide(table: Table, lines: Sequence[str], console: Console | None) -> Console:
    """Numbers are never squeezed, however narrow the terminal."""
    console = console or Console(highlight=False)
    widest = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, widest)
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print(table)
    return console


def to_csv(runs: Sequence[Run]) -> str:
    """Every figure of every run, unrounded, for other programs; images are left out."""
    keys = list(
        dict.fromkeys(
            k for run in runs for k, v in run.values.items() if isinstance(v, (str, int, float, bool))
        )
    )
    written = [{"folder": run.path.name, "problem": run.problem} | run.values for run in runs]
    return csv_text(["folder", "problem", *keys], written)
