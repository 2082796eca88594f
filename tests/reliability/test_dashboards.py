"""If W&B dies or cannot be reached, training continues, and the W&B run can be rebuilt from the record."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.comparing import differences
from tests.reliability.test_faults import breaks


def history(offline: Path) -> list[dict[str, float]]:
    """The rows of a W&B file, read with wandb's own reader, without the columns that W&B adds."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    found = [record["history"]["item"] for record in records if "history" in record]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in found]


def recorded(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv`` in the form that W&B gets."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(file)]
    return [
        {
            "trainer/global_step" if key == "step" else key: value
            for key, value in row.items()
            if key != "time"
        }
        for row in rows
    ]


@pytest.mark.slow
def test_training_continues_when_the_wandb_process_dies_and_the_record_rebuilds_the_wandb_run(
    forge, tmp_path
):
    home, folder = {"HOME": str(tmp_path)}, tmp_path / "run"
    ended = forge.train(folder, "logger=wandb", *breaks("wandb"), **home)
    assert ended.code == 0, ended.said
    assert ended.said.count("WandbLogger: lost (Connection lost); the training continues") == 1
    assert forge.train(tmp_path / "whole", **home).code == 0
    assert differences(tmp_path / "whole", folder) == []
    (own,) = folder.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "sr_lab", "task=log", f"runs={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    (anew,) = set(folder.glob("wandb/offline-run-*")) - {own}
    assert "run: 29 rows;" in done.stdout, done.stderr
    assert f"`wandb sync {anew}`" in done.stdout
    assert history(anew) == recorded(folder)
    assert len(recorded(folder)) == 29


@pytest.mark.slow
def test_training_continues_offline_when_wandb_cannot_be_reached(forge, tmp_path):
    closed = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "2"}
    ended = forge.train(tmp_path / "run", "logger=wandb", HOME=str(tmp_path), **closed)
    assert ended.code == 0, ended.said
    assert ended.said.count("W&B: offline, since its server cannot be reached or refuses the key (") == 1
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    rows = [row for row in history(offline) if "train/loss" in row or "val/psnr_y" in row]
    assert rows == recorded(tmp_path / "run")
