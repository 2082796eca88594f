import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting.runs import Run, find_runs, read_run
from sr_lab.reporting.settings import flat
from sr_lab.reporting.table import fixed, head, print_table, rows, to_csv
from sr_lab.run_folder import Listed, write_index


def values(name: str, scale: int = 4, **more: object) -> dict[str, object]:
    """What ``metrics.json`` of a finished training holds, shortened."""
    return {
        "run": name,
        "scale": scale,
        "budget": "smoke",
        "num_params": 715_176,
        "multi_adds": 40_900_000_000,
        "protocol_says": "rgb_uint8: as papers do.",
        "test/Set5/psnr_y": 32.205,
        "test/Set5/ssim_y": 0.89484,
        "bicubic/Set5/psnr_y": 28.429,
        "bicubic/Set5/ssim_y": 0.81114,
        "images": [{"image": "baby", "psnr_y": 33.0}],
    } | more


def run(name: str, scale: int = 4, **more: object) -> Run:
    return Run(Path(f"{name}-0123abcd"), values(name, scale, **more))


def write(folder: Path, **content: str) -> Path:
    """A run folder with these files."""
    folder.mkdir(parents=True)
    for name, text in content.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (2.345, 2, "2.35"),  # the float is below 2.345; papers round what they print
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


def test_a_row_has_name_scale_cost_and_the_figures_of_each_set():
    columns, cells = rows([run("imdn_x4")])
    assert columns == ["run", "scale", "params [K]", "multi-adds [G]", "Set5 PSNR", "Set5 SSIM"]
    assert cells[1] == ["imdn_x4", "x4", "715.2", "40.9", "32.21", "0.8948"]


def test_bicubic_stands_once_above_the_runs_of_a_scale():
    _, cells = rows([run("a", 4), run("b", 4), run("c", 2)])
    assert [row[:2] for row in cells] == [
        *(["bicubic", "x2"], ["c", "x2"], ["bicubic", "x4"], ["a", "x4"], ["b", "x4"])
    ]
    assert cells[0] == ["bicubic", "x2", "-", "-", "28.43", "0.8111"]


def test_a_set_that_a_run_did_not_measure_is_a_dash():
    other = run("b", **{"test/Set14/psnr_y": 28.5, "test/Set14/ssim_y": 0.78})
    columns, cells = rows([run("a"), other])
    assert columns[-2:] == ["Set14 PSNR", "Set14 SSIM"]
    assert cells[1][-2:] == ["-", "-"]
    assert cells[2][-2:] == ["28.50", "0.7800"]


def test_bicubic_is_shown_for_a_set_that_only_a_later_run_measured():
    other = run("b", **{"test/Set14/psnr_y": 28.5, "bicubic/Set14/psnr_y": 26.0, "bicubic/Set14/ssim_y": 0.7})
    _, cells = rows([run("a"), other])
    assert cells[0][-2:] == ["26.00", "0.7000"]


def test_the_papers_counting_and_the_time_have_columns_where_they_are_known():
    columns, cells = rows([run("a", multi_adds_paper=40_800_000_000, wall_time_s=59.6), run("b")])
    assert (columns[4], columns[-1]) == ("paper [G]", "time [s]")
    assert [(row[4], row[-1]) for row in cells] == [("-", "-"), ("40.8", "60"), ("-", "-")]


def test_failed_and_unfinished_runs_have_a_row_as_wide_as_the_others():
    failed, unfinished = Run(Path("b-1"), problem="failed: too bad"), Run(Path("c-2"), problem="unfinished")
    columns, cells = rows([run("a"), failed, unfinished])
    assert ["b", "-", "failed: too bad", "", "", ""] in cells
    assert {len(row) for row in cells} == {len(columns)}


def test_runs_without_any_measurement_make_a_table():
    counted = {key: value for key, value in values("a").items() if "/" not in key}
    columns, cells = rows([Run(Path("a"), counted)])
    assert (len(columns), len(cells)) == (4, 1)


def test_the_head_says_protocol_budget_device_and_commit():
    made = {"device": "CPU, 1 threads", "commit": "0123456789abcdef", "dirty": True}
    assert head([run("a", **made), run("b", **made)]) == [
        "protocol: rgb_uint8: as papers do.",
        "budget: smoke",
        "device: CPU, 1 threads",
        "commit: 01234567 with local changes",
    ]


def test_the_head_warns_when_budgets_differ():
    assert "warning: budgets differ between rows" in head([run("a"), run("b", budget="paper")])
    assert not any("warning" in line for line in head([run("a"), run("b")]))


def test_the_head_says_who_stopped_early_and_who_skipped_steps():
    lines = head(
        [
            run("a", steps=6, skipped_steps=0),
            run("b", steps=2, planned_steps=6),
            run("c", steps=6, skipped_steps=5),
        ]
    )
    assert "stopped early: b at step 2 of 6" in lines
    assert [line for line in lines if "skipped" in line] == [
        "steps skipped, of which loss or gradient was no number: c 5 of 6"
    ]


def test_csv_gives_every_figure_back_unrounded():
    (row,) = csv.DictReader(io.StringIO(to_csv([run("a,b")])))
    assert (row["run"], row["folder"]) == ("a,b", "a,b-0123abcd")
    assert float(row["test/Set5/psnr_y"]) == 32.205
    assert "images" not in row


def test_csv_holds_no_formula():
    (row,) = csv.DictReader(io.StringIO(to_csv([run("=cmd|' /C calc'!A0", gain=-0.5)])))
    assert (row["run"], row["gain"]) == ("'=cmd|' /C calc'!A0", "-0.5")


def test_the_head_says_seeds_and_warns_when_protocols_differ():
    lines = head([run("a", seed=1, protocol="rgb_uint8"), run("b", seed=0, protocol="classic_y")])
    assert "seeds: 0, 1" in lines
    assert "warning: protocols differ between rows" in lines


def test_csv_has_a_row_for_a_failed_run():
    ok, failed = csv.DictReader(io.StringIO(to_csv([run("a"), Run(Path("b-1"), problem="failed: no")])))
    assert (ok["problem"], failed["problem"], failed["run"]) == ("", "failed: no", "")


def test_numbers_are_never_squeezed_on_a_narrow_terminal():
    narrow = Console(file=io.StringIO(), width=40)
    print_table([run("a_run_with_a_very_long_name_seed=1")], narrow)
    shown = narrow.file.getvalue()
    assert "…" not in shown
    for text in ("a_run_with_a_very_long_name_seed=1", "715.2", "32.21", "0.8948"):
        assert text in shown


def test_names_are_no_markup_on_the_terminal():
    console = Console(file=io.StringIO(), width=200)
    print_table([run("kernels=[red]")], console)
    assert "kernels=[red]" in console.file.getvalue()


def test_a_finished_run_is_read(tmp_path):
    folder = write(tmp_path / "a-1", metrics_json=json.dumps(values("a")))
    read = read_run(folder)
    assert (read.name, read.scale, read.sets, read.problem) == ("a", 4, ["Set5"], "")


def test_a_failed_run_says_why(tmp_path):
    folder = write(tmp_path / "a_seed=1-12", failed_txt="Traceback\n  line\nValueError: too bad\n")
    read = read_run(folder)
    assert (read.name, read.problem) == ("a_seed=1", "failed: ValueError: too bad")


def test_a_sentence_of_ours_stands_without_the_name_of_its_class(tmp_path):
    folder = write(tmp_path / "a-1", failed_txt="Traceback\nsr_lab.errors.DataError: benchmark: no\n")
    assert read_run(folder).problem == "failed: benchmark: no"


def test_a_failed_run_of_a_sweep_says_which_row_it_is(tmp_path):
    settings = "scale: 4\nseed: 2\nrow_label: '101'\ntable: {paper: osffnet, name: table2}\n"
    read = read_run(write(tmp_path / "a-1", failed_txt="Error: no", config_yaml=settings))
    assert (read.labels, read.table, read.scale, read.seed) == (("101",), ("osffnet", "table2"), 4, 2)


def test_rows_that_are_one_and_the_same_run_are_all_told(tmp_path):
    settings = "row_label: plain\ntable: {paper: osffnet, name: table2}\n"
    write(tmp_path / "a-1", config_yaml=settings)
    write_index(tmp_path, [Listed("a-1", "plain", []), Listed("a-1", "full", []), Listed("b-2", "other", [])])
    assert read_run(tmp_path / "a-1").labels == ("plain", "full")


def test_a_setting_that_stands_twice_is_told_once(tmp_path):
    settings = "seed: 1\nlearning_rate: 0.5\noptimizer: {lr: %s, eps: 1}\ndataset: {seed: %s}\n"
    repeated = flat(read_run(write(tmp_path / "a-1", config_yaml=settings % (0.5, 1))))
    assert repeated == {"learning_rate": "0.5", "optimizer.eps": "1"}
    own = flat(read_run(write(tmp_path / "b-1", config_yaml=settings % (0.1, 2))))
    assert own == repeated | {"optimizer.lr": "0.1", "dataset.seed": "2"}


def test_a_damaged_configuration_is_no_reason_to_fail(tmp_path):
    read = read_run(write(tmp_path / "a-1", config_yaml="{", metrics_json=json.dumps(values("a"))))
    assert (read.problem, read.settings) == ("", {})


def test_a_run_that_has_only_begun_is_unfinished(tmp_path):
    assert read_run(write(tmp_path / "a-1", config_yaml="")).problem == "unfinished"


@pytest.mark.parametrize("text", ["{", "", "[]"])
def test_a_damaged_result_is_a_problem_of_its_run_only(tmp_path, text):
    assert "metrics.json cannot be read" in read_run(write(tmp_path / "a-1", metrics_json=text)).problem


def test_an_empty_traceback_is_still_a_failure(tmp_path):
    assert read_run(write(tmp_path / "a-1", failed_txt="")).problem.startswith("failed")


def test_runs_are_found_below_a_folder_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b-1", metrics_json=json.dumps(values("b")))
    write(tmp_path / "a-1", config_yaml="")
    write(tmp_path / "deep" / "c-1", failed_txt="x")
    assert [found.path.name for found in find_runs(tmp_path)] == ["a-1", "b-1", "c-1"]


def test_a_run_folder_is_found_as_itself(tmp_path):
    write(tmp_path / "b-1", metrics_json=json.dumps(values("b")))
    assert [found.path for found in find_runs(tmp_path / "b-1")] == [tmp_path / "b-1"]


def test_what_a_dashboard_writes_inside_a_run_is_no_run(tmp_path):
    folder = write(tmp_path / "a-1", metrics_json=json.dumps(values("a")))
    write(folder / "wandb" / "run-1" / "files", config_yaml="")
    assert [found.path.name for found in find_runs(tmp_path)] == ["a-1"]


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_without_runs_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"runs: no run folder in '.*{name}'"):
        find_runs(tmp_path / name)


def test_reporting_needs_no_torch():
    code = (
        "import sys; sys.modules.update(torch=None, lightning=None, hydra=None)\n"
        "import sr_lab.reporting.results, sr_lab.reporting.latex, sr_lab.reporting.readme, sr_lab.run_folder"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
