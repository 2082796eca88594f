"""The table of an experiment, which shows runs next to the values that the paper prints."""

import io
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting import published
from sr_lab.reporting.experiment import experiment_table, in_table_order, print_experiment
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.page_table import ShownCell
from sr_lab.reporting.published import Figure
from sr_lab.reporting.runs import Run
from sr_lab.reporting.safe_csv import table_to_csv
from sr_lab.reporting.table import Cell, Row, Table
from sr_lab.reporting.terminal import print_table
from tests.report_runs import FIVE, as_printed, finished, folder, values

TABLES = sorted({(figure.paper, figure.table) for figure in published.figures()})


def row(table: Table, label: str, block: str = "x4") -> Row:
    (found,) = [own for own in table.rows if (own.label, own.block) == (label, block)]
    return found


def cell(table: Table, label: str, key: str, block: str = "x4") -> Cell:
    keys = [column.key for column in table.columns]
    return row(table, label, block).cells[keys.index(key)]


def labels(table: Table) -> list[str]:
    return [own.label for own in table.rows]


@pytest.mark.parametrize(("paper", "table"), TABLES, ids=" ".join)
def test_runs_that_measure_the_printed_figures_give_the_printed_table(paper, table):
    made = experiment_table(as_printed(paper, table))
    columns = {column.key: column for column in made.columns}
    usual = defaultdict(Counter)  # usual number of decimals in each column; a few figures differ
    for figure in published.table(paper, table):
        usual[f"{figure.set_name}/{figure.metric}".lstrip("/")][figure.decimals] += 1
    for figure in published.table(paper, table):
        key = f"{figure.set_name}/{figure.metric}".lstrip("/")
        own = cell(made, figure.row, key, f"x{figure.scale or 4}")
        if key == "multi_adds_g":  # counted by a different rule
            assert own.paper is None
            printed = cell(made, figure.row, "multi_adds_printed", f"x{figure.scale or 4}")
            assert (printed.text, bool(printed.note)) == (figure.text, True)
            continue
        assert own.paper == figure.value, figure
        if figure.set_name == "Average":  # computed here from five rounded figures
            assert own.value == pytest.approx(figure.value, abs=0.0101), figure
            continue
        assert fixed(own.value, figure.decimals) == figure.text, figure
        if figure.decimals == usual[key].most_common(1)[0][0]:
            assert own.shown(replace(columns[key], with_gain=False)) == figure.text


# The best and second best rows of OSFFNet's Table 1 at x4, found by hand.
@pytest.mark.parametrize(
    ("key", "best", "second"),
    [
        ("Set5/psnr_y", ["OSFFNet"], ["BSRN"]),
        ("Manga109/psnr_y", ["BSRN", "OSFFNet"], ["RepRFN"]),  # two rows share the best value
    ],
)
def test_best_and_second_best_values_of_a_printed_table_are_marked(key, best, second):
    made = experiment_table(as_printed("osffnet", "table1"))
    rows = [own for own in made.rows if own.block == "x4"]
    for rank, wanted in ((1, best), (2, second)):
        assert [own.label for own in rows if cell(made, own.label, key).rank == rank] == wanted


def test_each_number_is_marked_separately():
    """The paper marks whole cells, so at x2 on Set5 ECBSR's low PSNR is bold because its SSIM is the best."""
    made = experiment_table(as_printed("efrdn", "table1"))
    assert cell(made, "ECBSR", "Set5/ssim_y", "x2").rank == 1
    assert cell(made, "ECBSR", "Set5/psnr_y", "x2").rank == 0


def test_the_measured_figure_is_next_to_the_papers_figure():
    own = cell(experiment_table([finished("111", 32.2)]), "111", "Set5/psnr_y")
    assert (own.value, own.paper) == (32.2, 32.25)
    assert own.difference == pytest.approx(-0.05)


def test_all_operations_are_counted_and_the_printed_count_is_next_to_them():
    made = experiment_table([finished("111", 32.2)])
    assert cell(made, "111", "num_params_k").value == 536.5
    assert cell(made, "111", "multi_adds_g").value == 29.3
    assert cell(made, "111", "multi_adds_printed").text == "22.0"
    assert any(note.startswith("a: torchinfo's count at 1280x720") for note in made.notes())


def test_numbers_of_a_paper_have_the_digits_that_it_prints():
    made = experiment_table(as_printed("osffnet", "table1"))
    assert cell(made, "RepRFN", "multi_adds_printed", "x2").text == "85.12"
    efrdn = experiment_table(as_printed("efrdn", "table4"))
    params = next(column for column in efrdn.columns if column.key == "num_params_k")
    printed = {own.label: cell(efrdn, own.label, "num_params_k").printed(params) for own in efrdn.rows}
    assert printed == {"011": "762.84", "101": "684.5", "110": "764.0", "111": "767.9"}


def test_rows_follow_the_order_of_the_paper_below_bicubic():
    made = experiment_table([finished("111", 32.2), finished("000", 31.9)])
    assert labels(made) == ["bicubic", "000", "100", "010", "001", "110", "101", "011", "111"]
    assert cell(made, "bicubic", "Set5/psnr_y").value == 28.429


def test_seeds_are_averaged():
    runs = [finished("111", psnr, seed=seed) for seed, psnr in enumerate((32.0, 32.1, 32.5))]
    made = experiment_table(runs)
    own = cell(made, "111", "Set5/psnr_y")
    assert own.value == pytest.approx(32.2)
    assert own.std == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    assert own.count == 3


def test_only_the_newest_of_several_runs_with_the_same_seed_counts():
    runs = [
        finished("111", 30.0, date="2026-01-01"),
        finished("111", 32.0, date="2026-02-01"),
        finished("111", 32.2, seed=1),
    ]
    made = experiment_table(runs)
    own = cell(made, "111", "Set5/psnr_y")
    assert (own.value, own.count) == (pytest.approx(32.1), 2)
    assert "newest" in row(made, "111").note


def test_runs_of_several_budgets_are_never_averaged():
    made = experiment_table([finished("111", 32.0), finished("111", 29.0, budget="smoke")])
    assert cell(made, "111 (budget=paper)", "Set5/psnr_y").value == 32.0
    assert cell(made, "111 (budget=smoke)", "Set5/psnr_y").value == 29.0
    assert "warning: budgets differ between rows" in made.head
    assert "warning: not trained at the paper's budget: smoke" in made.head


def test_a_strategy_is_compared_with_its_own_host():
    psnrs = {"FSRCNN": 30.0, "FSRCNN + GGAS": 30.1, "CARN": 32.0, "CARN + GGAS": 31.5, "IDN + GGAS": 33.0}
    table = {"paper": "two_strategies", "name": "table2"}
    runs = [finished(label, psnr, table=table) for label, psnr in psnrs.items()]
    made = experiment_table(runs)
    assert {label: row(made, label).against for label in psnrs} == {
        **dict.fromkeys(("FSRCNN", "CARN", "IDN + GGAS"), ""),  # the host IDN was not measured
        "FSRCNN + GGAS": "FSRCNN",
        "CARN + GGAS": "CARN",
    }
    assert cell(made, "CARN + GGAS", "Set5/ssim_y").gain == 0
    gains = [image.gain for image in row(made, "CARN + GGAS").images]
    assert sum(gains) / len(gains) == pytest.approx(-0.5, abs=0.01)
    assert "baseline: FSRCNN | CARN" in made.head
    assert "differs from its baseline row" in to_latex(made)
    asked = experiment_table(runs, baseline="FSRCNN")
    assert row(asked, "CARN + GGAS").against == row(asked, "CARN").against == "FSRCNN"


def test_a_recipe_changed_on_the_command_line_gives_a_warning():
    given = ("row=7", "scale=4", "seed=0", "budget=paper", "steps=100", "trainer=cpu", "dataset.cache_dir=x")
    made = experiment_table([replace(finished("111", 32.0), overrides=given)])
    assert "warning: not the paper's recipe: steps=100" in made.head
    known = {"trainer": {"gradient_clip_val": 0.5}, "callbacks": [{"_target_": "EarlyStopping"}]}
    given = ("trainer.gradient_clip_val=0.5", "trainer.devices=2", "callbacks=early_stopping")
    made = experiment_table([replace(finished("111", 32.0), overrides=given, identity=known)])
    assert f"warning: not the paper's recipe: {given[0]}, {given[2]}" in made.head
    plain = replace(finished("111", 32.0), overrides=given[:4])
    assert not any("warning" in line for line in experiment_table([plain]).head)


def own(scale: int, **more: object) -> dict[str, dict[str, object]]:
    """The record of a checkpoint of OSFFNet."""
    return {"started_from": {"model": {"_target_": "OSFFNet", "scale": scale, **more}, "scale": scale}}


IMDN_X2 = {"started_from": {"model": {"_target_": "IMDN", "scale": 2}, "scale": 2}}


@pytest.mark.parametrize(
    ("scale", "init_ckpt", "record", "warned"),
    [
        (2, None, {}, None),
        (4, "outputs/x2", own(2), None),
        (4, None, {}, "from scratch"),
        (4, "x4.pth", own(4), "from x4"),
        (4, "x.pth", {"started_from": {**own(2)["started_from"], "scale": None}}, "from an unknown scale"),
        (4, "imdn.pth", IMDN_X2, "from IMDN x2"),
        (4, "small", own(2, num_feat=8), "from another OSFFNet x2"),
        (4, "x.pth", {"started_from": None}, "from an unknown network"),
        (4, "x.pth", {}, "from an unknown network"),  # a run of an earlier version
    ],
)
def test_a_step_of_the_papers_own_recipe_gives_no_warning(scale, init_ckpt, record, warned):
    table = {"paper": "osffnet", "name": "table1", "fine_tuned": ["OSFFNet"]}
    given = ("row=9", f"scale={scale}", *([f"init_ckpt={init_ckpt}"] if init_ckpt else []))
    run = finished("OSFFNet", 32.0, table=table, scale=scale, **record)
    settings = {**run.settings, "model": {"_target_": "OSFFNet", "scale": scale}, "init_ckpt": init_ckpt}
    made = experiment_table([replace(run, overrides=given, settings=settings)])
    words = f"warning: not the paper's recipe: OSFFNet x{scale} {warned} (fine-tuned from x2 in the paper)"
    assert [line for line in made.head if line.startswith("warning")] == ([words] if warned else [])


def test_scales_that_another_command_ran_are_not_reported_as_missing(tmp_path):
    table = {"paper": "osffnet", "name": "table1"}
    x2, x4 = (folder(tmp_path, f"x{n}", **values("OSFFNet", 32.0, table=table, scale=n)) for n in (2, 4))
    made = experiment_table([x4])
    assert "not run: x3" in made.head
    assert "in the same folder, not shown here: x2" in made.head
    assert x2.scale == 2


def test_a_failed_row_shows_its_failure_and_the_papers_figures():
    failed = Run(Path("x-1"), problem="failed: no", settings={"scale": 4, "table": TABLE_2}, labels=("101",))
    made = experiment_table([finished("000", 31.9), failed])
    assert row(made, "101").problem == "failed: no"
    assert cell(made, "101", "Set5/psnr_y") == Cell(paper=32.25)
    assert "finished: 1 of 2 runs" in made.head
    assert row(made, "110").problem == "not run"


TABLE_2 = {"paper": "osffnet", "name": "table2"}


def test_a_failed_seed_is_reported_and_the_other_seeds_are_averaged():
    failed = Run(
        Path("x-1"),
        problem="failed: no",
        labels=("111",),
        settings={"scale": 4, "seed": 7, "table": TABLE_2, "model": {"_target_": "OSFFNet"}}
        | {"budget": {"name": "paper"}},
    )
    made = experiment_table([finished("111", 32.0), failed])
    assert (row(made, "111").problem, row(made, "111").note) == ("", "seed 7 failed: no")
    assert cell(made, "111", "Set5/psnr_y").count == 1


def test_a_network_without_an_implementation_is_marked():
    table = {"paper": "osffnet", "name": "table1"}
    made = experiment_table([finished("OSFFNet", 32.3, table=table)])
    assert row(made, "HNCT").problem == "not implemented"
    assert row(made, "BSRN").problem == "not run"
    assert row(made, "OSFFNet").is_own
    assert {own.block for own in made.rows} == {"x4"}
    assert "not run: x2, x3" in made.head


def test_a_row_that_is_not_in_the_paper_comes_last():
    made = experiment_table([finished("111", 32.2), finished("ours, wider", 32.4)])
    assert labels(made)[-1] == "ours, wider"
    assert cell(made, "ours, wider", "Set5/psnr_y").paper is None


def test_the_average_is_over_five_sets_where_the_paper_prints_an_average():
    table = {"paper": "efrdn", "name": "table6"}
    made = experiment_table([finished("EFRDN", 30.0, table=table, sets=FIVE)])
    assert cell(made, "EFRDN", "Average/psnr_y").value == pytest.approx(30.0)
    made = experiment_table([finished("EFRDN", 30.0, table=table, sets=FIVE[:4])])
    assert cell(made, "EFRDN", "Average/psnr_y").value is None


def test_the_gain_of_a_strategy_is_computed_from_its_host():
    table = {"paper": "two_strategies", "name": "table2"}
    runs = [finished("CARN", 32.0, table=table), finished("CARN + GGAS", 32.125, table=table)]
    made = experiment_table(runs)
    own = cell(made, "CARN + GGAS", "Set5/psnr_y_gain")
    assert own.value == pytest.approx(0.125)
    assert own.paper is not None


@pytest.mark.parametrize(
    "other",
    [{"protocol": "classic_y"}, {"test_images": {"Set5": "not the published Set5: 5 images cropped"}}],
)
def test_a_gain_is_not_computed_from_another_protocol_or_from_other_images(other):
    table = {"paper": "two_strategies", "name": "table2"}
    runs = [finished("CARN", 32.0, table=table), finished("CARN + GGAS", 30.0, table=table, **other)]
    assert cell(experiment_table(runs), "CARN + GGAS", "Set5/psnr_y_gain").value is None


def test_a_row_that_is_a_difference_of_two_rows_is_computed():
    table = {"paper": "imfm", "name": "table2"}
    runs = [
        finished("IMFM step_lr", 0, table=table, **{"val/psnr_y": 33.0}),
        finished("IMFM cos_lr", 0, table=table, **{"val/psnr_y": 33.125}),
    ]
    found = [own for own in experiment_table(runs).rows if own.label == "IMFM cos_lr minus step_lr"]
    assert found[0].cells[0].value == pytest.approx(0.125)


def trained(tmp_path: Path, label: str, *psnrs: float) -> Run:
    """A row of IMFM's Table 2 with these validation PSNRs; those of the held-out images are 1 dB higher."""
    run = folder(tmp_path, f"{label}-1", **values(label, 30.0, table={"paper": "imfm", "name": "table2"}))
    rows = [f"{step},{psnr},{psnr + 1}" for step, psnr in enumerate(psnrs)]
    (run.path / "metrics.csv").write_text(
        "\n".join(["step,val/psnr_y,val/held_out/psnr_y", "0,,", *rows, ""])
    )
    return run


def test_a_psnr_without_a_set_is_measured_on_the_held_out_images_at_the_best_checkpoint(tmp_path):
    runs = [trained(tmp_path, "IMFM step_lr", 31, 33, 32), trained(tmp_path, "IMFM cos_lr", 31, 33.25)]
    made = experiment_table(runs)
    assert cell(made, "IMFM step_lr", "psnr_y").value == 34
    assert cell(made, "IMFM step_lr", "psnr_y").paper == 33.3
    assert cell(made, "IMFM cos_lr minus step_lr", "psnr_y").value == 0.25
    assert any("held-out images" in line for line in made.head)
    assert not any("held-out images" in line for line in experiment_table([finished("111", 32.0)]).head)


def test_a_difference_of_missing_rows_is_not_reported_as_not_run(tmp_path):
    made = experiment_table([trained(tmp_path, "IMFM cos_lr", 33)])
    assert row(made, "IMFM step_lr").problem == "not run"
    assert row(made, "IMFM cos_lr minus step_lr").problem == "rows missing"
    assert not any("rows missing" in note for note in made.notes())


def test_a_time_without_a_described_setup_has_no_measured_figure():
    made = experiment_table(
        [finished("MWAUM", 26, table={"paper": "imfm", "name": "table3"}, wall_time_s=9.0)]
    )
    assert cell(made, "MWAUM", "Set5/time_s") == Cell(paper=0.3437)
    assert any("neither the device nor the number of images" in line for line in made.head)


def test_images_are_compared_with_the_baseline_row_and_images_of_the_baseline_with_bicubic():
    made = experiment_table([finished("000", 31.0, count=2), finished("111", 32.0, count=2)])
    (_, first), (_, second) = (row(made, label).images for label in ("000", "111"))
    assert (first.set_name, first.image, first.psnr) == ("Set5", "1", 31.0)
    assert first.gain == pytest.approx(31.0 - 28.01)
    assert second.gain == pytest.approx(1.0)
    assert row(made, "bicubic").images == ()


def test_runs_are_ordered_like_their_rows():
    runs = [finished(label, 31.0) for label in ("111", "elsewhere", "000", "010")]
    made = experiment_table(runs)
    assert [run.labels[0] for run in in_table_order(made, runs)] == ["000", "010", "111", "elsewhere"]


def test_time_is_given_as_an_increase_over_the_first_row():
    table = {"paper": "two_strategies", "name": "table1"}
    runs = [
        finished("Baseline", 31.5, table=table, gpu_ms=4.0),
        finished("Baseline+CA", 31.6, table=table, gpu_ms=9.0),
    ]
    assert cell(experiment_table(runs), "Baseline+CA", "Set5/gpu_time_increase_percent").value == 125.0


def test_rows_that_the_paper_prints_only_as_differences_are_computed():
    table = {"paper": "imfm", "name": "sec3.3"}
    runs = [
        finished("plain", 32.0, table=table, num_params=632_500, multi_adds=48_000_000_000),
        finished("+PAB", 32.125, table=table, num_params=569_000, multi_adds=44_500_000_000),
    ]
    made = experiment_table(runs)
    own = cell(made, "+PAB minus plain", "num_params_k")
    assert (own.value, own.paper) == (-63.5, -63.7)
    assert cell(made, "+PAB minus plain", "multi_adds_g").value == -3.5
    assert cell(made, "+PAB minus plain", "Set5/psnr_y").value == pytest.approx(0.125)
    assert cell(made, "+MSWAM minus +PAB", "num_params_k").value is None


def test_runs_at_two_scales_are_two_rows_if_the_paper_gives_no_scale():
    table = {"paper": "imfm", "name": "table2"}
    runs = [finished("IMFM cos_lr", 30.0 + scale, table=table, scale=scale) for scale in (2, 4)]
    made = experiment_table(runs)
    assert cell(made, "IMFM cos_lr", "Set5/psnr_y", "x2").value == 32.0
    assert cell(made, "IMFM cos_lr", "Set5/psnr_y", "x4").value == 34.0


def test_costs_measured_by_task_complexity_are_in_the_row_of_the_training_run():
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
    made = experiment_table(runs)
    assert cell(made, "Baseline", "Set5/psnr_y").value == 31.5
    assert cell(made, "Baseline", "Set5/gpu_time_ms").value == 7.0
    assert cell(made, "Baseline+CA", "Set5/gpu_time_ms").value == 8.0
    assert any(line.startswith("note: our time") and "1280x720" in line for line in made.head)


def test_rows_are_compared_with_the_first_row_or_the_named_row():
    runs = [finished("000", 31.9), finished("101", 32.0), finished("111", 32.2)]
    first = experiment_table(runs)
    assert cell(first, "111", "Set5/psnr_y").gain == pytest.approx(0.3)
    assert (row(first, "000").against, row(first, "111").against) == ("", "000")
    assert "baseline: 000" in first.head
    named = experiment_table(runs, baseline="101")
    assert cell(named, "111", "Set5/psnr_y").gain == pytest.approx(0.2)
    assert cell(named, "000", "Set5/psnr_y").gain == pytest.approx(-0.1)
    bicubic = experiment_table(runs, baseline="bicubic")
    assert cell(bicubic, "111", "Set5/psnr_y").gain == pytest.approx(32.2 - 28.429)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ConfigError, match="baseline: there is no measured row 'x'; allowed: bicubic, 111"):
        experiment_table([finished("111", 32.2)], baseline="x")


def test_a_significant_row_is_marked():
    made = experiment_table([finished("000", 31.9), finished("101", 31.9), finished("111", 32.2)])
    assert (row(made, "000").mark, row(made, "101").mark, row(made, "111").mark) == ("", "", "*")
    (test,) = row(made, "111").tests
    assert (test.set_name, test.count) == ("all sets", 8)
    assert test.p == pytest.approx(2 / 2**8)
    assert test.p_holm == pytest.approx(4 / 2**8)


def sweep(name: str, psnr: float, settings: dict[str, object], **more: object) -> Run:
    return Run(
        Path(f"{name}-{more.get('seed', 0):08x}"), values(None, psnr, run=name, **more), settings=settings
    )


def model(name: str, **more: object) -> dict[str, object]:
    return {"model": {"_target_": f"sr_lab.models.{name.lower()}.{name}", "scale": 4, **more}}


def test_a_setting_that_varies_between_runs_has_a_column():
    runs = [
        sweep("a", 30.0, model("IMDN", num_feat=8) | {"seed": 0, "learning_rate": 0.001}),
        sweep("b", 31.0, model("IMDN", num_feat=16) | {"seed": 0, "learning_rate": 0.001}),
    ]
    made = experiment_table(runs)
    assert [column.key for column in made.columns][:2] == ["model.num_feat", "num_params_k"]
    assert (cell(made, "a", "model.num_feat").text, cell(made, "b", "model.num_feat").text) == ("8", "16")


def test_settings_of_different_networks_are_not_compared():
    runs = [sweep("a", 30.0, model("IMDN", num_feat=64)), sweep("b", 31.0, model("CARN", width=32))]
    made = experiment_table(runs)
    assert [column.key for column in made.columns][:2] == ["model", "num_params_k"]


def test_a_tail_is_named_by_its_option():
    def tail(name: str) -> dict[str, object]:
        factory = {"_target_": f"x.{name}", "_partial_": True}
        return {"upsampler": {"name": name, "factory": factory}, **model("IMDN", upsampler=factory)}

    made = experiment_table([sweep("a", 30.0, tail("deconv")), sweep("b", 31.0, tail("pa"))])
    assert [column.key for column in made.columns][:2] == ["upsampler", "num_params_k"]
    assert cell(made, "b", "upsampler").text == "pa"


def test_a_sweep_over_seeds_is_one_row():
    runs = [sweep(f"imdn_x4_seed-{seed}", 30.0 + seed, model("IMDN"), seed=seed) for seed in range(3)]
    made = experiment_table(runs)
    assert labels(made) == ["bicubic", "imdn"]
    assert cell(made, "imdn", "Set5/psnr_y").count == 3


def test_the_seed_of_the_dataset_is_not_a_separate_setting():
    settings = [{"seed": seed, "dataset": {"_target_": "x.Sample", "seed": seed}} for seed in (0, 1)]
    runs = [
        sweep(f"imdn_seed-{own['seed']}", 30.0, model("IMDN") | own, seed=own["seed"]) for own in settings
    ]
    assert labels(experiment_table(runs)) == ["bicubic", "imdn"]
    other = settings[1] | {"dataset": {"_target_": "x.Sample", "seed": 5}}  # differs from the seed of the run
    runs[1] = sweep("imdn_x", 30.0, model("IMDN") | other, seed=1)
    assert cell(experiment_table(runs), "imdn_x", "dataset.seed").text == "5"


def test_figures_come_after_three_settings_at_most_and_before_costs():
    runs = [
        sweep(f"a{n}", 30.0, model("IMDN", one=n, two=n, three=n, four=n), peak_memory_bytes=2**20)
        for n in range(2)
    ]
    keys = [column.key for column in experiment_table(runs).columns]
    assert keys == [
        *("model.one", "model.two", "model.three", "num_params_k", "multi_adds_g"),
        *("Set5/psnr_y", "Set5/ssim_y", "peak_memory_bytes", "model.four"),
    ]


def test_evaluations_have_no_columns_for_training_settings():
    """An evaluation by an earlier version has such settings in its config.yaml."""
    runs = [
        sweep(name, 30.0, {"task": "evaluate", "ckpt": name, "dataset": {"scale": n}, "steps": n})
        for n, name in enumerate("ab")
    ]
    settings = [column.key for column in experiment_table(runs).columns if column.is_setting]
    assert settings == ["ckpt"]


def test_runs_measured_on_different_sets_are_separate_rows():
    benchmark = [{"benchmark": {"sets": [name], "protocol": "rgb_uint8"}} for name in ("Set5", "Set14")]
    runs = [sweep("imdn", 30.0, model("IMDN") | own, sets=own["benchmark"]["sets"]) for own in benchmark]
    assert labels(experiment_table(runs)) == ["bicubic", "sets [Set5]", "sets [Set14]"]


def test_each_scale_is_a_block_with_its_own_bicubic_row_and_baseline():
    runs = [
        sweep(f"{name}_x{scale}", 30.0, model(name), scale=scale) for scale in (4, 2) for name in ("A", "B")
    ]
    made = experiment_table(runs)
    assert [(own.block, own.label) for own in made.rows] == [
        *(("x2", "bicubic"), ("x2", "A"), ("x2", "B")),
        *(("x4", "bicubic"), ("x4", "A"), ("x4", "B")),
    ]
    assert row(made, "B", "x2").against == "A"


def test_runs_without_any_figure_still_give_a_table():
    made = experiment_table([Run(Path("a-1"), problem="unfinished"), Run(Path("b-1"), problem="failed: no")])
    assert [own.problem for own in made.rows] == ["unfinished", "failed: no"]


def shown(folders: list[Path]) -> str:
    console = Console(file=io.StringIO(), width=40)
    print_experiment(folders, console)
    return console.file.getvalue()


def test_a_sweep_ends_with_the_table_of_the_paper_on_the_terminal(tmp_path):
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


def test_a_single_run_has_its_own_table(tmp_path):
    run = folder(tmp_path, "a-1", **values(None, 31.9, run="a"))
    assert "difference" not in shown([run.path])
    assert "│ a " in shown([run.path])


def test_a_figure_records_its_number_of_decimals():
    figure = Figure("p", "t", "r", "m", 4, "Set5", "ssim_y", 0.96, "0.9600")
    assert figure.decimals == 4


def test_the_difference_from_the_baseline_row_is_in_every_format():
    made = experiment_table([sweep("a", 30.0, model("IMDN")), sweep("b", 30.25, model("EDSR"))])
    assert "baseline: a" in made.head
    assert "in brackets: difference from the baseline row in dB" in made.notes()
    console = Console(file=io.StringIO(), width=200)
    print_table(made, console)
    for text in (to_markdown(made), to_latex(made), console.file.getvalue()):
        assert "30.25 (+0.25)" in text
        assert "30.00 (" not in text
    assert ",a,0.25," in table_to_csv(made)
    (column,) = [column for column in made.columns if column.key == "Set5/psnr_y"]
    assert ShownCell(cell(made, "b", "Set5/psnr_y"), column).text == "30.25 (+0.25)"


def test_networks_of_a_comparison_have_no_difference_from_the_first_row():
    assert "(+" not in to_markdown(experiment_table(as_printed("osffnet", "table1")))


def test_rows_of_different_protocols_are_not_compared():
    def measured(name, psnr, protocol):
        settings = {"benchmark": {"sets": ["Set5"], "protocol": protocol}}
        return sweep(name, psnr, model(name) | settings, protocol=protocol)

    made = experiment_table(
        [
            measured("A", 32.0, "rgb_uint8"),
            measured("B", 32.1, "rgb_uint8"),
            measured("C", 33.0, "rgb_double"),
            measured("D", 32.9, "rgb_double"),
        ]
    )
    ranks = {name: cell(made, name, "Set5/psnr_y").rank for name in "ABCD"}
    assert ranks == {"A": 2, "B": 1, "C": 1, "D": 2}
    assert {own.label: own.against for own in made.rows if own.against} == {"B": "A"}
    assert row(made, "C").mark == row(made, "D").mark == ""
    assert cell(made, "C", "Set5/psnr_y").gain is None


def test_rows_measured_on_different_images_are_not_compared():
    says = ("Set5, 5 of 5 as published", "not the published Set5: 5 images cropped")
    runs = [
        sweep(name, psnr, model(name), test_images={"Set5": text})
        for name, psnr, text in zip("AB", (32.0, 33.0), says, strict=True)
    ]
    made = experiment_table(runs)
    assert [cell(made, name, "Set5/psnr_y").rank for name in "AB"] == [0, 0]
    assert row(made, "B").against == ""
    assert "images: Set5, 5 of 5 as published" in made.head
    assert "warning: not the published Set5: 5 images cropped" in made.head
    assert "warning: the images of Set5 differ between rows" in made.head


def test_the_header_says_how_many_images_each_mean_covers():
    made = experiment_table([sweep("A", 32.0, model("A"), sets=("Set5", "mine"), count=7)])
    assert "images: Set5, 7 images | mine, 7 images" in made.head


def test_a_network_below_bicubic_gets_a_note():
    made = experiment_table([sweep("A", 28.0, model("A")), sweep("B", 28.5, model("B"))])
    assert "A x4: below bicubic on Set5 (28.00 instead of 28.43 dB)" in made.notes()
    assert not any(note.startswith("B") for note in made.notes())
