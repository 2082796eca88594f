"""Two processes train on the same data and reach the same weights and measurements as one."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests.command_line import SMOKE, run_folder, sr_lab

pytestmark = pytest.mark.slow

ONE = (*SMOKE, "logger=none", "num_workers=0")
TWO = (*ONE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module", params=[(), ("validation.sets=[sample]",)], ids=["one image", "three images"])
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """Run folders of one process and of two, with fewer and with more validation images than ranks."""
    place = tmp_path_factory.mktemp("ddp")
    for name, arguments in (("one", ONE), ("two", [a for a in TWO if a != "trainer=cpu"])):
        done = sr_lab(place / name, *arguments, *request.param)
        assert done.returncode == 0, done.stderr
    return run_folder(place / "one"), run_folder(place / "two")


def test_two_processes_have_the_same_run_name_as_one(folders):
    assert folders[0].name == folders[1].name


def test_two_processes_end_with_the_same_weights(folders):
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in folders
    )
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_two_processes_measure_each_image_once(folders):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert [image["image"] for image in two["images"]] == [image["image"] for image in one["images"]]
    for key in (key for key in one if key.startswith(("test/", "bicubic/"))):
        assert two[key] == pytest.approx(one[key], abs=1e-3), key


def test_two_processes_record_the_loss_of_the_whole_batch_and_the_same_validations(folders):
    one, two = (list(csv.DictReader((f / "metrics.csv").read_text().splitlines())) for f in folders)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for ours, theirs in zip(one, two, strict=True):
        for key in (key for key in ours if key == "train/loss" or key.startswith("val/")):
            assert bool(theirs[key]) == bool(ours[key])
            if ours[key]:
                assert float(theirs[key]) == pytest.approx(float(ours[key]), rel=1e-3), key
