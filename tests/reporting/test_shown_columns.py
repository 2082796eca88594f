"""Which columns a table shows on a terminal, and what it says about the others."""

import io

import pytest
from rich.console import Console

from sr_lab.reporting.columns import _COSTS, _METRICS
from sr_lab.reporting.shown_columns import choose, width_of
from sr_lab.reporting.table import Cell, Column, Row, Table, titles
from sr_lab.reporting.terminal import print_table

SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


def table(*, sets: int = 5, label: str = "deconv") -> Table:
    """Two rows with sizes, quality on several sets, a setting that is in the label, and costs."""
    quality = [
        Column(title, name, decimals=decimals, key=f"{name}/{key}", with_gain=key == "psnr_y")
        for name in SETS[:sets]
        for title, key, decimals in (("PSNR", "psnr_y", 2), ("SSIM", "ssim_y", 4))
    ]
    columns = (
        Column("upsampler", key="upsampler", is_setting=True, is_in_label=True),
        Column("params", unit="K", key="num_params_k", means="parameters"),
        Column("multi-adds", unit="G", key="multi_adds_g"),
        *quality,
        Column("acts", unit="M", key="activations", means="activations"),
        Column("duration", unit="s", key="wall_time_s"),
    )
    rows = [
        Row(name, tuple(Cell(value=30.123, baseline=30.0) for _ in columns), "x4", protocol="p")
        for name in (label, "native")
    ]
    return Table("sweep", ("budget: smoke",), columns, tuple(rows))


def printed(shown: Table, width: int, **more: object) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_table(shown, console, **more)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("sets", [1, 2, 5])
def test_no_line_is_wider_than_the_terminal(width, sets):
    text = printed(table(sets=sets, label="a_label_of_a_run_that_changes_a_great_many_settings"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "┏" in text


def test_the_width_is_that_of_the_printed_table():
    for line in printed(table(), 300).splitlines()[2:8]:
        assert len(line) == width_of(table())


def test_five_sets_keep_their_psnr_at_80_characters_and_the_other_columns_are_named():
    shown = choose(table(), "auto", 80)
    found = titles(shown.table)
    assert [title for title in found if "PSNR" in title] == [f"{name} PSNR" for name in SETS]
    (remark,) = shown.remarks
    kept = {f"{column.group} {column.title}".strip() for column in shown.table.columns}
    for column in table().columns:
        name = f"{column.group} {column.title}".strip()
        assert (name in kept) + (name in remark) == (not column.is_in_label)
    assert "differences from the baseline row" in remark
    assert "columns=all" in remark
    assert remark in printed(table(), 80).replace("\n", " ").replace("  ", " ")


def test_one_set_is_shown_whole_at_80_characters_with_its_difference():
    found = choose(table(sets=1), "auto", 80)
    assert titles(found.table) == [
        *("run", "scale", "params [K]", "multi-adds [G]", "Set5 PSNR", "Set5 SSIM"),
        *("acts [M]",),
    ]
    assert any(column.with_gain for column in found.table.columns)


@pytest.mark.parametrize(("columns", "width"), [("auto", None), ("auto", 300), ("all", 60)])
def test_every_column_is_shown_if_there_is_room_no_terminal_or_a_request(columns, width):
    assert choose(table(), columns, width).table == table()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["params", "duration"], ["params [K]", "duration [s]"]),
        (["set14"], ["Set14 PSNR", "Set14 SSIM"]),
        ("upsampler", ["upsampler"]),
        (["Set5/psnr_y", "B100 SSIM"], ["Set5 PSNR", "B100 SSIM"]),
    ],
)
def test_columns_are_chosen_by_title_set_or_setting(columns, expected):
    assert titles(choose(table(), columns, 20).table)[2:] == expected


def test_an_unknown_column_is_named_with_the_known_ones_and_the_table_is_shown():
    found = choose(table(), ["flops"], 80)
    assert "'flops'" in found.remarks[-1]
    assert "params" in found.remarks[-1]
    assert len(found.table.columns) > 3


def test_labels_are_shortened_only_if_they_stay_distinct():
    one, other = ("a" * 20 + middle + "b" * 30 for middle in "xy")
    both = table(label=one)
    both = Table(both.title, both.head, both.columns, (both.rows[0], Row(other, both.rows[1].cells, "x4")))
    assert [row.label for row in choose(both, "auto", 80).table.rows] == [one, other]
    assert "…" in choose(table(label=one), "auto", 80).table.rows[0].label


def test_the_columns_are_explained_in_one_line_below_the_table():
    lines = printed(table(), 300).splitlines()
    assert lines[lines.index(next(line for line in lines if line.startswith("└"))) + 1] == (
        "params: parameters; acts: activations"
    )


def test_training_and_inference_never_share_a_name():
    run = {title for title, _, key, *_ in _COSTS if key == "wall_time_s"}
    inference = {title for title, _, key, *_ in _COSTS if key in ("gpu_ms", "cpu_s_per_megapixel")}
    assert run.isdisjoint(inference | {title for title, *_ in _METRICS.values()})
