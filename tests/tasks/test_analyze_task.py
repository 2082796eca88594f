"""``task=analyze``: pictures of what happens inside networks, and the numbers behind them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import ConfigError
from sr_lab.tasks import analyze
from tests import report_runs
from tests.composing import compose


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A photograph-like HR image, and weights of a network with attention for x2."""
    folder = tmp_path_factory.mktemp("analyze")
    torch.manual_seed(0)
    torch.save(Entry("imdn_rtc", 2).build().state_dict(), folder / "rtc_x2.pth")
    torch.save(Entry("imdn_rtc", 2).build().state_dict(), folder / "other_x2.pth")
    torch.save(Entry("bsrn_s", 4).build().state_dict(), folder / "bsrn_s_x4.pth")
    waves = np.add.outer(np.sin(np.arange(64) / 3), np.cos(np.arange(80) / 5))
    pixels = np.stack([127 + 50 * waves, 100 + 40 * waves, 90 - 40 * waves], axis=-1)
    Image.fromarray(pixels.round().astype(np.uint8)).save(folder / "wave.png")
    return folder


def run(place, output, *overrides):
    words = ("task=analyze", f"hr={place / 'wave.png'}", f"output={output}", "trainer=cpu", *overrides)
    analyze.run(compose(*words), output, words)
    (path,) = output.glob("*.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("psd", {"block", "frequency_cycles_per_pixel", "power_db", "less_than_before", "share_high"}),
        ("residual", {"block", "mean_absolute_residual", "input_std"}),
        ("features", {"block", "mean", "std", "power_high_db", "share_high"}),
        ("receptive_field", {"diffusion_index", "side_of_95_percent"}),
        (
            "errors",
            {"psnr_db", "mse_edges", "mse_elsewhere", "error_power_high_db"}
            | {"frequency_cycles_per_pixel", "error_power_db"},
        ),
    ],
)
def test_each_kind_writes_a_picture_in_two_formats_and_its_numbers(place, tmp_path, kind, columns, capsys):
    rows = run(place, tmp_path, f"kind={kind}", f"ckpts=[{place / 'rtc_x2.pth'}]")
    assert columns | {"network"} == rows[0].keys()
    assert {row["network"] for row in rows} - {"bicubic"} == {"IMDN-RTC"}
    if "block" in columns:
        assert {row["block"] for row in rows} - {"head"} == {"1", "2", "3", "4", "5"}
    with Image.open(tmp_path / f"{kind}_wave_x2.png") as picture:
        assert picture.width == 2100
        assert picture.text["Software"] == f"sr_lab task=analyze kind={kind}"
        assert f"IMDN-RTC ({place / 'rtc_x2.pth'})" in picture.text["Description"]
    assert (tmp_path / f"{kind}_wave_x2.pdf").read_bytes().startswith(b"%PDF")
    assert f"{kind}_wave_x2.csv" in capsys.readouterr().out.replace("\n", "")


def test_modules_other_than_blocks_can_be_shown(place, tmp_path):
    words = "kind=features", f"ckpts=[{place / 'rtc_x2.pth'}]", "blocks=[head,5,fusion]"
    rows = run(place, tmp_path, *words)
    assert [row["block"] for row in rows] == ["head", "5", "fusion"]


def test_attention_and_a_window_can_be_chosen(place, tmp_path):
    ckpt = f"ckpts=[{place / 'bsrn_s_x4.pth'}]"
    rows = run(place, tmp_path / "a", "kind=attention", ckpt, "modules=[ESA]")
    assert {row["kind"] for row in rows} == {"ESA"}
    assert len(rows) == 5
    with pytest.raises(ConfigError, match="crop: the window 70,0,16,16"):
        run(place, tmp_path / "b", "kind=lam", ckpt, "crop=[70,0,16,16]")


def test_a_file_is_not_overwritten(place, tmp_path):
    words = "kind=residual", f"ckpts=[{place / 'rtc_x2.pth'}]"
    first = run(place, tmp_path, *words)
    with pytest.raises(ConfigError, match=r"output: '.*residual_wave_x2.png' exists; add overwrite=true"):
        run(place, tmp_path, *words)
    assert run(place, tmp_path, *words, "overwrite=true") == first


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        (["kind=psd"], "ckpts: no network is given"),
        (["kind=features", "blocks=[9]"], "blocks: IMDN-RTC has no '9'; allowed: head, 1, 2, 3, 4, 5"),
        (["kind=attention"], "analyze: IMDN has none of"),
        (["kind=residual", "crop=[0,0,9,9]"], "crop: is used only by kind=lam, and this is kind=residual"),
        (["kind=residual", "only=[a]"], "only: chooses among the runs of own_runs, which is not set"),
        (
            ["kind=residual", "hr=null", "input={lr}", "benchmark.protocol=classic_y"],
            "benchmark: its protocol is used only with an HR image, got none",
        ),
        (
            ["kind=lam", "crop=[0,0,9,9]", "crop_size=8"],
            "crop_size: is the size of the window that crop=auto chooses",
        ),
        (["kind=errors", "hr=null", "input={lr}"], "hr: errors are differences from an HR image"),
    ],
)
def test_what_is_missing_is_named(place, tmp_path, overrides, fact):
    ckpt = [] if fact.startswith("ckpts") else [f"ckpts=[{place / 'rtc_x2.pth'}]"]
    overrides = [each.format(lr=place / "wave.png") for each in overrides]
    with pytest.raises(ConfigError) as refused:
        run(place, tmp_path, *ckpt, *overrides)
    assert fact in str(refused.value)


def test_the_errors_of_a_set_show_where_a_network_beats_the_first(place, tmp_path, capsys):
    folder = tmp_path / "data" / "benchmarks" / "Tiny" / "HR"
    folder.mkdir(parents=True)
    for name, size in (("wide", (64, 40)), ("high", (40, 64)), ("square", (48, 48))):
        with Image.open(place / "wave.png") as wave:
            wave.resize(size).save(folder / f"{name}.png")
    output = tmp_path / "out"
    words = ("task=analyze", "kind=errors", "hr=Tiny", f"paths.data_dir={tmp_path / 'data'}", "trainer=cpu")
    ckpts = f"ckpts=[{place / 'rtc_x2.pth'},{place / 'other_x2.pth'}]"
    words += (ckpts, "names=[first,second]", f"output={output}")
    analyze.run(compose(*words), output, words)
    rows = list(csv.DictReader((output / "errors_Tiny_x2.csv").read_text().splitlines()))
    psnr = {(row["network"], row["image"]): float(row["psnr_db"]) for row in rows if row["image"]}
    assert {image for _, image in psnr} == {"wide", "high", "square"}
    better = sum(psnr["second", image] > psnr["first", image] for image in ("wide", "high", "square"))
    assert f"second beats first on {better} of 3 images" in capsys.readouterr().out
    assert (output / "errors_Tiny_x2.png").is_file()


def drawn(tmp_path, *words):
    """Run an analysis that needs no network, and return its only table."""
    output = tmp_path / "out"
    words = ("task=analyze", *words, f"output={output}")
    analyze.run(compose(*words), output, words)
    (path,) = output.glob("*.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def training_runs(tmp_path):
    """The folder of two training runs with their records."""
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        report_runs.folder(tmp_path / "runs", f"{name}-12345678", **report_runs.values(None, 30.0, run=name))
        record = tmp_path / "runs" / f"{name}-12345678" / "metrics.csv"
        record.write_text(
            f"step,time,learning_rate,val/psnr_y,val/Set5/psnr_y\n50,0,{rate},29,31\n100,1,{rate / 2},30,32\n"
        )
    return tmp_path / "runs"


def test_the_learning_rate_of_training_runs_is_drawn_over_their_steps(tmp_path, training_runs):
    rows = drawn(tmp_path, "kind=schedule", f"own_runs={training_runs}")
    assert [(row["run"], row["step"], float(row["learning_rate"])) for row in rows] == [
        *(("one", "50", 1e-3), ("one", "100", 5e-4), ("two", "50", 2e-3), ("two", "100", 1e-3)),
    ]


@pytest.mark.parametrize(
    ("more", "column", "values"),
    [([], "val/psnr_y", ["29.0", "30.0"]), (["psnr_set=Set5"], "val/Set5/psnr_y", ["31.0", "32.0"])],
)
def test_convergence_shows_the_chosen_runs_on_the_chosen_set(tmp_path, training_runs, more, column, values):
    words = ("kind=convergence", f"own_runs={training_runs}", "only=[t*]", "names=[mine]", *more)
    rows = drawn(tmp_path, *words)
    assert [(row["run"], row[column]) for row in rows] == [("mine", value) for value in values]


def test_schedules_are_drawn_without_a_training_run(tmp_path):
    """The rate is halved every 200 epochs of 10 steps, whatever budget this machine gets by default."""
    words = ("kind=schedule", "schedules=[step]", "steps=5000", "steps_per_epoch=10", "learning_rate=1e-3")
    rows = drawn(tmp_path, *words)
    rates = {int(row["step"]): float(row["learning_rate"]) for row in rows}
    assert (rates[0], rates[1990], rates[2000], rates[4990]) == (1e-3, 1e-3, 5e-4, 2.5e-4)
    assert len(rates) == 500


def test_the_trade_off_shows_runs_published_weights_and_printed_figures(tmp_path):
    table = {"paper": "osffnet", "name": "table1"}
    mine = report_runs.values("OSFFNet", 32.2, table=table, test_images={"Set5": "Set5, 5 of 5 as published"})
    report_runs.folder(tmp_path / "runs", "mine-12345678", **mine)
    words = ("kind=tradeoff", "psnr_set=Set5", "scale=4", f"own_runs={tmp_path / 'runs'}")
    rows = drawn(tmp_path, *words, "table={paper: osffnet, name: table1}")
    found = {(row["network"], row["psnr_from"]): float(row["psnr_db"]) for row in rows}
    assert found["OSFFNet", "run"] == 32.2
    assert found["OSFFNet", "paper"] == 32.39
    assert found["BSRN", "weights"] == pytest.approx(32.351)
    adds = {row["network"]: float(row["multi_adds_at_1280x720"]) for row in rows if row["psnr_from"] != "run"}
    assert adds["IMDN"] == 40_885_865_472


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["kind=schedule"], "schedules: kind=schedule draws either schedules or training runs"),
        (["kind=schedule", "schedules=[cosin]"], "did you mean 'cosine'"),
        (["kind=schedule", "schedules=[plateau]"], "ReduceLROnPlateau depends on validation results"),
        (["kind=convergence"], "own_runs: kind=convergence draws training runs"),
        (["kind=convergence", "own_runs={runs}", "only=[three]"], "allowed: one, two"),
        (
            ["kind=convergence", "own_runs={runs}", "psnr_set=B100"],
            "no training run has recorded val/B100/psnr_y",
        ),
        (["kind=convergence", "own_runs={runs}", "names=[a]"], "names: got 1 for 2 lines (one, two)"),
        (["kind=tradeoff", "hr=Set5/baby"], "hr: is used only by kind=psd"),
        (["kind=schedule", "schedules=[cosine]", "trainer=cpu"], "trainer: is used only by kind=psd"),
        (["kind=schedule", "schedules=[cosine]", "benchmark=set5"], "benchmark: is used only by kind=psd"),
        (["kind=schedule", "schedules=[cosine]", "only=[a]"], "only: chooses among the runs of own_runs"),
        (["kind=tradeoff", "psnr_set=Set99"], "no PSNR on Set99 at x4 is known"),
    ],
)
def test_what_is_missing_for_a_picture_of_training_runs_is_named(tmp_path, training_runs, words, fact):
    with pytest.raises(ConfigError) as refused:
        drawn(tmp_path, *(word.format(runs=training_runs) for word in words))
    assert fact in str(refused.value)
