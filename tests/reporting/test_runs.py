import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting.experiment import experiment_table, print_runs
from sr_lab.reporting.runs import Run, find_runs, read_run
from sr_lab.reporting.safe_csv import runs_to_csv
from sr_lab.reporting.settings import differences, flat
from sr_lab.reporting.table import lines, titles
from sr_lab.run_folder import Listed, write_index


def values(name: str, scale: int = 4, **more: object) -> dict[str, object]:
    """Shortened content of ``metrics.json`` for a finished training run."""
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
    """Write a run folder with these files."""
    folder.mkdir(parents=True)
    for name, text in content.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def shown(*runs: Run) -> list[list[str]]:
    """The table of runs as text: titles, then rows."""
    table = experiment_table(runs)
    return [titles(table), *(line.texts for line in lines(table))]


def test_a_row_has_the_name_scale_cost_and_figures_of_each_set():
    heads, _, row = shown(run("imdn_x4"))
    assert heads == ["run", "scale", "params [K]", "multi-adds [G]", "Set5 PSNR", "Set5 SSIM"]
    assert row == ["imdn", "x4", "715.2", "40.9", "32.21", "0.8948"]


def test_a_bicubic_row_is_above_the_runs_of_each_scale():
    _, *rows = shown(run("a", 4), run("b", 4), run("c", 2))
    assert [row[:2] for row in rows] == [
        *(["bicubic", "x2"], ["c", "x2"], ["bicubic", "x4"], ["a", "x4"], ["b", "x4"])
    ]
    assert rows[0] == ["bicubic", "x2", "-", "-", "28.43", "0.8111"]


def test_every_set_measured_by_a_run_has_columns_for_all_runs_and_bicubic():
    more = {"test/Set14/psnr_y": 28.5, "test/Set14/ssim_y": 0.78, "bicubic/Set14/psnr_y": 26.0}
    heads, bicubic, first, second = shown(run("a"), run("b", **more))
    assert heads[-2:] == ["Set14 PSNR", "Set14 SSIM"]
    assert [row[-2:] for row in (bicubic, first, second)] == [["26.00", "-"], ["-", "-"], ["28.50", "0.7800"]]


def test_measured_costs_have_columns():
    heads, *rows = shown(run("a", peak_memory_bytes=2**20, wall_time_s=59.6), run("b"))
    assert heads[-2:] == ["memory [MiB]", "duration [s]"]
    assert [row[-2:] for row in rows] == [["-", "-"], ["1", "60"], ["-", "-"]]


def test_a_count_by_the_papers_rule_is_not_shown_as_printed():
    heads, *_ = shown(run("a", multi_adds_paper=40_800_000_000, multi_adds_by_rule=40_800_000_000))
    assert [head for head in heads if "[G]" in head] == ["multi-adds [G]"]


def test_printed_multiply_adds_have_a_column_and_a_footnote_for_each_rule():
    made = experiment_table(
        [
            run("osffnet", option="osffnet", num_params=536_503, multi_adds=29_277_916_544),
            run("imdn", option="imdn", num_params=715_176, multi_adds=40_885_865_472),
            run("wide", option="imdn", num_params=805_000, multi_adds=46_000_000_000),
        ]
    )
    columns = [column.head for column in made.columns]
    ours, printed = columns.index("multi-adds [G]"), columns.index("printed multi-adds [G]")
    texts = {
        row.label: [row.cells[n].shown(made.columns[n]) for n in (ours, printed)]
        for row in made.rows
        if not row.is_reference
    }
    assert texts == {"osffnet": ["29.3", "22.0 a"], "imdn": ["40.9", "40.9 b"], "wide": ["46.0", "-"]}
    assert [note[:12] for note in made.notes()[1:]] == ["a: torchinfo", "b: weights o"]
    assert "multi-adds: all operations at an output of 1280x720" in made.head


def test_a_time_that_was_measured_repeatedly_has_its_quartiles():
    quartiles = {"cpu_s_per_megapixel": 5.534, "cpu_s_per_megapixel_q1": 5.5, "cpu_s_per_megapixel_q3": 5.6}
    heads, _, row = shown(run("a", **quartiles))
    assert (heads[-1], row[-1]) == ("CPU [s/MP]", "5.53 (5.50 to 5.60)")


def test_failed_and_unfinished_runs_have_a_row():
    failed, unfinished = Run(Path("b-1"), problem="failed: too bad"), Run(Path("c-2"), problem="unfinished")
    _, *rows = shown(run("a"), failed, unfinished)
    assert {"b (failed)", "c (unfinished)"} < {row[0] for row in rows}


def test_runs_without_any_measurement_still_give_a_table():
    counted = {key: value for key, value in values("a").items() if "/" not in key}
    assert len(shown(Run(Path("a"), counted))) == 2


def head(*runs: Run) -> tuple[str, ...]:
    return experiment_table(runs).head


def test_the_header_gives_the_protocol_budget_device_and_commit():
    made = {"device": "CPU, 1 threads", "commit": "0123456789abcdef", "dirty": True}
    assert head(run("a", **made), run("b", **made))[:4] == (
        "protocol: rgb_uint8: as papers do.",
        "budget: smoke",
        "device: CPU, 1 threads",
        "commit: 01234567 with local changes",
    )


def test_the_header_warns_if_budgets_or_protocols_differ():
    budgets = head(run("a"), run("b", budget="paper"))
    assert "warning: budgets differ between rows" in budgets
    assert "warning: protocols differ between rows" not in budgets
    protocols = head(run("a", seed=1, protocol="rgb_uint8"), run("b", seed=0, protocol="classic_y"))
    assert {"seeds: 0, 1", "warning: protocols differ between rows"} < set(protocols)
    assert not any("warning" in line for line in head(run("a"), run("b")))


def test_the_header_names_runs_that_stopped_early_or_skipped_steps():
    found = head(
        run("a", steps=6, skipped_steps=0),
        run("b", steps=2, planned_steps=6),
        run("c", steps=6, skipped_steps=5),
    )
    assert "stopped early: b at step 2 of 6" in found
    assert [line.partition(": ")[2] for line in found if "skipped" in line] == ["c 5 of 6"]


def test_csv_contains_every_figure_unrounded_and_no_formula():
    runs = [run("a,b"), run("=cmd|' /C calc'!A0", gain=-0.5), Run(Path("b-1"), problem="failed: no")]
    comma, formula, failed = csv.DictReader(io.StringIO(runs_to_csv(runs)))
    assert (comma["run"], comma["folder"], comma["problem"]) == ("a,b", "a,b-0123abcd", "")
    assert float(comma["test/Set5/psnr_y"]) == 32.205
    assert "images" not in comma
    assert (formula["run"], formula["gain"]) == ("'=cmd|' /C calc'!A0", "-0.5")
    assert (failed["problem"], failed["run"]) == ("failed: no", "")


def test_a_narrow_terminal_truncates_no_number_and_a_name_is_not_parsed_as_markup():
    narrow = Console(file=io.StringIO(), width=40)
    print_runs([run("a_run_with_a_very_long_name_kernels=[red]")], narrow)
    text = narrow.file.getvalue()
    assert "…" not in text
    for part in ("a_run_with_a_very_long_name_kernels=[red]", "715.2", "32.21", "0.8948"):
        assert part in text


def test_a_finished_run_is_read(tmp_path):
    folder = write(tmp_path / "a-1", metrics_json=json.dumps(values("a")))
    read = read_run(folder)
    assert (read.name, read.scale, read.sets, read.problem) == ("a", 4, ["Set5"], "")


def test_a_failed_run_gives_the_reason_for_its_failure(tmp_path):
    folder = write(tmp_path / "a_seed=1-12", failed_txt="Traceback\n  line\nValueError: too bad\n")
    read = read_run(folder)
    assert (read.name, read.problem) == ("a_seed=1", "failed: ValueError: too bad")


def test_an_sr_lab_error_is_shown_without_the_name_of_its_class(tmp_path):
    folder = write(tmp_path / "a-1", failed_txt="Traceback\nsr_lab.errors.DataError: benchmark: no\n")
    assert read_run(folder).problem == "failed: benchmark: no"


def test_a_failed_run_of_a_sweep_records_its_row(tmp_path):
    settings = "scale: 4\nseed: 2\nrow_label: '101'\ntable: {paper: osffnet, name: table2}\n"
    read = read_run(write(tmp_path / "a-1", failed_txt="Error: no", config_yaml=settings))
    assert (read.labels, read.table, read.scale, read.seed) == (("101",), ("osffnet", "table2"), 4, 2)


def test_a_run_shared_by_several_rows_has_the_labels_of_all_of_them(tmp_path):
    settings = "row_label: plain\ntable: {paper: osffnet, name: table2}\n"
    write(tmp_path / "a-1", config_yaml=settings)
    write_index(tmp_path, [Listed("a-1", "plain", []), Listed("a-1", "full", []), Listed("b-2", "other", [])])
    assert read_run(tmp_path / "a-1").labels == ("plain", "full")


def test_a_run_whose_settings_were_never_written_differs_in_none(tmp_path):
    """Under a launcher of Hydra, a job may fail before it writes its ``config.yaml``."""
    write(
        tmp_path / "a-1", config_yaml="model: {_target_: sr_lab.models.imdn.IMDN, num_feat: 16}\nscale: 4\n"
    )
    (tmp_path / "b-1").mkdir()
    (tmp_path / "b-1" / "failed.txt").write_text("ConfigError: CCA: num_feat=8 leaves no channel")
    runs = [read_run(tmp_path / name) for name in ("a-1", "b-1")]
    assert differences(runs) == [{}, {}]


def test_a_repeated_setting_is_listed_once(tmp_path):
    settings = "seed: 1\nlearning_rate: 0.5\noptimizer: {lr: %s, eps: 1}\ndataset: {seed: %s}\n"
    repeated = flat(read_run(write(tmp_path / "a-1", config_yaml=settings % (0.5, 1))))
    assert repeated == {"learning_rate": "0.5", "optimizer.eps": "1"}
    own = flat(read_run(write(tmp_path / "b-1", config_yaml=settings % (0.1, 2))))
    assert own == repeated | {"optimizer.lr": "0.1", "dataset.seed": "2"}


def test_a_run_with_a_damaged_configuration_is_read(tmp_path):
    read = read_run(write(tmp_path / "a-1", config_yaml="{", metrics_json=json.dumps(values("a"))))
    assert (read.problem, read.settings) == ("", {})


def test_a_run_without_results_is_unfinished(tmp_path):
    assert read_run(write(tmp_path / "a-1", config_yaml="")).problem == "unfinished"


@pytest.mark.parametrize("text", ["{", "", "[]"])
def test_damaged_results_are_reported_as_a_problem(tmp_path, text):
    assert "metrics.json cannot be read" in read_run(write(tmp_path / "a-1", metrics_json=text)).problem


def test_an_empty_traceback_is_still_a_failure(tmp_path):
    assert read_run(write(tmp_path / "a-1", failed_txt="")).problem.startswith("failed")


def test_runs_below_a_folder_are_found_and_sorted_by_name(tmp_path):
    write(tmp_path / "b-1", metrics_json=json.dumps(values("b")))
    write(tmp_path / "a-1", config_yaml="")
    write(tmp_path / "deep" / "c-1", failed_txt="x")
    assert [found.path.name for found in find_runs(tmp_path)] == ["a-1", "b-1", "c-1"]


def test_a_run_folder_given_directly_is_found(tmp_path):
    write(tmp_path / "b-1", metrics_json=json.dumps(values("b")))
    assert [found.path for found in find_runs(tmp_path / "b-1")] == [tmp_path / "b-1"]


def test_a_wandb_folder_inside_a_run_is_not_a_run(tmp_path):
    folder = write(tmp_path / "a-1", metrics_json=json.dumps(values("a")))
    write(folder / "wandb" / "run-1" / "files", config_yaml="")
    assert [found.path.name for found in find_runs(tmp_path)] == ["a-1"]


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_without_runs_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"runs: no run folder in '.*{name}'"):
        find_runs(tmp_path / name)


def test_the_jobs_of_a_sweep_are_found_in_its_order(tmp_path):
    """Otherwise the report and the sweep could disagree on the first row, which is the baseline."""
    for name in ("a-1", "b-2", "c-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    write_index(tmp_path, [Listed("c-3", None, []), Listed("a-1", None, [])])
    assert [found.path.name for found in find_runs(tmp_path)] == ["c-3", "a-1", "b-2"]


def test_an_exact_image_makes_the_mean_infinite_and_the_table_says_so(tmp_path):
    image = {"set_name": "Set5", "image": "a", "psnr_y": None, "ssim_y": 1.0, "bicubic_psnr_y": 30.0}
    for name, exact in (("exact", {"test/Set5/psnr_y": None}), ("plain", {})):
        (tmp_path / name).mkdir()
        content = values(name) | exact | ({"images": [image]} if exact else {})
        (tmp_path / name / "metrics.json").write_text(json.dumps(content))
    made = experiment_table(find_runs(tmp_path))
    (column,) = [n for n, column in enumerate(made.columns) if column.key == "Set5/psnr_y"]
    rows = {row.label: row.cells[column].value for row in made.rows}
    assert rows["exact"] == float("inf")
    assert "exact x4: PSNR on Set5 is infinite: 1 exact image" in made.notes()


def test_a_psnr_that_was_not_a_number_does_not_become_infinite(tmp_path):
    content = {"test/Set5/psnr_y": None, "test/Set5/ssim_y": None}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert read_run(tmp_path).number("test/Set5/psnr_y") is None
