"""``task=measure``: images from any program in, a table out."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.identity import hash8, identity
from sr_lab.datasets.images import read_image
from sr_lab.errors import ConfigError
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.runs import find_runs, read_run
from sr_lab.tasks import evaluate, measure, upscale
from tests.composing import compose

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


@pytest.fixture
def place(tmp_path):
    """``data`` with a test set of three photographs, ``lr`` with their x2 LR images, and weights."""
    hr_dir, lr_dir = tmp_path / "data" / "benchmarks" / "Set5" / "HR", tmp_path / "lr"
    hr_dir.mkdir(parents=True)
    lr_dir.mkdir()
    for number, name in enumerate(("baby", "bird", "head")):
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((45, 42)).save(hr_dir / f"{name}.png")
        hr = torch.from_numpy(read_image(hr_dir / f"{name}.png")).permute(2, 0, 1)[None]
        lr = PROTOCOLS["rgb_uint8"].make_lr(hr, 2)[0].permute(1, 2, 0) * 255
        Image.fromarray(lr.round().byte().numpy()).save(lr_dir / f"{name}x2.png")
    torch.save(Entry("shufflemixer_tiny", 2).build().state_dict(), tmp_path / "weights.pth")
    return tmp_path


def run(task, folder, *overrides):
    config = compose(*overrides)
    task.run(config, folder, list(overrides))
    return config


def test_upscaled_files_measure_exactly_as_the_network_evaluates(place, capsys):
    hr_dir = place / "data" / "benchmarks" / "Set5" / "HR"
    network = (f"ckpt={place}/weights.pth", "model=shufflemixer_tiny", "scale=2", "trainer=cpu")
    run(upscale, place / "sr", "task=upscale", *network, f"input='{place}/lr'", f"output='{place}/sr'")
    more = ("benchmark=set5", f"paths.data_dir='{place}/data'")
    run(evaluate, place / "runs" / "evaluated-1", "task=evaluate", *network, *more)
    capsys.readouterr()
    folders = (f"sr_dir='{place}/sr'", f"hr_dir='{hr_dir}'")
    run(measure, place / "runs" / "measured-2", "task=measure", *folders)
    shown = capsys.readouterr().out
    records = [
        json.loads((place / "runs" / name / "metrics.json").read_text())
        for name in ("evaluated-1", "measured-2")
    ]
    figures = [
        {(i["set_name"], i["image"]): (i["psnr_y"], i["ssim_y"]) for i in record["images"]}
        for record in records
    ]
    assert figures[0] == figures[1]
    same = ("test/Set5/psnr_y", "test/Set5/ssim_y", "protocol", "scale", "test_images", "test_images_sha256")
    for key in same:
        assert records[0][key] == records[1][key]
    assert "model" not in records[1]

    api = sr_lab.measure(place / "sr", hr_dir)
    assert {name: own["rgb_uint8"] for name, own in api.images.items()} == {
        image: figure for (_, image), figure in figures[1].items()
    }
    rows = list(csv.DictReader((place / "runs" / "measured-2" / "measure.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["baby", "bird", "head", "mean"]
    assert float(rows[3]["classic_y/psnr"]) == api.mean["classic_y"].psnr
    assert float(rows[0]["rgb/ssim"]) == api.images["baby"]["rgb"].ssim
    for text in (
        "x2: ",
        "2 pixels cropped at every edge",
        "classic_y",
        "mean",
        f"{api.mean['rgb'].psnr:.2f}",
    ):
        assert text in shown

    (row,) = experiment_table([read_run(place / "runs" / "measured-2")]).rows
    assert row.label == "sr"
    assert [cell.value for cell in row.cells] == [
        records[1][f"test/Set5/{key}"] for key in ("psnr_y", "ssim_y")
    ]


def test_images_of_different_programs_are_separate_rows_in_a_report(place):
    for name in ("one/out", "other/out"):
        (place / name).mkdir(parents=True)
        for file in (place / "lr").iterdir():
            Image.fromarray(read_image(file) // (2 if name[:3] == "one" else 3)).save(
                place / name / file.name
            )
        folders = (f"sr_dir='{place}/{name}'", f"hr_dir='{place}/lr'", "crop=0")
        run(measure, place / "runs" / f"{name[:3]}-1", "task=measure", *folders)
    table = experiment_table(find_runs(place / "runs"))
    assert [row.label for row in table.rows] == ["one/out", "other/out"]
    (column,) = (index for index, column in enumerate(table.columns) if column.key == "sr_dir")
    assert [row.cells[column].text for row in table.rows] == [f"{place}/one/out", f"{place}/other/out"]


def test_the_identity_of_a_measurement_covers_its_images_and_its_settings(place):
    folders = ("task=measure", f"sr_dir='{place}/lr'", f"hr_dir='{place}/lr'")
    hashes = {
        hash8(identity(compose(*folders, *more))) for more in ((), ("crop=0",), ("colour=y",), ("scale=3",))
    }
    assert hash8(identity(compose(*folders, "run_name=again", f"paths.data_dir='{place}'"))) in hashes
    (place / "elsewhere").mkdir()
    for file in (place / "lr").iterdir():
        (place / "elsewhere" / file.name).write_bytes(file.read_bytes())
    for other in ("sr_dir", "hr_dir"):  # the same images in another folder are another measurement
        hashes.add(hash8(identity(compose(*folders, f"{other}='{place}/elsewhere'"))))
    Image.new("RGB", (22, 21)).save(place / "lr" / "babyx2.png")
    hashes.add(hash8(identity(compose(*folders, "run_name=edited"))))
    assert len(hashes) == 7
    assert compose(*folders, f"sr_dir='{place}/elsewhere'").run_name == "elsewhere"


def test_columns_are_refused_where_one_measurement_shows_all_of_them(place):
    with pytest.raises(ConfigError, match="columns: is used only by a multirun"):
        run(measure, place, "task=measure", f"sr_dir='{place}/lr'", f"hr_dir='{place}/lr'", "columns=[PSNR]")


def test_the_default_scale_is_reported_if_the_names_give_none(place, capsys):
    for number, name in enumerate(("ours", "theirs")):
        (place / name).mkdir()
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / name / "a.png")
    folders = ("task=measure", f"sr_dir='{place}/ours'", f"hr_dir='{place}/theirs'")
    run(measure, place / "run", *folders, "colour=rgb", "crop=10")
    shown = capsys.readouterr().out
    assert "scale: x4, the default, since the file names do not give a scale; set scale=..." in shown
    assert "rgb crop=10: PSNR and SSIM on RGB of the 8-bit result, 10 pixels cropped" in shown
    record = json.loads((place / "run" / "metrics.json").read_text())
    assert record["protocol"] == "rgb crop=10"
    assert "test/theirs/psnr_y" in record
    with pytest.raises(ConfigError, match=r"crop: .*greater than or equal to 0, got -1"):
        compose(*folders, "crop=-1")
