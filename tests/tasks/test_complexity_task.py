"""``task=complexity`` measures a network as it runs after training; a sweep ends with a table and a plot."""

import csv
import json

import pytest
import torch

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import ConfigError
from sr_lab.layers.reparam import RepConv
from sr_lab.reporting import saved_images
from sr_lab.reporting.runs import read_run
from sr_lab.tasks import common, complexity
from tests.command_line import sr_lab
from tests.composing import compose
from tests.report_runs import folder as written
from tests.report_runs import values


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Folder and output of a sweep over two networks; papers list the PSNR of one of them."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ("task=complexity", "trainer=cpu", "model=ecbsr_m4c16,srcnn", "scale=4", "paths.data_dir=a,b")
    done = sr_lab(folder, "-m", *words)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "complexity", done.stdout


def values_of(folder, name):
    (metrics,) = folder.glob(f"{name}_x4-*/metrics.json")
    return json.loads(metrics.read_text())


def test_a_job_that_equals_an_earlier_job_is_not_repeated(swept):
    folder, said = swept
    names = {path.parent.name for path in folder.glob("*/metrics.json")}
    assert len(names) == 2
    assert all(said.count(f"are the same run, which runs once: {name}") == 1 for name in names)


def test_a_network_is_counted_after_folding(swept):
    values = values_of(swept[0], "ecbsr_m4c16")
    assert values["num_params"] == 11_840
    assert values["num_params_training"] > 2 * values["num_params"]


def test_the_time_is_measured_on_the_folded_network(monkeypatch, tmp_path):
    """The branches of an ECB would cost four times as much."""
    timed = []
    monkeypatch.setattr(complexity, "cpu_time", lambda network, scale: timed.append(network) or {})
    monkeypatch.setattr(complexity, "provenance", lambda config, folder: {})
    monkeypatch.setattr(complexity.common, "in_multirun", lambda: True)
    complexity.run(compose("task=complexity", "trainer=cpu", "model=ecbsr_m4c16"), tmp_path, [])
    assert all(part.folded is not None for part in timed[0].modules() if isinstance(part, RepConv))


@pytest.mark.parametrize("word", ["psnr_set=Set5", "runs=x"])
def test_a_setting_of_the_plot_is_refused_where_there_is_no_plot(tmp_path, word):
    with pytest.raises(ConfigError, match=rf"{word.partition('=')[0]}: is used only by a multirun"):
        complexity.run(compose("task=complexity", "trainer=cpu", word), tmp_path / "run", [word])
    assert not (tmp_path / "run").exists()


def test_every_column_has_a_value(swept):
    values = values_of(swept[0], "srcnn")
    assert values["option"] == "srcnn"
    assert values["activations"] == (64 + 32 + 1) * 1280 * 720
    assert values["peak_memory_bytes"] > 96 * 1280 * 720 * 4  # 64 and 32 feature maps at the same time
    assert (
        values["cpu_s_per_megapixel_q1"] <= values["cpu_s_per_megapixel"] <= values["cpu_s_per_megapixel_q3"]
    )


def test_a_sweep_ends_with_a_table_a_csv_file_and_a_plot(swept):
    folder, out = swept
    with (folder / "complexity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["option"] for row in rows] == ["ecbsr_m4c16", "srcnn"]
    assert (folder / "complexity_x4.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "complexity_x4.pdf").read_bytes().startswith(b"%PDF")
    (line,) = csv.DictReader((folder / "complexity_x4.csv").read_text().splitlines())
    assert (line["network"], line["psnr_from"], float(line["time"]) > 0) == ("srcnn", "paper", True)
    assert "glyph" not in out.lower()  # fontTools is quiet
    assert "no paper prints their PSNR on Urban100): ecbsr_m4c16" in out
    assert "CPU: eager float32 passes with an output of 640x360" in out


def test_a_row_of_a_table_is_drawn_with_what_the_table_prints(tmp_path, monkeypatch):
    """A row's network is that of its settings, not the experiment's own network."""
    config = compose("experiment=efrdn/fig7_tradeoff", "row=2", "scale=4", "trainer=cpu")
    about = {"task": "complexity", "scale": 4, "device": "CPU", "row": config.row_label}
    about["table"] = {"paper": "efrdn", "name": "table1"}
    monkeypatch.setattr(complexity, "cpu_time", lambda network, scale: {"cpu_s_per_megapixel": 5.0})
    monkeypatch.setattr(complexity, "provenance", lambda config, folder: about)
    monkeypatch.setattr(complexity.common, "in_multirun", lambda: True)
    complexity.run(config, tmp_path / "imdn_x4", [])
    assert json.loads((tmp_path / "imdn_x4" / "metrics.json").read_text())["option"] == "imdn"
    complexity.collect(config, [tmp_path / "imdn_x4"])
    (line,) = csv.DictReader((tmp_path / "complexity_x4.csv").read_text().splitlines())
    assert (line["network"], line["time"], line["psnr_db"]) == ("IMDN", "5.0", "32.21")


def test_costs_are_added_to_the_rows_of_trained_networks(tmp_path, capsys):
    row = {"table": {"paper": "two_strategies", "name": "table1"}, "sets": ("Set5",)}
    for name, label, own in (
        ("trained", "Baseline", {}),
        ("trained_too", "Baseline+CA", {}),
        ("cost", "Baseline", {"task": "complexity", "gpu_ms": 4.0}),
        ("cost_too", "Baseline+CA", {"task": "complexity", "gpu_ms": 9.0}),
        ("cost_alone", "Baseline+SA", {"task": "complexity", "gpu_ms": 5.0}),
    ):
        written(tmp_path, name, **values(label, 31.5, **row, **own))
    written(tmp_path, "unfinished", settings="scale: 4\nrow_label: Baseline+SA\n")
    config = compose("task=complexity", "trainer=cpu")
    complexity.collect(config, [tmp_path / name for name in ("cost", "cost_too", "cost_alone")])
    shown = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = {line[1]: line for line in shown if len(line) > 5}
    ours = {name: rows[name][5:8] for name in ("Baseline", "Baseline+CA", "Baseline+SA")}
    assert ours["Baseline"] == ["31.50", "4.0", "0.0"]
    assert ours["Baseline+CA"] == ["31.50 (0.00)", "9.0", "125.0"]
    assert ours["Baseline+SA"][1:] == ["5.0", "25.0"]
    names = saved_images.names([read_run(tmp_path / name) for name in ("cost", "trained")])
    assert names == ["Baseline (costs)", "Baseline"]


def test_counting_leaves_the_network_unchanged():
    network = Entry("ecbsr_m4c16", 4).build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    common.cost(network, 4)
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
