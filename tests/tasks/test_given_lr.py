"""LR images that come with the HR images, in validation, in a test and in ``task=evaluate``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.config.identity import hash8, identity, training_set
from sr_lab.datasets.images import read_image
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.resize import downscale_uint8, mod_crop
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.runs import find_runs
from sr_lab.runs import measurement
from sr_lab.tasks import evaluate, train
from tests.composing import compose

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


@pytest.fixture
def data(tmp_path):
    """A test set ``Two`` with MATLAB's LR images in ``LR/X2`` and with inverted ones in ``camera``."""
    place = tmp_path / "data" / "benchmarks" / "Two"
    for name in ("HR", "LR/X2", "camera"):
        (place / name).mkdir(parents=True)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((46, 41)).save(place / "HR" / f"{number}.png")
        hr = torch.from_numpy(read_image(place / "HR" / f"{number}.png")).permute(2, 0, 1)[None]
        lr = downscale_uint8(mod_crop(hr, 2), scale=2)[0].permute(1, 2, 0).numpy()
        Image.fromarray(lr).save(place / "LR" / "X2" / f"{number}x2.png")
        Image.fromarray(255 - lr).save(place / "camera" / f"{number}_LR2.png")
    return tmp_path / "data"


def evaluated(data, folder, *overrides):
    arguments = ("task=evaluate", "model=bicubic", "scale=2", "trainer=cpu", f"paths.data_dir='{data}'")
    config = compose(*arguments, "benchmark.sets=[Two]", *overrides)
    evaluate.run(config, folder, [*arguments, *overrides])
    return json.loads((folder / "metrics.json").read_text()), hash8(identity(config))


def test_an_evaluation_on_given_lr_images_says_so_and_has_its_own_identity(data, tmp_path, capsys):
    made, own = evaluated(data, tmp_path / "made")
    given, of_given = evaluated(data, tmp_path / "given", "benchmark.lr=given", "explain=true")
    assert given["test/Two/psnr_y"] == made["test/Two/psnr_y"]  # the given images are MATLAB's
    assert given["protocol"] == "rgb_uint8 on given LR"
    shown = capsys.readouterr().out
    assert "x2 LR images as given; PSNR and SSIM on unrounded" in shown
    assert "Given LR images: LR/X2 of each set." in shown
    camera = data / "benchmarks" / "Two" / "camera"
    other, of_camera = evaluated(
        data, tmp_path / "other", "benchmark.lr=given", f"benchmark.lr_dir='{camera}'"
    )
    assert other["test/Two/psnr_y"] < made["test/Two/psnr_y"] - 5
    assert other["bicubic/Two/psnr_y"] == pytest.approx(other["test/Two/psnr_y"], abs=0.01)
    assert f"Given LR images: {camera}." in other["protocol_says"]
    assert len({own, of_given, of_camera}) == 3
    (camera / "0_LR2.png").write_bytes((camera / "1_LR2.png").read_bytes())
    assert hash8(identity(compose(*_command(data, camera)))) != of_camera


def test_evaluations_on_other_images_or_other_lr_images_are_not_compared(data, tmp_path):
    place = data / "benchmarks" / "Two"
    camera = ("benchmark.lr=given", f"benchmark.lr_dir='{place}/camera'")
    evaluated(data, tmp_path / "runs" / "lr", "benchmark.lr=given")
    evaluated(data, tmp_path / "runs" / "camera", *camera)
    evaluated(data, tmp_path / "runs" / "again", *camera, "tile=32")
    evaluated(data, tmp_path / "runs" / "made")
    for file in (place / "HR").iterdir():
        Image.fromarray(255 - read_image(file)).save(file)
    evaluated(data, tmp_path / "runs" / "negatives")
    table = experiment_table(find_runs(tmp_path / "runs"))
    assert sum(row.is_reference for row in table.rows) == 4
    measured = [row for row in table.rows if not row.is_reference]
    assert len(measured) == 5
    assert [row.is_comparable(measured[0]) for row in measured] == [True, True, False, False, False]
    assert sum(bool(row.against) for row in measured) == 1


def _command(data, camera):
    return (
        *("task=evaluate", "model=bicubic", "scale=2", "trainer=cpu", f"paths.data_dir='{data}'"),
        *("benchmark.sets=[Two]", "benchmark.lr=given", f"benchmark.lr_dir='{camera}'"),
        "run_name=other",  # for an equal configuration, this process would take the identity from its cache
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("benchmark.lr_dir=somewhere",),
            "benchmark.lr_dir: is used only with benchmark.lr=given, got made",
        ),
        (
            ("benchmark.lr=given", "benchmark.lr_dir=[a,b]"),
            r"must have one folder for each test set \(sample\), got 2",
        ),
    ],
)
def test_folders_of_given_lr_images_must_fit_the_benchmark(overrides, message):
    with pytest.raises(ConfigError, match=message):
        measurement.protocol_of(compose("task=train", *overrides))


def test_a_run_on_given_lr_images_also_validates_and_tests_on_given_lr_images(data, tmp_path):
    place = data / "benchmarks" / "Two"
    config = compose(
        *("task=train", "model=imdn", "scale=2", "trainer=cpu", f"paths.data_dir='{data}'"),
        *("dataset=folder", f"dataset.hr_dir='{place}/HR'", f"dataset.lr_dir='{place}/camera'"),
        *("benchmark.sets=[Two]", "benchmark.lr=given", "validation.sets=[Two]", "dataset.lr_patch_size=8"),
    )
    protocol, dataset = measurement.protocol_of(config), training_set(config)
    held_out, two = train._validation_sets(config, dataset, protocol)
    camera = torch.from_numpy(read_image(place / "camera" / "1_LR2.png")).permute(2, 0, 1) / 255
    assert torch.equal(held_out[0]["lr"], camera)
    assert torch.allclose(two[1]["lr"], 1 - camera)
    assert "also for validation" in train._degraded(dataset)["degradation_says"]
    Image.new("RGB", (23, 21)).save(place / "camera" / "1_LR2.png")
    with pytest.raises(DataError, match=r"held_out: the LR image .*1_LR2.png is 23x21, but .*1.png is 46x41"):
        train._validation_sets(config, dataset, protocol)


def test_held_out_images_without_given_lr_images_get_bicubic_ones_whatever_the_benchmark_says(data):
    place = data / "benchmarks" / "Two"
    config = compose(
        *("task=train", "model=imdn", "scale=2", "trainer=cpu", f"paths.data_dir='{data}'"),
        *("dataset=folder", f"dataset.hr_dir='{place}/HR'", "benchmark.sets=[Two]", "benchmark.lr=given"),
    )
    (held_out,) = train._validation_sets(config, training_set(config), measurement.protocol_of(config))
    matlab = torch.from_numpy(read_image(place / "LR" / "X2" / "1x2.png")).permute(2, 0, 1) / 255
    assert torch.equal(held_out[0]["lr"], matlab)
