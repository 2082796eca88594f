"""Runs beside the paper's figures; the paper's table from its figures alone."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting import published
from sr_lab.reporting.experiment import (
    experiment_grid,
    in_table_order,
    print_experiment,
    published_grid,
)
from sr_lab.reporting.grid import Cell, Grid, GridRow
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.published import Figure
from sr_lab.reporting.runs import Run
from tests.report_runs import FIVE, finished, folder, values

TABLES = sorted({(figure.paper, figure.table) for figure in published.figures()})


def row(grid: Grid, label: str, block: str = "x4") -> GridRow:
    (found,) = [own for own in grid.rows if (own.label, own.block) == (label, block)]
    return found


def cell(grid: Grid, label: str, key: str, block: str = "x4") -> Cell:
    keys = [column.key for column in grid.columns]
    return row(grid, label, block).cells[keys.index(key)]


def labels(grid: Grid) -> list[str]:
    return [own.label for own in grid.rows]


@pytest.mark.parametrize(("paper", "table"), TABLES, ids=" ".join)
def test_every_printed_table_comes_back_digit_for_digit(paper, table):
    grid = published_grid(paper, table)
    told = {
        (own.label, own.block, column.key, shown)
        for own in grid.rows
        for own_cell, column in zip(own.cells, grid.columns, strict=True)
        if (shown := own_cell.shown(column)) != "-"
    }
    path = published.experiments_dir() / paper / "expected.csv"
    with path.open(newline="") as file:
        printed = {
            (
                line["row"],
                f"x{line['scale']}" if line["scale"] else "",
                f"{line['set']}/{line['metric']}".lstrip("/"),
                line["value"],
            )
            for line in csv.DictReader(file)
            if line["table"] == table
        }
    assert told == printed


# Best and second of OSFFNet's Table 1, worked out by hand at x4: PSNR and SSIM of each set.
MARKS_X4 = {
    "Set5/psnr_y": (["OSFFNet"], ["BSRN"]),
    "Manga109/psnr_y": (["BSRN", "OSFFNet"], ["RepRFN"]),
}


@pytest.mark.parametrize(("key", "marks"), MARKS_X4.items())
def test_table_1_of_osffnet_is_marked_by_the_rule(key, marks):
    grid = published_grid("osffnet", "table1")
    found = {
        rank: [
            own.label for own in grid.rows if own.block == "x4" and cell(grid, own.label, key).rank == rank
        ]
        for rank in (1, 2)
    }
    assert (found[1], found[2]) == marks


def test_two_equal_bests_of_manga109_are_both_bold_and_the_next_is_underlined():
    grid = published_grid("osffnet", "table1")
    marked = [cell(grid, own.label, "Manga109/psnr_y") for own in grid.rows if own.block == "x4"]
    assert sorted((own.rank, own.value) for own in marked if own.rank) == [(1, 30.84), (1, 30.84), (2, 30.79)]


def test_each_number_is_marked_alone():
    """The paper marks whole cells: in its x2 Set5 column ECBSR's low PSNR is bold beside its best SSIM."""
    grid = published_grid("efrdn", "table1")
    assert cell(grid, "ECBSR", "Set5/ssim_y", "x2").rank == 1
    assert cell(grid, "ECBSR", "Set5/psnr_y", "x2").rank == 0


def test_a_table_that_nobody_printed_is_refused():
    with pytest.raises(ConfigError, match=r"nothing is known of 'osffnet table9'; allowed: .*osffnet table1"):
        published_grid("osffnet", "table9")


def test_ours_stands_beside_the_papers_figure():
    own = cell(experiment_grid([finished("111", 32.2)]), "111", "Set5/psnr_y")
    assert (own.value, own.paper) == (32.2, 32.25)
    assert own.difference == pytest.approx(-0.05)


def test_cost_is_counted_as_the_paper_counts():
    grid = experiment_grid([finished("111", 32.2)])
    assert cell(grid, "111", "num_params_k").value == 536.5
    assert cell(grid, "111", "multi_adds_g").value == 22.04


def test_rows_stand_in_the_papers_order_below_bicubic():
    grid = experiment_grid([finished("111", 32.2), finished("000", 31.9)])
    assert labels(grid) == ["bicubic", "000", "100", "010", "001", "110", "101", "011", "111"]
    assert cell(grid, "bicubic", "Set5/psnr_y").value == 28.429


def test_seeds_are_averaged():
    grid = experiment_grid([finished("111", psnr, seed=seed) for seed, psnr in enumerate((32.0, 32.1, 32.5))])
    own = cell(grid, "111", "Set5/psnr_y")
    assert own.value == pytest.approx(32.2)
    assert own.std == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    assert own.count == 3


def test_of_one_seed_the_newest_run_counts_once():
    runs = [
        finished("111", 30.0, date="2026-01-01"),
        finished("111", 32.0, date="2026-02-01"),
        finished("111", 32.2, seed=1),
    ]
    grid = experiment_grid(runs)
    own = cell(grid, "111", "Set5/psnr_y")
    assert (own.value, own.count) == (pytest.approx(32.1), 2)
    assert "newest" in row(grid, "111").note


def test_runs_of_several_budgets_are_never_averaged():
    grid = experiment_grid([finished("111", 32.0), finished("111", 29.0, budget="smoke")])
    assert cell(grid, "111 (budget=paper)", "Set5/psnr_y").value == 32.0
    assert cell(grid, "111 (budget=smoke)", "Set5/psnr_y").value == 29.0
    assert "warning: budgets differ between rows" in grid.head
    assert "warning: not trained at the paper's budget: smoke" in grid.head


def test_a_strategy_is_compared_with_its_own_host():
    psnrs = {"FSRCNN": 30.0, "FSRCNN + GGAS": 30.1, "CARN": 32.0, "CARN + GGAS": 31.5, "IDN + GGAS": 33.0}
    table = {"paper": "two_strategies", "name": "table2"}
    runs = [finished(label, psnr, table=table) for label, psnr in psnrs.items()]
    grid = experiment_grid(runs)
    assert {label: row(grid, label).against for label in psnrs} == {
        **dict.fromkeys(("FSRCNN", "CARN", "IDN + GGAS"), ""),  # IDN itself was not measured
        "FSRCNN + GGAS": "FSRCNN",
        "CARN + GGAS": "CARN",
    }
    assert cell(grid, "CARN + GGAS", "Set5/ssim_y").gain == 0
    gains = [image.gain for image in row(grid, "CARN + GGAS").images]
    assert sum(gains) / len(gains) == pytest.approx(-0.5, abs=0.01)
    assert "baseline: FSRCNN | CARN" in grid.head
    assert "differs from its baseline row" in to_latex(grid)
    asked = experiment_grid(runs, baseline="FSRCNN")
    assert row(asked, "CARN + GGAS").against == row(asked, "CARN").against == "FSRCNN"


def test_a_recipe_that_the_command_line_changed_is_a_warning():
    given = ("row=7", "scale=4", "seed=0", "budget=paper", "steps=100", "trainer=cpu", "dataset.cache_dir=x")
    grid = experiment_grid([replace(finished("111", 32.0), overrides=given)])
    assert "warning: not the paper's recipe: steps=100" in grid.head
    plain = replace(finished("111", 32.0), overrides=given[:4])
    assert not any("warning" in line for line in experiment_grid([plain]).head)


def test_a_failed_row_says_so_beside_the_papers_figures():
    failed = Run(Path("x-1"), problem="failed: no", settings={"scale": 4, "table": TABLE_2}, labels=("101",))
    grid = experiment_grid([finished("000", 31.9), failed])
    assert row(grid, "101").problem == "failed: no"
    assert cell(grid, "101", "Set5/psnr_y") == Cell(paper=32.25)
    assert "finished: 1 of 2 runs" in grid.head
    assert row(grid, "110").problem == "not run"


TABLE_2 = {"paper": "osffnet", "name": "table2"}


def test_a_failed_seed_leaves_the_others_and_is_told():
    failed = Run(
        Path("x-1"),
        problem="failed: no",
        labels=("111",),
        settings={"scale": 4, "seed": 7, "table": TABLE_2, "model": {"_target_": "OSFFNet"}}
        | {"budget": {"name": "paper"}},
    )
    grid = experiment_grid([finished("111", 32.0), failed])
    assert (row(grid, "111").problem, row(grid, "111").note) == ("", "seed 7 failed: no")
    assert cell(grid, "111", "Set5/psnr_y").count == 1


def test_a_network_that_nobody_implemented_says_so():
    table = {"paper": "osffnet", "name": "table1"}
    grid = experiment_grid([finished("OSFFNet", 32.3, table=table)])
    assert row(grid, "HNCT").problem == "not implemented"
    assert row(grid, "BSRN").problem == "not run"
    assert row(grid, "OSFFNet").is_own
    assert {own.block for own in grid.rows} == {"x4"}
    assert "not run: x2, x3" in grid.head


def test_a_row_that_the_paper_does_not_have_comes_last():
    grid = experiment_grid([finished("111", 32.2), finished("ours, wider", 32.4)])
    assert labels(grid)[-1] == "ours, wider"
    assert cell(grid, "ours, wider", "Set5/psnr_y").paper is None


def test_the_average_is_over_the_five_sets_where_the_paper_has_it():
    table = {"paper": "efrdn", "name": "table6"}
    grid = experiment_grid([finished("EFRDN", 30.0, table=table, sets=FIVE)])
    assert cell(grid, "EFRDN", "Average/psnr_y").value == pytest.approx(30.0)
    grid = experiment_grid([finished("EFRDN", 30.0, table=table, sets=FIVE[:4])])
    assert cell(grid, "EFRDN", "Average/psnr_y").value is None


def test_what_a_strategy_gains_follows_from_its_host():
    table = {"paper": "two_strategies", "name": "table2"}
    runs = [finished("CARN", 32.0, table=table), finished("CARN + GGAS", 32.125, table=table)]
    grid = experiment_grid(runs)
    own = cell(grid, "CARN + GGAS", "Set5/psnr_y_gain")
    assert own.value == pytest.approx(0.125)
    assert own.paper is not None


def test_a_row_that_is_a_difference_of_rows_is_worked_out():
    table = {"paper": "imfm", "name": "table2"}
    runs = [
        finished("IMFM step_lr", 0, table=table, **{"val/psnr_y": 33.0}),
        finished("IMFM cos_lr", 0, table=table, **{"val/psnr_y": 33.125}),
    ]
    found = [own for own in experiment_grid(runs).rows if own.label == "IMFM cos_lr minus step_lr"]
    assert found[0].cells[0].value == pytest.approx(0.125)


def trained(tmp_path: Path, label: str, *psnrs: float) -> Run:
    """A row of IMFM's Table 2 whose training validated so; the held-out images are 1 dB above the mean."""
    run = folder(tmp_path, f"{label}-1", **values(label, 30.0, table={"paper": "imfm", "name": "table2"}))
    rows = [f"{step},{psnr},{psnr + 1}" for step, psnr in enumerate(psnrs)]
    (run.path / "metrics.csv").write_text(
        "\n".join(["step,val/psnr_y,val/held_out/psnr_y", "0,,", *rows, ""])
    )
    return run


def test_psnr_without_a_set_is_that_of_the_held_out_images_at_the_best_checkpoint(tmp_path):
    runs = [trained(tmp_path, "IMFM step_lr", 31, 33, 32), trained(tmp_path, "IMFM cos_lr", 31, 33.25)]
    grid = experiment_grid(runs)
    assert cell(grid, "IMFM step_lr", "psnr_y").value == 34
    assert cell(grid, "IMFM step_lr", "psnr_y").paper == 33.3
    assert cell(grid, "IMFM cos_lr minus step_lr", "psnr_y").value == 0.25
    assert any(line.startswith("note: PSNR without a set is, of ours,") for line in grid.head)
    assert not any("without a set" in line for line in experiment_grid([finished("111", 32.0)]).head)


def test_a_difference_of_rows_that_are_not_there_is_not_said_to_be_not_run(tmp_path):
    grid = experiment_grid([trained(tmp_path, "IMFM cos_lr", 33)])
    assert row(grid, "IMFM step_lr").problem == "not run"
    assert row(grid, "IMFM cos_lr minus step_lr").problem == "rows missing"
    assert not any("rows missing" in note for note in grid.notes())


def test_a_time_of_which_the_paper_says_too_little_is_told_to_be_left_open():
    grid = experiment_grid(
        [finished("MWAUM", 26, table={"paper": "imfm", "name": "table3"}, wall_time_s=9.0)]
    )
    assert cell(grid, "MWAUM", "Set5/time_s") == Cell(paper=0.3437)
    assert any("says neither device nor number of images" in line for line in grid.head)


def test_images_are_compared_with_the_baseline_row_and_those_of_the_baseline_with_bicubic():
    grid = experiment_grid([finished("000", 31.0, count=2), finished("111", 32.0, count=2)])
    (_, first), (_, second) = (row(grid, label).images for label in ("000", "111"))
    assert (first.set_name, first.image, first.psnr) == ("Set5", "1", 31.0)
    assert first.gain == pytest.approx(31.0 - 28.01)
    assert second.gain == pytest.approx(1.0)
    assert row(grid, "bicubic").images == ()


def test_runs_are_ordered_as_their_rows_stand_in_the_table():
    runs = [finished(label, 31.0) for label in ("111", "elsewhere", "000", "010")]
    grid = experiment_grid(runs)
    assert [run.labels[0] for run in in_table_order(grid, runs)] == ["000", "010", "111", "elsewhere"]


def test_time_is_told_as_increase_over_the_first_row():
    table = {"paper": "two_strategies", "name": "table1"}
    runs = [
        finished("Baseline", 31.5, table=table, gpu_ms=4.0),
        finished("Baseline+CA", 31.6, table=table, gpu_ms=9.0),
    ]
    assert cell(experiment_grid(runs), "Baseline+CA", "Set5/gpu_time_increase_percent").value == 125.0


def test_rows_that_the_paper_tells_only_by_difference_are_worked_out_beside_those_that_were_run():
    table = {"paper": "imfm", "name": "sec3.3"}
    runs = [
        finished("plain", 32.0, table=table, num_params=632_500, multi_adds_paper=48_000_000_000),
        finished("+PAB", 32.125, table=table, num_params=569_000, multi_adds_paper=44_500_000_000),
    ]
    grid = experiment_grid(runs)
    own = cell(grid, "+PAB minus plain", "num_params_k")
    assert (own.value, own.paper) == (-63.5, -63.7)
    assert cell(grid, "+PAB minus plain", "multi_adds_g").value == -3.5
    assert cell(grid, "+PAB minus plain", "Set5/psnr_y").value == pytest.approx(0.125)
    assert cell(grid, "+MSWAM minus +PAB", "num_params_k").value is None


def test_where_the_paper_says_no_scale_runs_of_two_scales_are_two_rows():
    table = {"paper": "imfm", "name": "table2"}
    runs = [finished("IMFM cos_lr", 30.0 + scale, table=table, scale=scale) for scale in (2, 4)]
    grid = experiment_grid(runs)
    assert cell(grid, "IMFM cos_lr", "Set5/psnr_y", "x2").value == 32.0
    assert cell(grid, "IMFM cos_lr", "Set5/psnr_y", "x4").value == 34.0


def test_what_complexity_has_measured_stands_in_the_row_of_the_training():
    table = {"paper": "two_strategies", "name": "table1"}
    runs = [
        finished("Baseline", 31.5, table=table),
        Run(
            Path("b-1"),
            {"task": "complexity", "scale": 4, "table": table, "gpu_ms": 7.0},
            labels=("Baseline",),
        ),
        Run(
            Path("b-2"),
            {"task": "complexity", "scale": 4, "table": table, "gpu_ms": 8.0},
            labels=("Baseline+CA",),
        ),
    ]
    grid = experiment_grid(runs)
    assert cell(grid, "Baseline", "Set5/psnr_y").value == 31.5
    assert cell(grid, "Baseline", "Set5/gpu_time_ms").value == 7.0
    assert cell(grid, "Baseline+CA", "Set5/gpu_time_ms").value == 8.0
    assert any(
        line.startswith("note: our time and memory are of an output of 1280x720") for line in grid.head
    )


def test_rows_are_compared_with_the_first_or_with_the_named_one():
    runs = [finished("000", 31.9), finished("101", 32.0), finished("111", 32.2)]
    first = experiment_grid(runs)
    assert cell(first, "111", "Set5/psnr_y").gain == pytest.approx(0.3)
    assert (row(first, "000").against, row(first, "111").against) == ("", "000")
    assert "baseline: 000" in first.head
    named = experiment_grid(runs, baseline="101")
    assert cell(named, "111", "Set5/psnr_y").gain == pytest.approx(0.2)
    assert cell(named, "000", "Set5/psnr_y").gain == pytest.approx(-0.1)
    bicubic = experiment_grid(runs, baseline="bicubic")
    assert cell(bicubic, "111", "Set5/psnr_y").gain == pytest.approx(32.2 - 28.429)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ConfigError, match="baseline: there is no measured row 'x'; allowed: bicubic, 111"):
        experiment_grid([finished("111", 32.2)], baseline="x")


def test_a_significant_row_is_marked():
    grid = experiment_grid([finished("000", 31.9), finished("101", 31.9), finished("111", 32.2)])
    assert (row(grid, "000").mark, row(grid, "101").mark, row(grid, "111").mark) == ("", "", "*")
    (test,) = row(grid, "111").tests
    assert (test.set_name, test.count) == ("all sets", 8)
    assert test.p == pytest.approx(2 / 2**8)
    assert test.p_holm == pytest.approx(4 / 2**8)


def sweep(name: str, psnr: float, settings: dict[str, object], **more: object) -> Run:
    return Run(
        Path(f"{name}-{more.get('seed', 0):08x}"), values(None, psnr, run=name, **more), settings=settings
    )


def model(name: str, **more: object) -> dict[str, object]:
    return {"model": {"_target_": f"sr_lab.models.{name.lower()}.{name}", "scale": 4, **more}}


def test_what_varies_between_runs_is_a_column():
    runs = [
        sweep("a", 30.0, model("IMDN", num_feat=8) | {"seed": 0, "learning_rate": 0.001}),
        sweep("b", 31.0, model("IMDN", num_feat=16) | {"seed": 0, "learning_rate": 0.001}),
    ]
    grid = experiment_grid(runs)
    assert [column.key for column in grid.columns][:2] == ["model.num_feat", "num_params_k"]
    assert (cell(grid, "a", "model.num_feat").text, cell(grid, "b", "model.num_feat").text) == ("8", "16")


def test_settings_of_different_networks_are_not_compared():
    runs = [sweep("a", 30.0, model("IMDN", num_feat=64)), sweep("b", 31.0, model("CARN", width=32))]
    grid = experiment_grid(runs)
    assert [column.key for column in grid.columns][:2] == ["model", "num_params_k"]


def test_a_tail_goes_by_its_option():
    def tail(name: str) -> dict[str, object]:
        factory = {"_target_": f"x.{name}", "_partial_": True}
        return {"upsampler": {"name": name, "factory": factory}, **model("IMDN", upsampler=factory)}

    grid = experiment_grid([sweep("a", 30.0, tail("deconv")), sweep("b", 31.0, tail("pa"))])
    assert [column.key for column in grid.columns][:2] == ["upsampler", "num_params_k"]
    assert cell(grid, "b", "upsampler").text == "pa"


def test_a_sweep_over_seeds_is_one_row():
    runs = [sweep(f"imdn_x4_seed-{seed}", 30.0 + seed, model("IMDN"), seed=seed) for seed in range(3)]
    grid = experiment_grid(runs)
    assert labels(grid) == ["bicubic", "imdn_x4"]
    assert cell(grid, "imdn_x4", "Set5/psnr_y").count == 3


def test_the_seed_of_the_images_is_the_seed_and_no_setting():
    settings = [{"seed": seed, "dataset": {"_target_": "x.Sample", "seed": seed}} for seed in (0, 1)]
    runs = [
        sweep(f"imdn_seed-{own['seed']}", 30.0, model("IMDN") | own, seed=own["seed"]) for own in settings
    ]
    assert labels(experiment_grid(runs)) == ["bicubic", "imdn"]
    other = settings[1] | {"dataset": {"_target_": "x.Sample", "seed": 5}}  # set apart from the run's
    runs[1] = sweep("imdn_x", 30.0, model("IMDN") | other, seed=1)
    assert cell(experiment_grid(runs), "imdn_x", "dataset.seed").text == "5"


def test_figures_stand_behind_at_most_three_settings_and_before_costs():
    runs = [
        sweep(f"a{n}", 30.0, model("IMDN", one=n, two=n, three=n, four=n), peak_memory_bytes=2**20)
        for n in range(2)
    ]
    keys = [column.key for column in experiment_grid(runs).columns]
    assert keys == [
        *("model.one", "model.two", "model.three", "num_params_k", "multi_adds"),
        *("Set5/psnr_y", "Set5/ssim_y", "multi_adds_paper", "peak_memory_bytes", "model.four"),
    ]


def test_runs_measured_on_different_sets_are_rows_of_their_own():
    benchmark = [{"benchmark": {"sets": [name], "protocol": "rgb_uint8"}} for name in ("Set5", "Set14")]
    runs = [sweep("imdn", 30.0, model("IMDN") | own, sets=own["benchmark"]["sets"]) for own in benchmark]
    assert labels(experiment_grid(runs)) == ["bicubic", "imdn", "imdn"]


def test_scales_are_blocks_each_with_its_own_bicubic_and_baseline():
    runs = [
        sweep(f"{name}_x{scale}", 30.0, model(name), scale=scale) for scale in (4, 2) for name in ("A", "B")
    ]
    grid = experiment_grid(runs)
    assert [(own.block, own.label) for own in grid.rows] == [
        *(("x2", "bicubic"), ("x2", "A_x2"), ("x2", "B_x2")),
        *(("x4", "bicubic"), ("x4", "A_x4"), ("x4", "B_x4")),
    ]
    assert row(grid, "B_x2", "x2").against == "A_x2"


def test_runs_without_any_figure_make_a_table():
    grid = experiment_grid([Run(Path("a-1"), problem="unfinished"), Run(Path("b-1"), problem="failed: no")])
    assert [own.problem for own in grid.rows] == ["unfinished", "failed: no"]


def shown(folders: list[Path]) -> str:
    console = Console(file=io.StringIO(), width=40)
    print_experiment(folders, console)
    return console.file.getvalue()


def test_a_paper_s_table_ends_a_sweep_on_the_terminal(tmp_path):
    runs = [
        folder(tmp_path, "osffnet_x4_000-1", **values("000", 31.9)),
        folder(tmp_path, "osffnet_x4_[red]-1", **values("[red]", 32.2)),
        folder(
            tmp_path,
            "osffnet_x4_101-1",
            failed="ValueError: too [bad]",
            settings="scale: 4\nrow_label: '101'\ntable: {paper: osffnet, name: table2}\n",
        ),
    ]
    text = shown([run.path for run in runs])
    for words in ("osffnet table2", "│   paper", "│   difference", "[red]*", "110 (paper; not run)"):
        assert words in text
    assert "101 (paper; failed)" in text
    assert "101 x4: failed: ValueError: too [bad]" in text
    assert "…" not in text


def test_a_single_run_has_the_plain_table(tmp_path):
    run = folder(tmp_path, "a-1", **values(None, 31.9, run="a"))
    assert "difference" not in shown([run.path])
    assert "│ a " in shown([run.path])


def test_a_figure_knows_how_it_is_printed():
    figure = Figure("p", "t", "r", "m", 4, "Set5", "ssim_y", 0.96, "0.9600")
    assert figure.decimals == 4
