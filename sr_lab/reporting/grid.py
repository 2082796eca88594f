"""A table in one shape, whatever it is written as: terminal, Markdown, CSV, LaTeX, HTML."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

# Why rows that nobody tried have no figures.
UNMEASURED = ("not run", "not implemented", "rows missing")


def fixed(value: float | None, decimals: int) -> str:
    """A number rounded half up, as papers round; ``-`` where it is missing."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def shortened(text: str, limit: int = 32) -> str:
    """A text that is not longer than the limit: of a path or a list the end tells more than the beginning."""
    start = limit // 4
    return text if len(text) <= limit else f"{text[:start]}…{text[len(text) - limit + start + 1 :]}"


def signed(value: float | None, decimals: int) -> str:
    """A difference with its sign, and nothing where it is missing; what rounds to zero has no sign."""
    if value is None:
        return ""
    text = fixed(value, decimals)
    if not text.strip("-0."):
        return text.lstrip("-")
    return text if text.startswith("-") or text == "nan" else f"+{text}"


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        title: Head, e.g. ``PSNR``.
        group: What spans several columns, e.g. ``Set5``; empty for none.
        unit: In brackets behind the title, e.g. ``K``.
        decimals: How many are printed; papers round half up.
        higher_is_better: Whether the best is the highest; ``None`` where nothing is marked.
        key: What the column is of, e.g. ``Set5/psnr_y``, ``num_params_k`` (as in expected.csv) or a setting.
        is_extra: Measured here and not in the paper's table: left out of the LaTeX table.
        is_setting: What was set, not what came out.
    """

    title: str
    group: str = ""
    unit: str = ""
    decimals: int = 2
    higher_is_better: bool | None = None
    key: str = ""
    is_extra: bool = False
    is_setting: bool = False

    @property
    def head(self) -> str:
        """Title and unit."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


@dataclass(frozen=True)
class Cell:
    """One cell: a number with what belongs to it, or a text.

    Args:
        value: The mean, unrounded; ``None`` where there is none.
        text: Shown instead of a value, e.g. a setting; a value's own text is made by its column.
        std: Standard deviation over seeds (n - 1), ``None`` below two.
        count: Number of seeds.
        paper: What the paper prints here.
        rank: 1 for the best distinct value of its block at printed precision, 2 for the second, else 0.
        note: What a pointer over the cell shows.
        baseline: Value of the baseline row.
    """

    value: float | None = None
    text: str = ""
    std: float | None = None
    count: int = 0
    paper: float | None = None
    rank: int = 0
    note: str = ""
    baseline: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def gain(self) -> float | None:
        """Ours minus the baseline row's."""
        return None if self.value is None or self.baseline is None else self.value - self.baseline

    def shown(self, column: Column, *, min_count: int = 2) -> str:
        """The text of the cell: its own, or the number as its column prints it.

        Args:
            column: Its column.
            min_count: Seeds from which the standard deviation is shown.
        """
        if self.text:
            return self.text
        number = fixed(self.value, column.decimals)
        if not self.std or self.count < min_count:  # a count is the same for each seed
            return number
        return f"{number} ± {fixed(self.std, column.decimals)}"


@dataclass(frozen=True)
class Significance:
    """Whether a row differs from the baseline row, image by image.

    Args:
        set_name: Test set, ``all sets`` for all images together.
        count: Number of images that both have.
        p: Of the two-sided test; ``None`` where there is none.
        p_holm: Corrected for the number of rows that are compared.
        problem: Why there is no test: ``too few images``.
    """

    set_name: str
    count: int
    p: float | None = None
    p_holm: float | None = None
    problem: str = ""

    def __str__(self) -> str:
        if self.p_holm is None:
            return f"{self.set_name}: {self.problem} (n={self.count})"
        return f"{self.set_name}: p={self.p_holm:.2g} (n={self.count})"


@dataclass(frozen=True)
class ImageGain:
    """What one image of a set came out as, and how far that is from the row compared with.

    Args:
        set_name: Test set.
        image: Its name.
        psnr: In dB, a mean over the seeds.
        gain: In dB, ours minus the other row's.
    """

    set_name: str
    image: str
    psnr: float
    gain: float


@dataclass(frozen=True)
class GridRow:
    """One row.

    Args:
        label: As the paper prints it, or the run's name.
        cells: One for each column.
        block: Rows of one block are ranked together and parted by a rule from others, e.g. ``x4``.
        is_ours: Measured here (bold name in LaTeX if it is the paper's own network).
        problem: Why the row has no figures: ``failed: ...``, ``unfinished``, ``not run``,
            ``not implemented``, ``rows missing`` (whose difference it is); else empty.
        mark: Significance against the baseline row, e.g. ``*``; empty for none.
        note: What must be said of the row, e.g. that a seed failed.
        is_own: The network that the paper proposes.
        is_reference: Bicubic: below every method, and not ranked among them.
        tests: Significance against the baseline row, for all sets together and for each.
        against: Label of the baseline row.
        images: Every image against the baseline row's; those of the baseline row against bicubic's.
    """

    label: str
    cells: tuple[Cell, ...]
    block: str = ""
    is_ours: bool = True
    problem: str = ""
    mark: str = ""
    note: str = ""
    is_own: bool = False
    is_reference: bool = False
    tests: tuple[Significance, ...] = ()
    against: str = ""
    images: tuple[ImageGain, ...] = ()

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints anything in this row."""
        return any(cell.paper is not None for cell in self.cells)


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        title: Caption.
        head: Lines that must be read with it: protocol, budget, device, commit, warnings.
        columns: Its columns, the row's label not among them.
        rows: Its rows.
    """

    title: str
    head: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[GridRow, ...] = field(default_factory=tuple)

    def blocks(self) -> Iterator[tuple[str, list[GridRow]]]:
        """Neighbouring rows of one block."""
        for block, rows in groupby(self.rows, key=lambda row: row.block):
            yield block, list(rows)

    @property
    def has_blocks(self) -> bool:
        """Whether rows say which block they are of."""
        return any(row.block for row in self.rows)

    def notes(self) -> list[str]:
        """What stands below the table: why rows have no figures, significance."""
        said = []
        for row in self.rows:
            name = f"{row.label} {row.block}".strip()
            if row.problem not in ("", *UNMEASURED):
                said.append(f"{name}: {row.problem}")
            if row.note:
                said.append(f"{name}: {row.note}")
        if any(row.mark for row in self.rows):
            said.append(
                "*: differs from the baseline row, p < 0.05 "
                "(Wilcoxon on the PSNR of the images, Holm-corrected)"
            )
        return said


def mark_best(columns: Sequence[Column], rows: Sequence[GridRow]) -> list[GridRow]:
    """Rank each number of a block alone, as papers print them: equal bests are all best.

    The next distinct value is second wherever it occurs. Compared is what is printed. Bicubic, and rows that
    were not measured beside rows that were, are left out.

    Args:
        columns: The columns, which say which way is better.
        rows: Rows of one block.
    """
    ours = any(row.is_ours and not row.problem and not row.is_reference for row in rows)
    ranked = [not row.is_reference and not row.problem and row.is_ours == ours for row in rows]
    cells = [list(row.cells) for row in rows]
    for position, column in enumerate(columns):
        if column.higher_is_better is None:
            continue
        sign = 1 if column.higher_is_better else -1
        printed = {}
        for index, row in enumerate(rows):
            value = row.cells[position].value
            if ranked[index] and value is not None and not math.isnan(value):
                printed[index] = sign * float(fixed(value, column.decimals))
        best = sorted(set(printed.values()), reverse=True)[:2]
        for index, value in printed.items():
            if value in best and len(printed) > 1:
                cells[index][position] = replace(cells[index][position], rank=best.index(value) + 1)
    return [replace(row, cells=tuple(own)) for row, own in zip(rows, cells, strict=True)]


@dataclass(frozen=True)
class Line:
    """A line of the terminal's or Markdown's table: a row, the paper's figures for it, the difference.

    Args:
        texts: Label and block, where there are blocks, and one for each column.
        ranks: Rank of each text, 0 for none.
        kind: ``row``, ``paper`` or ``difference``.
        ends_block: A rule follows.
    """

    texts: list[str]
    ranks: list[int]
    kind: str
    ends_block: bool = False


def titles(grid: Grid) -> list[str]:
    """Heads of the columns that `lines` fills."""
    names = [f"{column.group} {column.head}".strip() for column in grid.columns]
    return ["row", *(["scale"] if grid.has_blocks else []), *names]


def lines(grid: Grid) -> list[Line]:
    """The table as text, ours beside the paper's: each row that has both takes three lines."""
    made: list[Line] = []
    for _, rows in grid.blocks():
        for row in rows:
            made += _lines_of(grid, row)
        made[-1] = replace(made[-1], ends_block=True)
    return made


def _lines_of(grid: Grid, row: GridRow) -> list[Line]:
    lead = 2 if grid.has_blocks else 1
    none = [0] * lead

    def line(kind: str, label: str, texts: list[str], ranks: Sequence[int] = ()) -> Line:
        block = [row.block] * (lead - 1)
        return Line([label, *block, *texts], [*none, *(ranks or [0] * len(texts))], kind)

    paper = [
        cell.text or ("-" if cell.paper is None else fixed(cell.paper, column.decimals))
        for column, cell in zip(grid.columns, row.cells, strict=True)
    ]
    status = row.problem.partition(":")[0]
    if row.problem and row.has_paper:
        return [line("paper", f"{row.label} (paper; {status})", paper)]
    label = f"{row.label} ({status})" if row.problem else f"{row.label}{row.mark}"
    texts = [cell.shown(column) for column, cell in zip(grid.columns, row.cells, strict=True)]
    made = [line("row", label, texts, [cell.rank for cell in row.cells])]
    if row.has_paper:
        differences = [
            signed(cell.difference, column.decimals)
            for column, cell in zip(grid.columns, row.cells, strict=True)
        ]
        paper = ["" if cell.text else text for cell, text in zip(row.cells, paper, strict=True)]
        made += [line("paper", "  paper", paper), line("difference", "  difference", differences)]
    return made
