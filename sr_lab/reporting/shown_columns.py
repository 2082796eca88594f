"""Which columns of a table a terminal shows: as many as fit, the most important first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from rich.cells import cell_len

from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.table import Column, Line, Table, lines, titles

Columns: TypeAlias = str | list[str]  # ``auto``, ``all``, or titles or test sets

# Metrics of the most important columns, in order; the paper's own columns follow, then settings and costs.
_FIRST = ("psnr_y", "num_params_k", "multi_adds_g", "ssim_y")


@dataclass(frozen=True)
class Shown:
    """A part of a table."""

    table: Table
    remarks: tuple[str, ...] = ()  # what is left out, and how to see it


def choose(table: Table, columns: Columns, width: int | None) -> Shown:
    """The columns of a table to print.

    Args:
        table: The whole table.
        columns: ``auto``, ``all``, or titles or test sets.
        width: Characters of the terminal; ``None``, as for a pipe, shows every column.
    """
    everything = range(len(table.columns))
    if columns == "all" or (columns == "auto" and width is None):
        return Shown(table)
    if columns != "auto":
        columns = [columns] if isinstance(columns, str) else columns
        wanted = {_letters(name) for name in columns}
        found = [n for n in everything if wanted & _names(table.columns[n])]
        unknown = [name for name in columns if not any(_letters(name) in _names(c) for c in table.columns)]
        if not unknown:
            return Shown(_part(table, found))
        known = dict.fromkeys(column.title for column in table.columns)
        remark = (
            f"columns: there is no column {', '.join(map(repr, unknown))} here; allowed: {', '.join(known)}"
        )
        rest = choose(table, "auto", width)
        return Shown(rest.table, (*rest.remarks, remark))
    assert width is not None
    needed = width_of(table)
    if needed <= width:
        return Shown(table)
    candidates = [n for n in everything if not table.columns[n].is_in_label]
    order = sorted(candidates, key=lambda n: _importance(table.columns[n]))
    whole = _with_short_labels(table, max(20, width * 2 // 5))
    plain = replace(whole, columns=tuple(replace(column, with_gain=False) for column in whole.columns))
    ways = {id(made): _fitting(made, order, width) for made in (whole, plain)}
    made = max((whole, plain), key=lambda made: sum(_is_quality(table.columns[n]) for n in ways[id(made)]))
    places = ways[id(made)]
    columns_left = [table.columns[n] for n in candidates if n not in places]
    left_out = [f"{column.group} {column.title}".strip() for column in columns_left]
    if made is plain and any(column.with_gain for column in table.columns):
        left_out.append("differences from the baseline row")
    if not left_out:
        return Shown(_part(made, places))
    remark = f"left out to fit {width} characters: {', '.join(left_out)}"
    return Shown(_part(made, places), (f"{remark}; columns=all shows every column, in {needed} characters",))


def cells(line: Line) -> list[str]:
    """The texts of a line as they are printed; long settings are shortened."""
    return [line.texts[0], *map(shortened, line.texts[1:])]


def heads(table: Table) -> list[str]:
    """The titles as they are printed, over several lines."""
    first, *others = titles(table)
    return [first, *(title.replace(" ", "\n", 1) for title in others)]


def width_of(table: Table) -> int:
    """Width of the printed table with its frame, in characters."""
    columns = [head.split("\n") for head in heads(table)]
    for line in lines(table):
        for column, text in zip(columns, cells(line), strict=True):
            column.append(text)
    return 1 + sum(3 + max(map(cell_len, column)) for column in columns)


def _fitting(table: Table, order: Sequence[int], width: int) -> list[int]:
    """The first columns of ``order``, as many as fit but at least one, sorted as in the table."""
    kept: list[int] = []
    for number in order:
        more = sorted([*kept, number])
        if kept and width_of(_part(table, more)) > width:
            break
        kept = more
    return kept


def _part(table: Table, places: Sequence[int]) -> Table:
    """A table with some of its columns."""
    return replace(
        table,
        columns=tuple(table.columns[n] for n in places),
        rows=tuple(replace(row, cells=tuple(row.cells[n] for n in places)) for row in table.rows),
    )


def _with_short_labels(table: Table, limit: int) -> Table:
    """A table with shortened labels, if they stay distinct."""
    short = [shortened(row.label, limit) for row in table.rows]
    if len(set(short)) < len({row.label for row in table.rows}):
        return table
    return replace(
        table, rows=tuple(replace(row, label=own) for row, own in zip(table.rows, short, strict=True))
    )


def _is_quality(column: Column) -> bool:
    return column.key.endswith(("psnr_y", "ssim_y"))


def _importance(column: Column) -> tuple[bool, int]:
    metric = column.key.rpartition("/")[2]
    first = _FIRST.index(metric) if metric in _FIRST else len(_FIRST)
    is_papers = not (column.is_extra or column.is_setting)
    return not is_papers, first


def _names(column: Column) -> set[str]:
    """The names by which ``columns=`` can choose a column, reduced to letters and digits."""
    said = (column.title, column.head, column.group, column.key, f"{column.group} {column.title}")
    return {_letters(name) for name in said if name}


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
