"""The images that a run is validated and tested on, and whether a finished run has the requested results."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from sr_lab.config.identity import hash8, identity, run_identity
from sr_lab.run_folder import RunFolder
from sr_lab.runs import measurement, sweep
from tests.composing import compose

TRAIN = ("model=imdn", "scale=2", "trainer=cpu", "budget=smoke", "benchmark.sets=[Two]")


@pytest.fixture
def place(tmp_path) -> Path:
    """``data`` with a test set ``Two`` and LR images for it, and ``other`` with a copy of it."""
    two = tmp_path / "data" / "benchmarks" / "Two"
    for folder, size in (("HR", (48, 40)), ("LR/X2", (24, 20))):
        (two / folder).mkdir(parents=True)
        for name in "ab":
            Image.linear_gradient("L").resize(size).convert("RGB").save(two / folder / f"{name}.png")
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    return tmp_path


def edit(place: Path, folder: str) -> None:
    """Change an image of the copied test set without changing its size."""
    file = place / "other" / "benchmarks" / "Two" / folder / "a.png"
    with Image.open(file) as image:
        image.rotate(180).save(file)


def asked(place: Path, data: str, *more: str):
    """A training configuration and its command line."""
    overrides = (*TRAIN, f"paths.data_dir={place}/{data}", *more)
    return measurement.with_measured_identity(compose(*overrides), overrides), overrides


def finished(place: Path, *more: str) -> RunFolder:
    """The folder of a run that was measured on the images in ``data``."""
    config, _ = asked(place, "data", *more)
    protocol = measurement.protocol_of(config)
    folder = RunFolder(place / "run")
    digest = measurement.benchmark_set(config, "Two", protocol).digest()
    figures = {"test/Two/psnr_y": 30.0, "test/Two/ssim_y": 0.9}
    folder.path.mkdir()
    folder.write_metrics({"protocol": protocol.name, "test_images_sha256": {"Two": digest}, **figures})
    return folder


@pytest.mark.parametrize(
    ("more", "edited", "says"),
    [
        ((), None, ""),
        ((), "LR/X2", ""),  # these are not used
        ((), "HR", "not measured on the current images of Two with rgb_uint8; run task=evaluate"),
        (("benchmark.lr=given",), None, ""),
        (("benchmark.lr=given",), "LR/X2", "the current images of Two with rgb_uint8 on given LR;"),
    ],
)
def test_a_finished_run_says_whether_it_was_measured_on_the_current_images(place, more, edited, says):
    folder = finished(place, *more)
    if edited:
        edit(place, edited)
    config, overrides = asked(place, "other", *more)
    said = measurement.not_measured(config, folder, overrides)
    assert says in said if says else said == ""
    assert not says or said.endswith(f"'paths.data_dir={place}/other'")


def test_a_finished_run_is_shown_even_if_its_test_images_or_their_digests_are_missing(place):
    folder = finished(place)
    shutil.rmtree(place / "other" / "benchmarks")
    assert measurement.not_measured(asked(place, "other")[0], folder, ()) == ""
    values = folder.read_metrics()
    del values["test_images_sha256"]  # as in runs of earlier versions
    folder.write_metrics(values)
    assert measurement.not_measured(asked(place, "data")[0], folder, ()) == ""


def test_a_sweep_says_which_finished_jobs_were_measured_on_other_images(place, capsys):
    folder = finished(place)
    edit(place, "HR")
    config, overrides = asked(place, "other")
    job = sweep.Job(config, folder, overrides, run_identity(config))
    assert sweep.run([job]) == 0
    said = capsys.readouterr().out
    assert 0 < said.find("not measured on the current images of Two") < said.find("already finished")


@pytest.mark.parametrize(
    ("more", "edited", "is_same"),
    [
        ((), "HR", True),  # the run does not validate on them
        (("validation.sets=[Two]",), None, True),
        (("validation.sets=[Two]",), "LR/X2", True),
        (("validation.sets=[Two]",), "HR", False),
        (("validation.sets=[Two]", "benchmark.lr=given"), "LR/X2", False),
    ],
)
def test_the_identity_of_a_training_run_covers_the_images_that_choose_its_best_checkpoint(
    place, more, edited, is_same
):
    if edited:
        edit(place, edited)
    hashes = {hash8(identity(asked(place, data, *more)[0])) for data in ("data", "other")}
    assert len(hashes) == (1 if is_same else 2)


def test_given_lr_images_for_validation_start_a_new_run(place):
    made = asked(place, "data", "validation.sets=[Two]")[0]
    given = asked(place, "data", "validation.sets=[Two]", "benchmark.lr=given")[0]
    assert hash8(identity(made)) != hash8(identity(given))
