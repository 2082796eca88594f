"""Write rows, tables and runs as CSV without formulas that a spreadsheet would run."""

import csv
import io
from collections.abc import Mapping, Sequence

from sr_lab.files import printable
from sr_lab.reporting.runs import Run
from sr_lab.reporting.significance import ALL_SETS
from sr_lab.reporting.table import Column, Row, Table

# Some spreadsheets also accept full-width signs, and a formula after a line break.
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def harmless(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run as a formula; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if value.startswith(_STARTS_A_FORMULA) else value)


def original(text: str) -> str:
    """Undo `harmless`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_STARTS_A_FORMULA) else text


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV; missing values and ``None`` are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writerow({column: harmless(column) for column in columns})
    for row in rows:
        writer.writerow({key: harmless(value) for key, value in row.items()})
    return text.getvalue()


def table_to_csv(table: Table) -> str:
    """One line for each cell of a table, with unrounded numbers."""
    columns = (
        *("row", "block", "of", "problem", "set", "column", "unit", "value", "std", "n"),
        *("paper", "difference", "baseline", "baseline_difference", "p_holm", "rank", "note"),
    )
    lines: list[dict[str, object]] = [
        {
            "row": row.label,
            "block": row.block,
            "of": "bicubic" if row.is_reference else "ours" if row.is_ours else "paper",
            "problem": row.problem,
            "set": column.group,
            "column": column.title,
            "unit": column.unit,
            "value": (None if cell.note else cell.text) if cell.value is None else cell.value,
            "std": cell.std,
            "n": cell.count or None,
            "paper": cell.text if cell.note else cell.paper_text or cell.paper,
            "difference": cell.difference,
            "baseline": row.against,
            "baseline_difference": cell.gain,
            "p_holm": _p_value(row, column),
            "rank": cell.rank or None,
            "note": cell.note,
        }
        for row in table.rows
        for cell, column in zip(row.cells, table.columns, strict=True)
    ]
    return csv_text(columns, lines)


def _p_value(row: Row, column: Column) -> float | None:
    """The corrected p-value of a PSNR column; if there is only one set, that of the test on all sets."""
    if not column.key.endswith("/psnr_y"):
        return None
    found = {test.set_name: test.p_holm for test in row.tests}
    return found.get(column.group, found.get(ALL_SETS) if len(found) == 1 else None)


def runs_to_csv(runs: Sequence[Run]) -> str:
    """Every figure of every run, unrounded; per-image figures are left out."""
    scalars = (key for run in runs for key, v in run.values.items() if isinstance(v, (str, int, float, bool)))
    rows = [{"folder": run.folder, "problem": run.problem} | run.values for run in runs]
    return csv_text(["folder", "problem", *dict.fromkeys(scalars)], rows)
