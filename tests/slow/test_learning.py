"""Networks learn: trainings that take minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def train(folder: Path, *overrides: str) -> dict[str, float]:
    """Results of one training in a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sr_lab",
            "trainer=cpu",
            "logger=none",
            f"paths.output_dir={folder}",
            *overrides,
        ],
        env={**os.environ, "SR_LAB_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (metrics,) = folder.glob("*/*/metrics.json")
    values: dict[str, float] = json.loads(metrics.read_text())
    return values


def test_the_demo_beats_bicubic(tmp_path: Path) -> None:
    values = train(tmp_path, "experiment=demo")
    assert values["test/sample/psnr_y"] > values["bicubic/sample/psnr_y"] + 0.3
    assert values["test/sample/ssim_y"] > values["bicubic/sample/ssim_y"]


@pytest.mark.parametrize("upsampler", ["native", "subpixel", "deconv", "mwaum"])
def test_a_network_learns_with_every_upsampler(tmp_path: Path, upsampler: str) -> None:
    small = ("+model.num_feat=24", "+model.num_block=2", "learning_rate=2e-3", "steps=300", "budget=short")
    values = train(tmp_path, "model=imdn", f"upsampler={upsampler}", *small)
    # 300 small steps do not reach bicubic without an image skip; not learning at all is near 9 dB.
    assert values["test/sample/psnr_y"] > 24


def test_osffnet_learns(tmp_path: Path) -> None:
    small = ("+model.num_feat=24", "+model.num_block=2", "learning_rate=2e-3", "steps=300", "budget=short")
    assert train(tmp_path, "model=osffnet", *small)["test/sample/psnr_y"] > 24
