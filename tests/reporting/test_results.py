"""The results.csv of each paper, the table in the README, and tables as CSV."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from sr_lab.errors import ConfigError
from sr_lab.reporting import published, readme
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.results import COLUMNS, read_results, write_results
from sr_lab.reporting.runs import Run
from sr_lab.reporting.safe_csv import csv_text, harmless, original, table_to_csv
from tests import report_runs
from tests.report_runs import FIVE

TABLE_1 = {"paper": "osffnet", "name": "table1"}


def finished(label: str | None, psnr: float, **more: object) -> Run:
    """A finished run that was measured on the published images."""
    images = {name: f"{name}, 8 of 8 as published" for name in FIVE}
    return report_runs.finished(label, psnr, **({"test_images": images} | more))


def found(root: Path, **like: str) -> list[dict[str, str]]:
    lines = read_results(root / "osffnet" / "results.csv")
    return [line for line in lines if like.items() <= line.items()]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-x", "@SUM(A1)", "\t=1"])
def test_a_formula_is_stored_as_text_and_restored(text):
    assert harmless(text) == f"'{text}"
    assert original(str(harmless(text))) == text


@pytest.mark.parametrize("text", ["OSFFNet", "'quoted'", "1-2", ""])
def test_other_text_is_not_changed(text):
    assert harmless(text) == text == original(text)


def test_negative_numbers_stay_numbers():
    assert csv_text(["a", "b"], [{"a": -0.5, "b": None}]) == "a,b\n-0.5,\n"


def test_a_table_as_csv_contains_every_number_unrounded():
    runs = [finished("000", 31.9), finished("111", 32.123456789), finished("111", 32.2, seed=1)]
    lines = list(csv.DictReader(io.StringIO(table_to_csv(experiment_table(runs)))))
    (line,) = [own for own in lines if (own["row"], own["set"], own["column"]) == ("111", "Set5", "PSNR")]
    mean = (32.123456789 + 32.2) / 2
    assert float(line["value"]) == pytest.approx(mean, abs=1e-12)
    assert float(line["std"]) == pytest.approx(abs(32.123456789 - 32.2) / 2**0.5, abs=1e-12)
    assert (line["n"], line["paper"], line["rank"], line["baseline"]) == ("2", "32.25", "1", "000")
    assert float(line["difference"]) == pytest.approx(mean - 32.25, abs=1e-12)
    assert float(line["baseline_difference"]) == pytest.approx(mean - 31.9, abs=1e-12)
    assert float(line["p_holm"]) == pytest.approx(2 / 2**8)


def test_a_table_as_csv_lists_every_row_with_its_problem():
    lines = list(csv.DictReader(io.StringIO(table_to_csv(experiment_table([finished("=1+1", 32.2)])))))
    assert {own["of"] for own in lines} == {"bicubic", "ours", "paper"}
    assert {own["problem"] for own in lines if own["of"] == "paper"} == {"not run"}
    assert "'=1+1" in {own["row"] for own in lines}


def test_results_are_written_with_their_run_commit_and_hardware(tmp_path):
    runs = [finished("111", 32.0, budget="paper (auto)"), finished("111", 32.5, seed=1, dirty=True)]
    runs[1].values["budget"] = "paper (auto)"
    (path,) = write_results([*runs, finished(None, 1.0)], tmp_path)
    assert path == tmp_path / "osffnet" / "results.csv"
    (line,) = found(tmp_path, row="111", set="Set5", metric="psnr_y")
    assert (line["table"], line["model"], line["scale"], line["paper"]) == ("table2", "osffnet", "4", "32.25")
    assert (float(line["value"]), line["n"], line["budget"]) == (32.25, "2", "paper")
    assert line["commit"] == "0123456789abcdef|0123456789abcdef+"
    assert line["run"] == "osffnet_x4_111-00000000|osffnet_x4_111-00000001"
    assert (line["hardware"], line["date"]) == ("CPU, 1 threads", "2026-01-01T00:00:00+00:00")
    assert float(found(tmp_path, metric="num_params_k")[0]["value"]) == 536.5


def test_new_results_are_merged_and_replace_older_values_of_the_same_figures(tmp_path):
    write_results([finished("000", 31.0), finished("111", 32.0)], tmp_path)
    write_results([finished("111", 32.5), finished("111", 29.0, budget="smoke", seed=3)], tmp_path)
    values = {
        (line["row"], line["budget"]): float(line["value"]) for line in found(tmp_path, metric="psnr_y")
    }
    assert values == {("000", "paper"): 31.0, ("111", "paper"): 32.5, ("111", "smoke"): 29.0}
    assert [path.name for path in (tmp_path / "osffnet").iterdir()] == ["results.csv"]


def test_a_changed_recipe_counts_as_another_budget_and_is_not_in_the_readme(tmp_path):
    own = finished("OSFFNet", 32.0, table=TABLE_1)
    write_results([own], tmp_path)
    before = readme.section(tmp_path)
    given = ("row=0", "seed=1", "budget=paper", "steps=100", "+model.num_feat=8", "dataset.hr_dir=x")
    write_results([own, dataclasses.replace(own, overrides=given)], tmp_path)
    lines = found(tmp_path, row="OSFFNet", metric="psnr_y")
    assert [line["budget"] for line in lines] == ["paper", "paper steps=100 +model.num_feat=8"]
    assert readme.section(tmp_path) == before


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"protocol": "classic_y"},
            "was measured with classic_y; the protocol of the papers' tables is rgb_uint8",
        ),
        ({"protocol": "rgb_uint8 on given LR"}, "was measured with rgb_uint8 on given LR; the protocol"),
        (
            {"test_images": {"Set5": "not the published Set5: 1 image cropped, 4 as published"}},
            "was measured on images other than the papers' (not the published Set5: 1 image cropped",
        ),
        ({"test_images": {}}, "has no record of whether its images of Set5 are the published ones"),
    ],
)
def test_a_run_that_was_not_measured_as_in_the_papers_is_left_out(tmp_path, more, why):
    write_results([finished("111", 32.0), finished("000", 31.0)], tmp_path)
    said: list[str] = []
    write_results([finished("111", 29.0, **more), finished("000", 31.5)], tmp_path, said.append)
    values = {line["row"]: float(line["value"]) for line in found(tmp_path, metric="psnr_y")}
    assert values == {"000": 31.5, "111": 32.0}
    assert [line.partition(": it ")[2][: len(why)] for line in said] == [why]
    with pytest.raises(ConfigError, match="that was measured as in the papers"):
        write_results([finished("111", 29.0, **more)], tmp_path)


def test_choosing_the_best_checkpoint_on_test_sets_counts_as_another_budget(tmp_path):
    run = finished("OSFFNet", 32.0, table=TABLE_1)
    chosen = dataclasses.replace(run, settings={**run.settings, "validation": {"sets": ["Set5", "Set14"]}})
    write_results([chosen], tmp_path)
    assert {line["budget"] for line in found(tmp_path)} == {"paper validation.sets=[Set5,Set14]"}
    write_results([run], tmp_path)
    assert {line["budget"] for line in found(tmp_path)} > {"paper"}


def test_writing_the_same_results_again_changes_nothing(tmp_path):
    (path,) = write_results([finished("000", 31.0), finished("111", 32.0)], tmp_path)
    before = path.read_bytes()
    write_results([finished("111", 32.0), finished("000", 31.0)], tmp_path)
    assert path.read_bytes() == before


def test_runs_outside_the_papers_tables_give_no_results(tmp_path):
    with pytest.raises(ConfigError, match="write_results: no run here is a finished row of a paper's table"):
        write_results([finished(None, 32.0)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_columns_is_not_changed(tmp_path):
    path = tmp_path / "osffnet" / "results.csv"
    path.parent.mkdir()
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="does not have the columns"):
        write_results([finished("111", 32.0)], tmp_path)
    assert path.read_text() == "a,b\n1,2\n"


def test_the_readme_says_that_nothing_was_trained(tmp_path):
    assert readme.section(tmp_path) == "Nothing has been trained at a paper's full budget yet."
    write_results([finished("OSFFNet", 32.0, table=TABLE_1, budget="smoke")], tmp_path)
    assert readme.section(tmp_path) == "Nothing has been trained at a paper's full budget yet."


def test_the_readme_shows_the_network_of_a_paper_with_the_printed_figures(tmp_path):
    runs = [finished("OSFFNet", 32.0 + seed, table=TABLE_1, seed=seed, sets=FIVE) for seed in range(2)]
    write_results([*runs, finished("111", 32.0)], tmp_path)
    lines = readme.section(tmp_path).splitlines()
    assert [line for line in lines if line.startswith("| OSFFNet")] == [
        r"| OSFFNet x4, osffnet table1 | 32.50 ± 0.71 / 0.8900 (32.39 / 0.8976) | "
        "32.50 ± 0.71 / 0.8900 (28.75 / 0.7852) | 32.50 ± 0.71 / 0.8900 (27.66 / 0.7393) | "
        "32.50 ± 0.71 / 0.8900 (26.36 / 0.7950) | 32.50 ± 0.71 / 0.8900 (30.84 / 0.9125) | "
        "2 | 01234567 | CPU, 1 threads |"
    ]
    assert lines[-1] == "Further rows of the papers' tables: 1 in `experiments/osffnet/results.csv`."


def test_the_readme_is_filled_between_its_markers(tmp_path):
    text = f"above\n{readme.BEGIN}\nold\n{readme.END}\nbelow\n"
    assert readme.filled(text, tmp_path) == (
        f"above\n{readme.BEGIN}\n{readme.section(tmp_path)}\n{readme.END}\nbelow\n"
    )
    with pytest.raises(ConfigError, match=r"README.md: needs one '<!-- results -->'"):
        readme.filled("nothing", tmp_path)


def test_the_readme_agrees_with_the_results():
    root = published.experiments_dir()
    text = (root.parent / "README.md").read_text()
    assert readme.filled(text, root) == text, "run: make table"


def test_every_results_file_can_be_read_and_names_tables_of_its_paper():
    for paper in published.papers():
        tables = {figure.table for figure in published.figures() if figure.paper == paper}
        path = published.experiments_dir() / paper / "results.csv"
        assert {line["table"] for line in read_results(path)} <= tables


def test_the_columns_of_results_do_not_change():
    assert ",".join(COLUMNS) == (
        "table,row,model,scale,set,metric,value,std,n,paper,run,commit,hardware,date,budget"
    )


@pytest.mark.parametrize("paper", ["../outside", "{folder}/outside", "nobody"])
def test_no_run_decides_into_which_folder_results_are_written(tmp_path, paper):
    """``metrics.json`` names the paper, and may be untrusted."""
    table = {"paper": paper.format(folder=tmp_path), "name": "table2"}
    with pytest.raises(ConfigError, match="no run here is a finished row of a paper's table"):
        write_results([finished("111", 32.0, table=table)], tmp_path / "root")
    assert list(tmp_path.iterdir()) == []
