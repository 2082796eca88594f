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
from tests.conftest import compose


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A photograph-like HR image, and weights of a network with attention for x2."""
    folder = tmp_path_factory.mktemp("analyze")
    torch.manual_seed(0)
    torch.save(Entry("imdn_rtc", 2).build().state_dict(), folder / "rtc_x2.pth")
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
        ("psd", {"block", "frequency_cycles_per_pixel", "power_db", "less_than_before"}),
        ("residual", {"block", "mean_absolute_residual", "input_std"}),
        ("features", {"block", "mean", "std", "power_high_db"}),
        ("receptive_field", {"diffusion_index", "side_of_95_percent"}),
        ("errors", {"mse_edges", "mse_elsewhere", "error_power_high_db"}),
    ],
)
def test_each_kind_writes_a_picture_in_two_formats_and_its_numbers(place, tmp_path, kind, columns, capsys):
    rows = run(place, tmp_path, f"kind={kind}", f"ckpts=[{place / 'rtc_x2.pth'}]")
    assert columns | {"network"} == rows[0].keys()
    assert {row["network"] for row in rows} == {"IMDN-RTC"}
    if "block" in columns:
        assert {row["block"] for row in rows} - {"head"} == {"1", "2", "3", "4", "5"}
    with Image.open(tmp_path / f"{kind}_wave_x2.png") as picture:
        assert picture.width == 2100
    assert (tmp_path / f"{kind}_wave_x2.pdf").read_bytes().startswith(b"%PDF")
    assert f"{kind}_wave_x2.csv" in capsys.readouterr().out.replace("\n", "")


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
        (["kind=schedule"], "runs: kind=schedule draws trainings"),
        (["kind=errors", "hr=null", "input={lr}"], "hr: errors are differences to an HR image"),
    ],
)
def test_what_is_missing_is_named(place, tmp_path, overrides, fact):
    ckpt = [] if fact.startswith("ckpts") else [f"ckpts=[{place / 'rtc_x2.pth'}]"]
    overrides = [each.format(lr=place / "wave.png") for each in overrides]
    with pytest.raises(ConfigError) as refused:
        run(place, tmp_path, *ckpt, *overrides)
    assert fact in str(refused.value)


def test_the_learning_rate_of_trainings_is_drawn_over_their_steps(tmp_path):
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        report_runs.folder(tmp_path / "runs", f"{name}-12345678", **report_runs.values(None, 30.0, run=name))
        record = tmp_path / "runs" / f"{name}-12345678" / "metrics.csv"
        record.write_text(f"step,time,learning_rate\n50,0,{rate}\n100,1,{rate / 2}\n")
    output = tmp_path / "out"
    words = ("task=analyze", "kind=schedule", f"runs={tmp_path / 'runs'}", f"output={output}")
    analyze.run(compose(*words), output, words)
    rows = list(csv.DictReader((output / "schedule.csv").read_text().splitlines()))
    assert [(row["run"], row["step"], float(row["learning_rate"])) for row in rows] == [
        *(("one", "50", 1e-3), ("one", "100", 5e-4), ("two", "50", 2e-3), ("two", "100", 1e-3)),
    ]
