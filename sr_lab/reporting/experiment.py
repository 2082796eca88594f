"""Runs as a table with the paper's figures beside ours, seeds averaged, best and baseline marked."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting import published, significance
from sr_lab.reporting.grid import (
    Cell,
    Column,
    Grid,
    GridRow,
    ImageGain,
    Significance,
    fixed,
    mark_best,
)
from sr_lab.reporting.published import Figure
from sr_lab.reporting.runs import Run, read_run
from sr_lab.reporting.settings import changed, flat, varied
from sr_lab.reporting.table import COSTS, head, print_grid, print_table

FIVE_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
BICUBIC = "bicubic"
_MAX_SETTINGS = 3  # columns of them that stand before the figures
NOT_IMPLEMENTED = "not implemented"
MINUS = " minus "  # parts the rows whose difference a paper prints as a row

Key: TypeAlias = tuple[str, str]  # set and metric, as in expected.csv
_Row: TypeAlias = tuple[GridRow, significance.Images]

# Metric -> title, unit, decimals, which way is better (papers mark quality only).
_METRICS: dict[str, tuple[str, str, int, bool | None]] = {
    "psnr_y": ("PSNR", "", 2, True),
    "ssim_y": ("SSIM", "", 4, True),
    "psnr_y_gain": ("PSNR gain", "dB", 2, None),
    "num_params_k": ("params", "K", 1, None),
    "multi_adds_g": ("multi-adds", "G", 1, None),
    "time_s": ("time", "s", 4, None),
    "cpu_time_s": ("CPU", "s", 3, None),
    "gpu_time_s": ("GPU", "s", 3, None),
    "gpu_time_ms": ("GPU", "ms", 1, None),
    "gpu_time_increase_percent": ("increase", "%", 1, None),
    "gpu_memory_m": ("GPU memory", "MB", 0, None),
}

# Papers take time and memory on a test set; task=complexity takes them at an output of 1280x720.
_AT_HD = {
    "gpu_time_ms": ("gpu_ms", 1.0),
    "gpu_time_s": ("gpu_ms", 1e3),
    "gpu_memory_m": ("gpu_peak_memory_bytes", 2.0**20),
    "cpu_time_s": ("cpu_s_per_megapixel", 1e6 / (1280 * 720)),
}


# A PSNR without a set is of the paper's own split.
_VALIDATION: Key = ("", "psnr_y")
_NOTES = (
    (
        lambda key: key[1] in _AT_HD,
        "our time and memory are of an output of 1280x720 on our device, the paper's are not",
    ),
    (
        lambda key: key == _VALIDATION,
        "PSNR without a set is, of ours, that of the held-out images at the checkpoint that was kept",
    ),
    (
        lambda key: key[1] == "time_s",
        "the paper's time says neither device nor number of images, so ours has no place beside it; "
        "task=complexity measures it at an output of 1280x720",
    ),
)


@dataclass
class Entry:
    """A row before it is a row: the runs that are it, but for the seed, and what the paper prints.

    Args:
        label: As the paper prints it, or the runs' name.
        scale: Enlargement, ``None`` where neither says.
        model: What ``model=`` takes, or the network's class.
        figures: The paper's figures.
        runs: One for each seed.
        is_own: The network that the paper proposes.
    """

    label: str
    scale: int | None = None
    model: str = ""
    figures: dict[Key, Figure] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    is_own: bool = False

    @property
    def block(self) -> str:
        """What the row is ranked in."""
        return f"x{self.scale}" if self.scale else ""

    @property
    def finished(self) -> list[Run]:
        """The newest finished run of each seed."""
        newest: dict[object, Run] = {}
        for run in sorted(self.runs, key=lambda run: str(run.values.get("date", ""))):
            if not run.problem:
                newest[run.path if run.seed is None else run.seed] = run
        return list(newest.values())

    @property
    def problem(self) -> str:
        """Why there are no figures."""
        if self.finished:
            return ""
        problems = sorted((run.problem for run in self.runs), key=lambda text: not text.startswith("failed"))
        if not problems and MINUS in self.label:
            return "rows missing"
        return problems[0] if problems else NOT_IMPLEMENTED if self.model == NOT_IMPLEMENTED else "not run"

    @property
    def note(self) -> str:
        """What went wrong with some of the seeds."""
        problems = [f"seed {run.seed} {run.problem}" for run in self.runs if run.problem]
        if len(self.runs) - len(problems) > len(self.finished):
            problems.append("of runs with one seed the newest is shown")
        return "; ".join(problems) if self.finished else ""

    def cell(self, read: Callable[[Run], float | None]) -> Cell:
        """Mean and standard deviation over the seeds."""
        values = [value for run in self.finished if (value := read(run)) is not None]
        if not values:
            return Cell()
        std = statistics.stdev(values) if len(values) > 1 else None
        return Cell(value=statistics.fmean(values), std=std, count=len(values))

    def measured(self, key: Key) -> Cell:
        """Our figure of what the paper prints under this key."""
        return self.cell(lambda run: measured(run, key))


def measured(run: Run, key: Key) -> float | None:
    """A run's figure under the name that it has in expected.csv; ``None`` where it was not measured."""
    set_name, metric = key
    if set_name == "Average":
        values = [run.number(f"test/{name}/{metric}") for name in FIVE_SETS]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(FIVE_SETS) else None
    if metric == "num_params_k":
        return _scaled(run.number("num_params"), 1e3)
    if metric == "multi_adds_g":  # as the paper of the network counts
        counted = run.number("multi_adds_paper")
        return _scaled(run.number("multi_adds") if counted is None else counted, 1e9)
    own = run.number(f"test/{set_name}/{metric}" if set_name else f"val/{metric}")
    if own is None and key == _VALIDATION:
        return run.validation_psnr
    if own is None and metric in _AT_HD:
        name, unit = _AT_HD[metric]
        return _scaled(run.number(name), unit)
    return own


def keys_of(entry: Entry) -> list[Key]:
    """What the paper prints of a row, and what was measured beyond it."""
    sets = dict.fromkeys(name for run in entry.finished for name in run.sets)
    more = [("", "num_params_k"), ("", "multi_adds_g")]
    more += [(name, metric) for name in sets for metric in ("psnr_y", "ssim_y")]
    return list(dict.fromkeys([*entry.figures, *more]))


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def table_of(runs: Sequence[Run]) -> tuple[str, str] | None:
    """Paper and name of the table that all of the runs belong to; ``None`` if there is no such table."""
    tables = {run.table for run in runs}
    return tables.pop() if len(tables) == 1 else None


def experiment_grid(runs: Sequence[Run], *, baseline: str | None = None) -> Grid:
    """Runs as a table: a paper's, if they all belong to one, else one row for each that differs.

    Args:
        runs: At least one.
        baseline: Label of the row that the others are compared with; the first of each block by default.

    Raises:
        ConfigError: There is no row of that label.
    """
    table = table_of(runs)
    if table is None:
        entries = sweep_entries(runs)
        name = next((str(run.values["experiment"]) for run in runs if run.values.get("experiment")), "runs")
        return _grid(name, runs, entries, _sweep_columns(runs, entries), baseline)
    entries, left_out = paper_entries(*table, runs)
    grid = _grid(" ".join(table), runs, entries, _paper_columns(*table, runs), baseline)
    more = [f"not run: {', '.join(left_out)}"] if left_out else []
    shorter = sorted({budget(run.values) for run in runs if "budget" in run.values} - {"paper"})
    more += [f"warning: not trained at the paper's budget: {', '.join(shorter)}"] if shorter else []
    others = dict.fromkeys(override for run in runs for override in changed(run))
    more += [f"warning: not the paper's recipe: {', '.join(others)}"] if others else []
    keys = [_key(column) for column in grid.columns]
    more += [f"note: {said}" for applies, said in _NOTES if any(map(applies, keys))]
    return replace(grid, head=(*grid.head, *more))


def in_table_order(grid: Grid, runs: Sequence[Run]) -> list[Run]:
    """The runs as their rows stand in the table; those that have none come last."""

    def place(run: Run) -> int:
        own = run.labels or (_without_seed(run.name),)
        same = (
            number
            for number, row in enumerate(grid.rows)
            if row.block in ("", f"x{run.scale}")
            and any(row.label == label or row.label.startswith(f"{label} (") for label in own)
        )
        return next(same, len(grid.rows))

    return sorted(runs, key=place)


def published_grid(paper: str, table: str) -> Grid:
    """A table as it is printed, from expected.csv alone.

    Raises:
        ConfigError: Nothing is known of the table.
    """
    entries = _printed(paper, table)
    if not entries:
        known = ", ".join(sorted({f"{f.paper} {f.table}" for f in published.figures()}))
        raise ConfigError(f"table: nothing is known of '{paper} {table}'; allowed: {known}")
    columns = [column for column, _ in _paper_columns(paper, table, ())]
    rows = [
        GridRow(
            entry.label,
            tuple(_printed_cell(entry.figures.get(_key(column)), column) for column in columns),
            entry.block,
            is_ours=False,
            is_own=entry.is_own,
        )
        for entry in entries
    ]
    blocks = [list(block) for _, block in groupby(rows, key=lambda row: row.block)]
    ranked = tuple(row for block in blocks for row in mark_best(columns, block))
    return Grid(f"{paper} {table}", ("as printed in the paper",), tuple(columns), ranked)


def print_experiment(folders: Sequence[Path], console: Console | None = None) -> None:
    """Print the table of a sweep, ours beside the paper's."""
    runs = [read_run(folder) for folder in folders]
    print_runs(runs, experiment_grid(runs), console)


def print_runs(runs: Sequence[Run], grid: Grid, console: Console | None = None) -> None:
    """Print the table of runs; a single one that is no row of a paper's has the plain one."""
    if len(runs) == 1 and runs[0].table is None:
        print_table(runs, console)
    else:
        print_grid(grid, console)


def _key(column: Column) -> Key:
    set_name, _, metric = column.key.rpartition("/")
    return set_name, metric


def _printed_cell(figure: Figure | None, column: Column) -> Cell:
    """A figure as a cell of its own, digit for digit even where a column's figures differ in decimals."""
    if figure is None:
        return Cell()
    is_usual = fixed(figure.value, column.decimals) == figure.text
    return Cell(value=figure.value, text="" if is_usual else figure.text)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _printed(paper: str, table: str) -> list[Entry]:
    """The rows of a paper's table, by scale."""
    entries: dict[tuple[str, int | None], Entry] = {}
    figures = published.table(paper, table)
    compares = len({figure.model for figure in figures}) > 2  # in an ablation each row is the paper's network
    for figure in figures:
        entry = entries.setdefault((figure.row, figure.scale), Entry(figure.row, figure.scale, figure.model))
        entry.figures[figure.set_name, figure.metric] = figure
        entry.is_own = compares and is_own_row(paper, figure.row, figure.model)
    return sorted(entries.values(), key=lambda entry: entry.scale or 0)


def is_own_row(paper: str, label: str, model: str) -> bool:
    """Whether a row is the network that a paper proposes, as it proposes it."""
    return model.startswith(paper) and _plain(label) == _plain(model)


def paper_entries(paper: str, table: str, runs: Sequence[Run]) -> tuple[list[Entry], list[str]]:
    """The rows of a paper's table with the runs that are them, and the scales that nobody ran.

    Runs that differ in more than the seed, e.g. in their budget, are rows of their own.
    """
    runs = _with_costs(runs)
    scales = sorted({run.scale for run in runs if run.scale})
    printed: list[Entry] = []
    for entry in _printed(paper, table):
        # Where the paper says no scale, its figures stand beside the runs of each.
        printed += [replace(entry, scale=scale) for scale in ([entry.scale] if entry.scale else scales)]
    claimed: dict[int, dict[object, Entry]] = {}
    extra: list[Entry] = []
    for run in runs:
        settings = flat(run)
        for label in run.labels or (_without_seed(run.name),):
            found = _find([*printed, *extra], label, run.scale)
            entry = found or Entry(label, run.scale or None, str(run.values.get("model", "")))
            extra += [] if found else [entry]
            groups = claimed.setdefault(id(entry), {})
            own = groups.setdefault(frozenset(settings.items()), replace(entry, runs=[]))
            own.runs.append(run)
    entries = []
    for entry in sorted([*printed, *extra], key=lambda entry: entry.scale or 0):
        groups = claimed.get(id(entry), {})
        entries += _told_apart(list(groups.values())) if groups else [entry]
    ran = {entry.scale for entry in entries if entry.runs}
    left_out = sorted({entry.block for entry in entries if entry.scale not in ran})
    return [entry for entry in entries if entry.scale in ran], left_out


def _find(entries: Iterable[Entry], label: str, scale: int) -> Entry | None:
    same = (entry for entry in entries if (entry.label, entry.scale or 0) == (label, scale))
    return next(same, None)


def _with_costs(runs: Sequence[Run]) -> list[Run]:
    """Trainings with what ``task=complexity`` measured of the same row; by itself it is a row, too."""
    costs = {
        (label, run.scale): run
        for run in runs
        for label in run.labels
        if run.values.get("task") == "complexity"
    }
    trained = [run for run in runs if run.values.get("task") != "complexity"]
    found = []
    for run in trained:
        cost = next((costs[label, run.scale] for label in run.labels if (label, run.scale) in costs), None)
        more = cost.values if cost is not None and not run.problem else {}
        found.append(replace(run, values={**more, **run.values}))
    has_training = {(label, run.scale) for run in trained for label in run.labels}
    return found + [run for key, run in costs.items() if key not in has_training]


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """The runs of one row that differ in more than the seed, each with what differs behind its label."""
    differing = varied([flat(entry.runs[0]) for entry in entries])
    for entry in entries:
        settings = flat(entry.runs[0])
        told = ", ".join(f"{name}={settings.get(name, '-')}" for name in differing)
        entry.label += f" ({told})" if told else ""
    return entries


def _without_seed(name: str) -> str:
    """A run's name without the seed that the command line set."""
    return "_".join(part for part in name.split("_") if not part.startswith("seed-"))


def sweep_entries(runs: Sequence[Run]) -> list[Entry]:
    """Runs that are equal but for the seed as one row."""
    entries: dict[object, Entry] = {}
    for run in runs:
        name, settings = _without_seed(run.name), flat(run)
        entry = entries.setdefault(
            (frozenset(settings.items()) or name, run.scale, run.values.get("protocol")),
            Entry(name, run.scale or None, str(run.values.get("model", ""))),
        )
        entry.runs.append(run)
    return sorted(entries.values(), key=lambda entry: entry.scale or 0)


Read: TypeAlias = Callable[[Entry], Cell]


def _paper_columns(paper: str, table: str, runs: Sequence[Run]) -> list[tuple[Column, Read]]:
    """The paper's columns, then sets and costs that were measured beyond it."""
    decimals: dict[Key, Counter[int]] = {}
    for figure in published.table(paper, table):
        decimals.setdefault((figure.set_name, figure.metric), Counter())[figure.decimals] += 1
    columns = [_quality_column(key, decimals=counts.most_common(1)[0][0]) for key, counts in decimals.items()]
    sets = dict.fromkeys(name for run in runs for name in run.sets)
    more = [(name, metric) for name in sets for metric in ("psnr_y", "ssim_y")]
    more = [("", "num_params_k"), ("", "multi_adds_g"), *more] if runs else []
    columns += [_quality_column(key, is_extra=bool(decimals)) for key in more if key not in decimals]
    return columns + _cost_columns(runs, skip=("multi_adds_paper",), is_extra=True)


def _sweep_columns(runs: Sequence[Run], entries: Sequence[Entry]) -> list[tuple[Column, Read]]:
    """What varies between the rows, how large and how good they are, what else they cost."""
    settings: list[tuple[Column, Read]] = [
        (Column(name, key=name, is_setting=True), _setting(name))
        for name in varied([flat(e.runs[0]) for e in entries])
    ]
    columns = settings[:_MAX_SETTINGS]
    if any("num_params" in run.values for run in runs):
        columns.append(_quality_column(("", "num_params_k")))
        read = _figure("multi_adds", 1e9)
        columns.append((Column("multi-adds", unit="G", decimals=1, key="multi_adds"), read))
    sets = dict.fromkeys(name for run in runs for name in run.sets)
    columns += [_quality_column((name, metric)) for name in sets for metric in ("psnr_y", "ssim_y")]
    return columns + _cost_columns(runs) + settings[_MAX_SETTINGS:]


def _quality_column(key: Key, *, decimals: int | None = None, is_extra: bool = False) -> tuple[Column, Read]:
    set_name, metric = key
    title, unit, usual, better = _METRICS.get(metric, (metric, "", 2, None))
    decimals = usual if decimals is None else decimals
    name = f"{set_name}/{metric}" if set_name else metric
    column = Column(title, set_name, unit, decimals, better, name, is_extra)
    return column, lambda entry: entry.measured(key)


def _cost_columns(
    runs: Sequence[Run], skip: Sequence[str] = (), *, is_extra: bool = False
) -> list[tuple[Column, Read]]:
    costs = (*COSTS, ("time [s]", "wall_time_s", 1, 0))
    columns: list[tuple[Column, Read]] = []
    for name, key, unit, decimals in costs:
        if key not in skip and any(key in run.values for run in runs):
            title, _, rest = name.partition(" [")
            column = Column(title, "", rest.rstrip("]"), decimals, None, key, is_extra)
            columns.append((column, _figure(key, unit)))
    return columns


def _figure(key: str, unit: float) -> Read:
    return lambda entry: entry.cell(lambda run: _scaled(run.number(key), unit))


def _setting(name: str) -> Read:
    return lambda entry: Cell(text=flat(entry.runs[0]).get(name, "-"))


def _grid(
    title: str,
    runs: Sequence[Run],
    entries: Sequence[Entry],
    specs: Sequence[tuple[Column, Read]],
    baseline: str | None,
) -> Grid:
    columns = [column for column, _ in specs]
    rows: list[_Row] = []
    for block in dict.fromkeys(entry.block for entry in entries):
        rows += _bicubic([run for run in runs if block in ("", f"x{run.scale}")], columns, block)
        members = [entry for entry in entries if entry.block == block]
        rows += [(_row(entry, members, specs), significance.per_image(entry.finished)) for entry in members]
    labels = dict.fromkeys(row.label for row, _ in rows if _is_measured(row))
    if baseline is not None and baseline not in labels:
        raise ConfigError(f"baseline: there is no measured row '{baseline}'; allowed: {', '.join(labels)}")
    lines, made = head(runs), []
    for _, block_rows in groupby(rows, key=lambda row: row[0].block):
        made += mark_best(columns, _compared(list(block_rows), baseline))
    bases = dict.fromkeys(row.against for row in made if row.tests)
    lines += [f"baseline: {' | '.join(bases)}"] if bases else []
    done = sum(not run.problem for run in runs)
    lines += [f"finished: {done} of {len(runs)} runs"] if done < len(runs) else []
    return Grid(title, tuple(lines), tuple(columns), tuple(made))


def _row(entry: Entry, block: Sequence[Entry], specs: Sequence[tuple[Column, Read]]) -> GridRow:
    cells = []
    for column, read in specs:
        cell, figure = read(entry), entry.figures.get(_key(column))
        if figure is not None:
            cell = replace(cell, paper=figure.value)
        if cell.value is None and not cell.text and _key(column)[1] in _METRICS:
            value = _derived(_key(column), entry, block)
            cell = cell if value is None else replace(cell, value=value, count=1)
        cells.append(cell)
    has_figures = any(cell.value is not None for cell in cells)
    return GridRow(
        entry.label,
        tuple(cells),
        entry.block,
        is_ours=bool(entry.runs) or has_figures,
        problem="" if has_figures else entry.problem or "finished without figures",
        note=entry.note,
        is_own=entry.is_own,
    )


def _is_measured(row: GridRow) -> bool:
    return row.is_ours and not row.problem


def _derived(key: Key, entry: Entry, block: Sequence[Entry]) -> float | None:
    """A figure that follows from other rows: what a strategy gained or cost, "A new minus old"."""

    def number(label: str, metric: str) -> float | None:
        found = [other.measured((set_name, metric)).value for other in block if other.label == label]
        return found[0] if found else None

    set_name, metric = key
    if metric == "psnr_y_gain":
        if " + " not in entry.label:
            return None
        pair = entry.label, entry.label.partition(" + ")[0]
        metric = "psnr_y"
    elif metric == "gpu_time_increase_percent":
        time, base = (number(label, "gpu_time_ms") for label in (entry.label, block[0].label))
        return None if time is None or not base else 100 * (time / base - 1)
    elif MINUS in entry.label:  # "CARN cos_lr minus step_lr" is "CARN cos_lr" minus "CARN step_lr"
        minuend, _, rest = entry.label.partition(MINUS)
        pair = minuend, f"{minuend.rpartition(' ')[0]} {rest}".strip()
    else:
        return None
    ours, other = (number(label, metric) for label in pair)
    return None if ours is None or other is None else ours - other


def _bicubic(runs: Sequence[Run], columns: Sequence[Column], block: str) -> list[_Row]:
    """Bicubic's figures on every set that any of the runs measured, for each protocol."""
    rows: list[_Row] = []
    of_protocol: dict[str, list[Run]] = {}
    for run in runs:
        if any(key.startswith("bicubic/") for key in run.values):
            of_protocol.setdefault(str(run.values.get("protocol", "")), []).append(run)
    for protocol, same in of_protocol.items():
        values: dict[str, object] = {
            key.replace("bicubic/", "test/", 1): value
            for run in same
            for key, value in run.values.items()
            if key.startswith("bicubic/")
        }
        entry = Entry(BICUBIC, runs=[Run(Path(BICUBIC), values)])
        cells = tuple(entry.measured(_key(column)) for column in columns)
        label = f"{BICUBIC} ({protocol})" if len(of_protocol) > 1 else BICUBIC
        images = significance.per_image(same, "bicubic_psnr_y")
        rows.append((GridRow(label, cells, block, is_reference=True), images))
    return rows


def _compared(block: Sequence[_Row], baseline: str | None) -> list[GridRow]:
    """Difference and significance of each row of a block against its baseline row."""
    rows = [
        (row, images)
        for row, images in block
        if _is_measured(row) and (row.label == baseline or not row.is_reference)
    ]
    compared: dict[int, tuple[_Row, list[_Row]]] = {}
    for pair in rows:
        if (found := _base_of(pair[0], rows, baseline)) is not None:
            compared.setdefault(id(found[0]), (found, []))[1].append(pair)
    made: dict[int, GridRow] = {}
    for (base, base_images), members in compared.values():
        others = [(row, images) for row, images in members if row is not base]
        tests = significance.compare([images for _, images in others], base_images)
        for (row, images), own in zip(others, tests, strict=True):
            made[id(row)] = replace(_against(row, base, own), images=_gains(images, base_images))
        bicubic = next((images for row, images in block if row.is_reference and row is not base), {})
        made[id(base)] = replace(base, images=_gains(base_images, bicubic))
    return [made.get(id(row), row) for row, _ in block]


def _base_of(row: GridRow, rows: Sequence[_Row], baseline: str | None) -> _Row | None:
    """What a row is compared with: the row asked for, the host of a strategy, or the first.

    "CARN" and "CARN + GGAS" are compared with "CARN", and with none if that was not measured.
    """
    host = row.label.partition(" + ")[0]
    is_hosted = any(other.label.startswith(f"{host} + ") for other, _ in rows)
    wanted = baseline if baseline is not None else host if is_hosted else None
    return next((pair for pair in rows if wanted in (None, pair[0].label)), None)


def _gains(images: significance.Images, others: significance.Images) -> tuple[ImageGain, ...]:
    """The images that both have, in the order of the test."""
    return tuple(
        ImageGain(*image, psnr, psnr - others[image]) for image, psnr in images.items() if image in others
    )


def _against(row: GridRow, base: GridRow, tests: tuple[Significance, ...]) -> GridRow:
    cells = tuple(
        cell if cell.value is None else replace(cell, baseline=other.value)
        for cell, other in zip(row.cells, base.cells, strict=True)
    )
    overall = tests[0].p_holm
    mark = "*" if overall is not None and overall < 0.05 else ""
    return replace(row, cells=cells, tests=tests, mark=mark, against=base.label)


def budget(values: Mapping[str, object]) -> str:
    """Budget of a run; one that a machine chose by itself is the one that it chose."""
    return str(values.get("budget", "")).removesuffix(" (auto)")
