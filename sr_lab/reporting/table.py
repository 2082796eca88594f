"""A table in memory, from which every format is written: terminal, Markdown, CSV, LaTeX, HTML."""

import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from sr_lab.reporting.formatting import fixed, signed
from sr_lab.reporting.runs import MeasuredOn

# Why a row without runs has no figures; "rows missing" is for a row that shows the difference of two rows.
UNMEASURED = ("not run", "not implemented", "rows missing")


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str  # header, e.g. ``PSNR``
    group: str = ""  # header above several columns, e.g. ``Set5``, or empty
    unit: str = ""  # in brackets after the title, e.g. ``K``
    decimals: int = 2  # number of printed decimals
    # Whether the highest number is the best; ``None`` if nothing is marked.
    higher_is_better: bool | None = None
    # What the column shows, e.g. ``Set5/psnr_y``, ``num_params_k`` (as in expected.csv) or a setting.
    key: str = ""
    is_extra: bool = False  # measured here but not in the paper's table; left out of the LaTeX table
    is_setting: bool = False  # a setting, not a result
    with_gain: bool = False  # whether the difference from the baseline row follows the number
    means: str = ""  # what the title means
    is_in_label: bool = False  # a setting that is part of each row's label

    @property
    def head(self) -> str:
        """Title and unit."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


@dataclass(frozen=True)
class Cell:
    """One cell: a number with its spread, rank and reference values, or text."""

    value: float | None = None  # the mean, unrounded; ``None`` if it is missing
    text: str = ""  # shown instead of a number, e.g. a setting
    std: float | None = None  # standard deviation over seeds (n - 1), ``None`` for fewer than two
    count: int = 0  # number of seeds
    paper: float | None = None  # the value that the paper prints
    paper_text: str = ""  # the value exactly as the paper prints it, if its decimals differ from the column's
    note: str = ""  # footnote on how the number was counted
    mark: str = ""  # letter of the footnote
    # 1 for the best distinct number of its block at printed precision, 2 for the second, else 0.
    rank: int = 0
    baseline: float | None = None  # the number in the baseline row

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def gain(self) -> float | None:
        """This row minus the baseline row."""
        return None if self.value is None or self.baseline is None else self.value - self.baseline

    def printed(self, column: Column) -> str:
        """The paper's value with all its printed digits."""
        return self.paper_text or fixed(self.paper, column.decimals)

    def shown(self, column: Column, *, min_count: int = 2) -> str:
        """The text of the cell; the standard deviation is shown for at least ``min_count`` seeds."""
        if self.text:
            return f"{self.text} {self.mark}".rstrip()
        number = fixed(self.value, column.decimals)
        if (
            self.std and self.count >= min_count
        ):  # zero for a parameter count, which is the same for every seed
            number += f" ± {fixed(self.std, column.decimals)}"
        if column.with_gain and self.gain is not None:
            number += f" ({signed(self.gain, column.decimals)})"
        return number


@dataclass(frozen=True)
class Significance:
    """Whether a row differs from the baseline row, compared image by image."""

    set_name: str  # test set, or ``all sets`` for all images together
    count: int  # number of images that both rows have
    p: float | None = None  # p-value of the two-sided test; ``None`` if there were too few images
    p_holm: float | None = None  # p-value corrected for the number of compared rows

    def __str__(self) -> str:
        if self.p_holm is None:
            return f"{self.set_name}: too few images (n={self.count})"
        return f"{self.set_name}: p={self.p_holm:.2g} (n={self.count})"


@dataclass(frozen=True)
class ImageGain:
    """PSNR of one image, and its difference from the PSNR in the baseline row."""

    set_name: str
    image: str
    psnr: float  # in dB, mean over the seeds
    gain: float  # in dB, this row minus the baseline row


@dataclass(frozen=True)
class Row:
    """One row."""

    label: str  # as the paper prints it, or what differs from the other rows
    cells: tuple[Cell, ...]  # one for each column
    block: str = ""  # e.g. ``x4``; the rows of one block are ranked together, and rules separate blocks
    is_ours: bool = True  # measured here
    # Why the row has no figures: ``failed: ...``, ``unfinished``, one of `UNMEASURED`; else empty.
    problem: str = ""
    mark: str = ""  # ``*`` if the row differs significantly from the baseline row, else empty
    note: str = ""  # a remark on the row, e.g. that one seed failed
    is_own: bool = False  # the network that the paper proposes
    folders: tuple[Path, ...] = ()  # of its runs
    is_reference: bool = False  # the bicubic row, which is above the other rows and not ranked
    protocol: str = ""  # name of the protocol of its figures
    measured_on: tuple[tuple[str, MeasuredOn], ...] = ()  # each test set and its images
    # Significance against the baseline row, for all sets together and for each set.
    tests: tuple[Significance, ...] = ()
    against: str = ""  # label of the baseline row
    # Each image compared with the baseline row; for the baseline row itself, compared with bicubic.
    images: tuple[ImageGain, ...] = ()

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints anything in this row."""
        return any(cell.paper is not None for cell in self.cells)

    def is_comparable(self, other: "Row") -> bool:
        """Whether two rows were measured with one protocol, on the same images and the same LR images."""
        own, others = dict(self.measured_on), dict(other.measured_on)
        same = all(own[name].is_same(others[name]) for name in own.keys() & others.keys())
        return same and (self.protocol == other.protocol or "" in (self.protocol, other.protocol))

    @property
    def is_measured(self) -> bool:
        """Whether the row has our own figures."""
        return self.is_ours and not self.problem


@dataclass(frozen=True)
class Table:
    """A table: the lines above it, its columns and its rows."""

    title: str
    head: tuple[str, ...]  # lines above the table: protocol, budget, device, commit, warnings
    columns: tuple[Column, ...]  # the columns, without the row's label
    rows: tuple[Row, ...] = ()
    remarks: tuple[str, ...] = ()  # further lines below the table

    def blocks(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield each block with its rows."""
        for block, rows in groupby(self.rows, key=lambda row: row.block):
            yield block, list(rows)

    @property
    def has_blocks(self) -> bool:
        """Whether rows name the block that they belong to."""
        return any(row.block for row in self.rows)

    def notes(self) -> list[str]:
        """Lines below the table: why rows have no figures, footnotes, and what the star means."""
        lines = []
        for row in self.rows:
            name = f"{row.label} {row.block}".strip()
            if row.problem not in ("", *UNMEASURED):
                lines.append(f"{name}: {row.problem}")
            if row.note:
                lines.append(f"{name}: {row.note}")
        shown = [pair for row in self.rows for pair in zip(self.columns, row.cells, strict=True)]
        if any(column.with_gain and cell.gain is not None for column, cell in shown):
            lines.append("in brackets: difference from the baseline row in dB")
        footnotes = {cell.mark: cell.note for _, cell in shown if cell.mark}
        lines += [f"{mark}: {note}" for mark, note in footnotes.items()]
        if any(row.mark for row in self.rows):
            lines.append(
                "*: differs from the baseline row, p < 0.05 "
                "(Wilcoxon test on the PSNR of the images, Holm-corrected)"
            )
        return [*lines, *self.remarks]


def with_footnotes(rows: Sequence[Row]) -> list[Row]:
    """The rows, with letters for their footnotes in order of first use."""
    notes = list(dict.fromkeys(cell.note for row in rows for cell in row.cells if cell.note))
    letters = {note: string.ascii_lowercase[number] for number, note in enumerate(notes)}
    return [
        replace(row, cells=tuple(replace(cell, mark=letters.get(cell.note, "")) for cell in row.cells))
        for row in rows
    ]


def mark_best(columns: Sequence[Column], rows: Sequence[Row]) -> list[Row]:
    """Rank the numbers of each column of a block as papers do: every cell with the best number is best.

    Every cell with the next distinct number is second. Numbers are compared as printed, and only
    between rows of one protocol and the same images. Bicubic is not ranked, nor are the paper's rows if any
    row was measured here.
    """
    ours = any(row.is_measured and not row.is_reference for row in rows)
    ranked = [not row.is_reference and not row.problem and row.is_ours == ours for row in rows]
    cells = [list(row.cells) for row in rows]
    for position, column in enumerate(columns):
        if column.higher_is_better is None:
            continue
        printed = {}
        for index, row in enumerate(rows):
            value = row.cells[position].value
            if ranked[index] and value is not None and not math.isnan(value):
                printed[index] = float(fixed(value, column.decimals))
        for index, value in printed.items():
            others = {number for other, number in printed.items() if rows[index].is_comparable(rows[other])}
            count = sum(rows[index].is_comparable(rows[other]) for other in printed)
            best = sorted(others, reverse=column.higher_is_better)[:2]
            if value in best and count > 1:
                cells[index][position] = replace(cells[index][position], rank=best.index(value) + 1)
    return [replace(row, cells=tuple(own)) for row, own in zip(rows, cells, strict=True)]


@dataclass(frozen=True)
class Line:
    """One line of the terminal's or Markdown's table."""

    texts: list[str]  # label, block (if there are blocks), and one text for each column
    ranks: list[int]  # rank of each text, 0 for none
    kind: str  # ``row``, ``paper`` (the paper's values) or ``difference``
    ends_block: bool = False  # whether a rule follows


def titles(table: Table) -> list[str]:
    """Headers of the columns that `lines` fills."""
    names = [f"{column.group} {column.head}".strip() for column in table.columns]
    first = "row" if any(row.has_paper for row in table.rows) else "run"
    return [first, *(["scale"] if table.has_blocks else []), *names]


def meanings(table: Table) -> list[str]:
    """One line that says what the columns show."""
    said = {column.title: column.means for column in table.columns if column.means}
    titles_of: dict[str, list[str]] = {}
    for title, means in said.items():
        titles_of.setdefault(means, []).append(title)
    return ["; ".join(f"{', '.join(own)}: {means}" for means, own in titles_of.items())] if said else []


def lines(table: Table) -> list[Line]:
    """The table as text; a row with our values and the paper's takes three lines."""
    made: list[Line] = []
    for _, rows in table.blocks():
        for row in rows:
            made += _lines_of(table, row)
        made[-1] = replace(made[-1], ends_block=True)
    return made


def _lines_of(table: Table, row: Row) -> list[Line]:
    def line(kind: str, label: str, texts: list[str], ranks: Sequence[int] = ()) -> Line:
        block = [row.block] if table.has_blocks else []
        return Line([label, *block, *texts], [0, *[0] * len(block), *(ranks or [0] * len(texts))], kind)

    pairs = list(zip(table.columns, row.cells, strict=True))
    paper = [cell.shown(column) if cell.text else cell.printed(column) for column, cell in pairs]
    status = row.problem.partition(":")[0]
    if row.problem and row.has_paper:
        return [line("paper", f"{row.label} (paper; {status})", paper)]
    label = f"{row.label} ({status})" if row.problem else f"{row.label}{row.mark}"
    texts = [cell.shown(column) for column, cell in pairs]
    made = [line("row", label, texts, [cell.rank for cell in row.cells])]
    if row.has_paper:
        differences = [signed(cell.difference, column.decimals) for column, cell in pairs]
        paper = ["" if cell.text else text for cell, text in zip(row.cells, paper, strict=True)]
        made += [line("paper", "  paper", paper), line("difference", "  difference", differences)]
    return made
