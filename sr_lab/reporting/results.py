"""Tables as CSV, every number unrounded; what was measured of a paper (``results.csv``)."""

import contextlib
import csv
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.reporting.csv_text import csv_text, original
from sr_lab.reporting.experiment import Entry, budget, keys_of, paper_entries
from sr_lab.reporting.grid import Column, Grid, GridRow
from sr_lab.reporting.published import experiments_dir
from sr_lab.reporting.runs import Run
from sr_lab.reporting.settings import changed
from sr_lab.reporting.significance import ALL_SETS

COLUMNS = (
    *("table", "row", "model", "scale", "set", "metric", "value", "std", "n", "paper"),
    *("run", "commit", "hardware", "date", "budget"),
)
_KEY = ("table", "row", "scale", "set", "metric", "budget")


def to_csv(grid: Grid) -> str:
    """One line for each cell, with all that belongs to it."""
    columns = (
        *("row", "block", "of", "problem", "set", "column", "unit", "value", "std", "n"),
        *("paper", "difference", "baseline", "baseline_difference", "p_holm", "rank"),
    )
    lines: list[dict[str, object]] = []
    for row in grid.rows:
        kind = "bicubic" if row.is_reference else "ours" if row.is_ours else "paper"
        for cell, column in zip(row.cells, grid.columns, strict=True):
            told = {"row": row.label, "block": row.block, "of": kind, "problem": row.problem}
            told |= {"set": column.group, "column": column.title, "unit": column.unit}
            lines.append(
                told
                | {
                    "value": cell.text if cell.value is None else cell.value,
                    "std": cell.std,
                    "n": cell.count or None,
                    "paper": cell.paper,
                    "difference": cell.difference,
                    "baseline": row.against,
                    "baseline_difference": cell.gain,
                    "p_holm": _p_value(row, column),
                    "rank": cell.rank or None,
                }
            )
    return csv_text(columns, lines)


def _p_value(row: GridRow, column: Column) -> float | None:
    """The test of a PSNR column; the only set is all sets."""
    if not column.key.endswith("/psnr_y"):
        return None
    found = {test.set_name: test.p_holm for test in row.tests}
    return found.get(column.group, found.get(ALL_SETS) if len(found) == 1 else None)


def write_results(runs: Sequence[Run], root: Path | None = None) -> list[Path]:
    """Put what was measured of papers' tables into ``<root>/<paper>/results.csv``.

    What is there stays, unless it is the same figure at the same budget.

    Args:
        runs: Any runs; those of no table are left out.
        root: Folder of the papers; the repository's by default.

    Returns:
        The files written.

    Raises:
        ConfigError: No run belongs to a paper's table and is finished.
    """
    root = experiments_dir() if root is None else root
    found: dict[str, list[dict[str, str]]] = {}
    for paper, table in sorted({run.table for run in runs if run.table is not None}):
        own = [run for run in runs if run.table == (paper, table)]
        costs = [run for run in own if run.values.get("task") == "complexity"]
        trained = [run for run in own if run not in costs]
        # Each budget by itself: a row is called the same whichever others are beside it.
        for told in sorted({_budget(run) for run in trained}) or [""]:
            entries, _ = paper_entries(paper, table, [*(r for r in trained if _budget(r) == told), *costs])
            lines = [line for entry in entries if entry.finished for line in _lines(table, entry)]
            found.setdefault(paper, []).extend(lines)
    if not any(found.values()):
        raise ConfigError(
            "write_results: no run here is a finished row of a paper's table; run an experiment that has one"
        )
    written = []
    for paper, lines in found.items():
        path = root / paper / "results.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            merged = {_key(line): line for line in [*read_results(path), *lines]}
            files.write(path, csv_text(COLUMNS, [merged[key] for key in sorted(merged)]))
        written.append(path)
    return written


def read_results(path: Path) -> list[dict[str, str]]:
    """The lines of a ``results.csv``; none if there is no such file.

    Raises:
        ConfigError: It has other columns.
    """
    if not path.is_file():
        return []
    try:
        rows = list(csv.reader(path.read_text().splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; move it away") from error
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ConfigError(f"{path}: has other columns than {', '.join(COLUMNS)}; move it away")
    return [dict(zip(COLUMNS, map(original, row), strict=True)) for row in rows[1:]]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: the later one reads what the earlier has written."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _key(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in _KEY)


def _budget(run: Run) -> str:
    """A run's budget, and what was changed in the recipe: it must not be taken for the paper's."""
    return " ".join([budget(run.values), *changed(run)])


def _lines(table: str, entry: Entry) -> list[dict[str, str]]:
    """The figures of a row; what several seeds say differently is parted by ``|``."""
    runs = entry.finished
    about = {
        "run": _joined(run.path.name for run in runs),
        "commit": _joined(
            f"{run.values.get('commit') or ''}{'+' if run.values.get('dirty') else ''}" for run in runs
        ),
        "hardware": _joined(run.values.get("device", "") for run in runs),
        "date": max(str(run.values.get("date", "")) for run in runs),
        "budget": _joined(map(_budget, runs)),
    }
    lines = []
    for key in keys_of(entry):
        cell, figure = entry.measured(key), entry.figures.get(key)
        if cell.value is not None:
            lines.append(
                {"table": table, "row": entry.label, "model": entry.model}
                | {"scale": str(entry.scale or runs[0].scale or ""), "set": key[0], "metric": key[1]}
                | {"value": repr(cell.value), "std": "" if cell.std is None else repr(cell.std)}
                | {"n": str(cell.count), "paper": "" if figure is None else figure.text}
                | about
            )
    return lines


def _joined(values: Iterable[object]) -> str:
    return "|".join(dict.fromkeys(str(value) for value in values))
