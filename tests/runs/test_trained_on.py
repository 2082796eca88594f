"""Which images a finished run was trained on, compared with those that a command names now."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_lab.config.identity import run_identity, training_set
from sr_lab.run_folder import RunFolder
from sr_lab.runs import sweep, trained_on
from tests.composing import compose


def draw(file: Path, seed: int, modified: int = 1) -> None:
    """Write an image whose file has the same size for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    os.utime(file, (modified, modified))


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        draw(tmp_path / "images" / f"{number}.bmp", number)
    return tmp_path


def finished(place: Path, *more: str) -> sweep.Job:
    """A finished job of a sweep that was trained on these images."""
    given = ("model=imdn", "scale=2", "trainer=cpu", "budget=smoke", "dataset=folder", "dataset.val_count=1")
    config = compose(*given, f"dataset.hr_dir={place}/images", f"paths.cache_dir={place}/cache", *more)
    job = sweep.Job(config, RunFolder(place / "train" / "run"), (), run_identity(config))
    dataset = training_set(config)
    dataset.prepare()
    job.folder.path.mkdir(parents=True)
    assert trained_on.note_images(config, job.folder, dataset, resumed=False) is None
    job.folder.write_metrics({"protocol": "rgb_uint8", "test/sample/psnr_y": 30.0})
    return job


def again(place: Path, job: sweep.Job) -> list[str]:
    """What a sweep says before it shows the job again, in a process that has read nothing yet."""
    training_set.cache_clear()
    trained_on.training_data.cache_clear()
    return [line for line in sweep._about_finished([job]) if "image" in line]


def test_a_sweep_says_that_a_finished_job_was_trained_on_other_images(place):
    job = finished(place)
    assert again(place, job) == []
    draw(place / "images" / "2.bmp", 9, modified=2)
    assert again(place, job) == [
        f"dataset: 1 training image(s) have changed (2.bmp) since '{job.folder.path}' was trained; "
        f"{trained_on.REMEDY}"
    ]


def test_the_pixels_of_unchanged_files_are_not_read(place, monkeypatch):
    job = finished(place)
    monkeypatch.setattr(trained_on, "_present", lambda *_: pytest.fail("compared the pixels"))
    assert again(place, job) == []


def test_given_lr_images_count_as_well(place):
    (place / "small").mkdir()
    for number in range(4):
        Image.new("RGB", (50, 50), (number, 0, 0)).save(place / "small" / f"{number}.png")
    job = finished(place, f"dataset.lr_dir={place}/small")
    Image.new("RGB", (50, 50), (9, 0, 0)).save(place / "small" / "1.png")
    (said,) = again(place, job)
    assert "1 training image(s) have changed (1.png)" in said


def test_a_run_of_an_earlier_version_is_compared_by_what_it_recorded(place):
    job = finished(place)
    text = job.folder.trained_on.read_text()
    earlier = trained_on._Images.model_validate_json(text).model_dump(exclude={"validation", "files"})
    job.folder.trained_on.write_text(trained_on._Images(**earlier).model_dump_json())
    assert again(place, job) == []
    draw(place / "images" / "3.bmp", 9, modified=2)  # the validation image
    assert again(place, job) == []
    draw(place / "images" / "0.bmp", 9, modified=2)
    assert len(again(place, job)) == 1
