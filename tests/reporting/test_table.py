"""A table in memory: its rounding, its marks, its lines as text, and Markdown."""

import pytest

from sr_lab.reporting.formatting import fixed, shortened, signed
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.table import Cell, Column, Row, Table, lines, mark_best, titles

PSNR = Column("PSNR", "Set5", decimals=2, higher_is_better=True)


def row(*numbers: float | None, **more: object) -> Row:
    return Row(str(more.pop("label", numbers)), tuple(Cell(value=number) for number in numbers), **more)


def ranks(*rows: Row, column: Column = PSNR) -> list[int]:
    return [own.cells[0].rank for own in mark_best([column], rows)]


def table(*rows: Row, columns: tuple[Column, ...] = (PSNR,)) -> Table:
    return Table("a table", ("budget: paper",), columns, rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.031, "+0.03"), (-0.031, "-0.03"), (0.004, "0.00"), (-0.004, "0.00"), (None, ""), (12.0, "+12.00")],
)
def test_a_difference_has_a_sign_unless_it_rounds_to_zero(value, text):
    assert signed(value, 2) == text


@pytest.mark.parametrize(
    ("text", "short"), [("short", "short"), ("12345678", "12345678"), ("/data/x/IMDN.pth", "/d…N.pth")]
)
def test_a_long_text_is_cut_in_its_middle(text, short):
    assert shortened(text, 8) == short


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (2.345, 2, "2.35"),  # the float is below 2.345, but papers round the decimal number
        (2.5, 0, "3"),
        (0.00005, 4, "0.0001"),
        (-2.345, 2, "-2.35"),
        (32.2, 2, "32.20"),
        (1e-7, 4, "0.0000"),
        (None, 2, "-"),
        (float("inf"), 2, "inf"),
        (float("nan"), 2, "nan"),
    ],
)
def test_numbers_are_rounded_half_up(value, decimals, text):
    assert fixed(value, decimals) == text


def test_equal_best_values_are_all_marked_and_the_next_distinct_value_is_second():
    assert ranks(row(30.84), row(30.79), row(30.84), row(30.79), row(30.5)) == [1, 2, 1, 2, 0]


def test_numbers_are_compared_as_printed():
    assert ranks(row(30.844), row(30.836), row(30.834)) == [1, 1, 2]


def test_the_lowest_is_best_where_lower_is_better():
    assert ranks(row(3.0), row(1.0), row(2.0), column=Column("time", higher_is_better=False)) == [0, 1, 2]


def test_a_column_without_a_direction_has_no_marks():
    assert ranks(row(3.0), row(1.0), column=Column("params")) == [0, 0]


def test_bicubic_missing_and_failed_rows_are_not_ranked():
    rows = [row(40.0, is_reference=True), row(None), row(41.0, problem="failed: no"), row(30.0), row(29.0)]
    assert ranks(*rows) == [0, 0, 0, 1, 2]


def test_a_single_row_is_not_marked_as_the_best():
    assert ranks(row(40.0, is_reference=True), row(30.0)) == [0, 0]


def test_printed_rows_are_not_ranked_among_measured_rows():
    assert ranks(row(40.0, is_ours=False), row(30.0), row(29.0)) == [0, 1, 2]


def test_nan_is_never_the_best():
    assert ranks(row(float("nan")), row(30.0), row(29.0)) == [0, 1, 2]


def test_a_standard_deviation_follows_its_mean_for_two_or_more_seeds():
    assert Cell(value=32.2, std=0.021, count=2).shown(PSNR) == "32.20 ± 0.02"
    assert Cell(value=32.2, std=0.021, count=2).shown(PSNR, min_count=3) == "32.20"
    assert Cell(value=32.2, std=0.0, count=3).shown(PSNR) == "32.20"


def test_the_papers_figure_and_the_difference_are_below_the_measured_figure():
    ours = Row("111", (Cell(value=32.204, paper=32.25, rank=1),), "x4")
    told = [(line.texts, line.kind) for line in lines(table(ours))]
    assert told == [
        (["111", "x4", "32.20"], "row"),
        (["  paper", "x4", "32.25"], "paper"),
        (["  difference", "x4", "-0.05"], "difference"),
    ]
    assert titles(table(ours)) == ["row", "scale", "Set5 PSNR"]


@pytest.mark.parametrize("problem", ["not implemented", "not run", "failed"])
def test_a_row_without_figures_gives_the_reason_and_the_papers_figures(problem):
    missing = Row(
        "HNCT", (Cell(paper=38.08),), problem=f"{problem}: because" * (problem == "failed") or problem
    )
    (line,) = lines(table(missing))
    assert (line.texts, line.kind) == ([f"HNCT (paper; {problem})", "38.08"], "paper")


def test_the_reason_for_a_failure_is_below_the_table():
    failed = row(None, label="101", problem="failed: too bad", block="x4")
    assert table(failed).notes() == ["101 x4: failed: too bad"]
    assert "101 x4: failed: too bad" in to_markdown(table(failed))


def test_markdown_has_a_rule_with_as_many_columns_as_the_table():
    text = to_markdown(table(Row("a", (Cell(value=32.2, rank=1),)), Row("b", (Cell(value=32.1, rank=2),))))
    shown = [line for line in text.splitlines() if line.startswith("|")]
    assert shown == ["| run | Set5 PSNR |", "|---|---:|", "| a | **32.20** |", "| b | <u>32.10</u> |"]


def test_markdown_escapes_characters_that_would_be_markup():
    text = to_markdown(table(row(1.0, label="x|y <img src=x> [a](b) *z*")))
    assert r"| x\|y \<img src=x\> \[a\](b) \*z\* |" in text
