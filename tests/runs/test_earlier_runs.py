"""Runs and checkpoints from earlier code must stay usable: ``earlier/`` was written in November 2026.

`COMMAND` produced this run. ``step-3.ckpt`` is the run's ``previous.ckpt``: the state after three of six
steps.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import sr_lab
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import RunFolder
from tests import command_line

EARLIER = Path(__file__).parent / "earlier"
COMMAND = (
    *("model=edsr", "+model.num_feat=4", "+model.num_block=1", "scale=2", "steps=6", "ema_decay=0.9"),
    *(
        "budget=smoke",
        "trainer=cpu",
        "logger=none",
        "benchmark=sample",
        "experiment_name=old",
        "run_name=old",
    ),
)
NAME = "old-e3e8a873"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "outputs" / "old" / NAME))


def test_an_earlier_run_still_becomes_a_row_of_a_table(folder):
    run = read_run(folder)
    assert (run.problem, run.scale, run.seed) == ("", 2, 0)
    assert run.values["test/sample/psnr_y"] == pytest.approx(14.92, abs=0.005)


def test_an_earlier_checkpoint_still_opens(folder):
    network = sr_lab.load(folder / "checkpoints" / "best.ckpt")
    weights = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(network.state_dict()["head.weight"], weights["network.head.weight"])
    assert sr_lab.upscale(torch.rand(3, 6, 7), network).shape == (3, 12, 14)


def test_an_earlier_interrupted_run_resumes_in_its_folder_and_gives_the_same_result(tmp_path, folder):
    expected = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    (folder / "checkpoints" / "step-3.ckpt").rename(folder / "checkpoints" / "last.ckpt")
    (folder / "checkpoints" / "best.ckpt").unlink()
    done = command_line.sr_lab(tmp_path, *COMMAND, "code=any")  # its code was not recorded
    assert done.returncode == 0, done.stderr
    assert command_line.run_folder(tmp_path) == folder
    steps = [row["step"] for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())]
    assert steps == ["1", "2", "3", "3", "4", "5", "6", "6"]
    values = RunFolder(folder).read_metrics()
    assert values is not None
    for key in ("test/sample/psnr_y", "test/sample/ssim_y"):
        assert values[key] == pytest.approx(expected[key], rel=1e-5)
