"""Our results for the papers' tables: ``experiments/<paper>/results.csv``."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.reporting.columns import measured_keys
from sr_lab.reporting.published import papers
from sr_lab.reporting.rows import FIVE_SETS, MULTI_ADDS, Entry, budget, paper_entries
from sr_lab.reporting.runs import PRINTED_PROTOCOL, Run
from sr_lab.reporting.safe_csv import csv_text, original
from sr_lab.reporting.settings import changed

COLUMNS = (
    *("table", "row", "model", "scale", "set", "metric", "value", "std", "n", "paper"),
    *("run", "commit", "hardware", "date", "budget"),
)
_KEY = ("table", "row", "scale", "set", "metric", "budget")


def write_results(
    runs: Sequence[Run], root: Path, note: Callable[[str], object] = lambda _: None
) -> list[Path]:
    """Add our results for papers' tables to ``<root>/<paper>/results.csv``.

    A result replaces an earlier one of the same cell and budget; all other lines stay. Runs that were
    measured with a protocol or on images other than the papers' are left out.

    Args:
        runs: Any runs.
        root: The folder of the papers.
        note: Called with a sentence about each finished run that is left out.

    Returns:
        The written files.

    Raises:
        ConfigError: No finished run belongs to a paper's table and was measured as in the papers.
    """
    refused = {run.path: why for run in runs if run.table is not None and (why := _not_as_in_papers(run))}
    for path, why in refused.items():
        note(f"write_results: '{path}' is left out: it {why}")
    runs = [run for run in runs if run.path not in refused]
    found: dict[str, list[dict[str, str]]] = {}
    tables = {run.table for run in runs if run.table is not None}
    # A name that is not a paper's could be any path.
    for paper, table in sorted(known for known in tables if known[0] in papers()):
        own = [run for run in runs if run.table == (paper, table)]
        costs = [run for run in own if run.is_cost]
        trained = [run for run in own if not run.is_cost]
        # Each budget separately, so that no budget becomes part of a row's label.
        for each in sorted({recipe_of(run) for run in trained}) or [""]:
            entries, _ = paper_entries(paper, table, [*(r for r in trained if recipe_of(r) == each), *costs])
            lines = [line for entry in entries if entry.finished for line in _lines(table, entry)]
            found.setdefault(paper, []).extend(lines)
    if not any(found.values()):
        raise ConfigError(
            "write_results: no run here is a finished row of a paper's table that was measured as in the "
            "papers; run a paper's experiment"
        )
    written = []
    for paper, lines in found.items():
        path = root / paper / "results.csv"
        merged = {tuple(line[name] for name in _KEY): line for line in [*read_results(path), *lines]}
        files.write(path, csv_text(COLUMNS, [merged[key] for key in sorted(merged)]))
        written.append(path)
    return written


def _not_as_in_papers(run: Run) -> str:
    """Why the results of a finished training run must not be listed with a paper's; empty if they can be."""
    if run.problem or run.is_cost:
        return ""
    protocol = str(run.values.get("protocol", "an unknown protocol"))
    if protocol != PRINTED_PROTOCOL:
        return f"was measured with {protocol}; the protocol of the papers' tables is {PRINTED_PROTOCOL}"
    for name, own in run.measured_on.items():
        if own.says.startswith("not the published"):
            return f"was measured on images other than the papers' ({own.says})"
        if name in FIVE_SETS and "as published" not in own.says:
            return f"has no record of whether its images of {name} are the published ones; train again"
    return ""


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a ``results.csv``, or an empty list if the file does not exist.

    Raises:
        ConfigError: The file cannot be read, or has different columns.
    """
    if not path.is_file():
        return []
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; move the file away") from error
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ConfigError(f"{path}: does not have the columns {', '.join(COLUMNS)}; move the file away")
    return [dict(zip(COLUMNS, map(original, row), strict=True)) for row in rows[1:]]


def recipe_of(run: Run) -> str:
    """A run's budget and its changes to the recipe, which distinguish it from the paper's run."""
    return " ".join([budget(run.values), *changed(run)])


def _lines(table: str, entry: Entry) -> list[dict[str, str]]:
    """The lines of a row; where seeds differ in commit or hardware, both are given, separated by ``|``."""
    runs = entry.finished
    about = {
        "run": _joined(run.folder for run in runs),
        "commit": _joined(
            f"{run.values.get('commit') or ''}{'+' if run.values.get('dirty') else ''}" for run in runs
        ),
        "hardware": _joined(run.values.get("device", "") for run in runs),
        "date": max(str(run.values.get("date", "")) for run in runs),
        "budget": _joined(map(recipe_of, runs)),
    }
    lines = []
    for key in dict.fromkeys([*entry.figures, *measured_keys(runs)]):
        cell = entry.measured(key)
        figure = None if key == MULTI_ADDS else entry.figures.get(key)  # the paper counts differently
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
