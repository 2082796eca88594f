"""Networks learn: trainings that take minutes."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SMALL = {"num_feat": 32, "num_block": 2}
SMALL_OF: dict[str, dict[str, int]] = {}
SHORT = (
    "steps=300",
    "batch_size=8",
    "dataset.lr_patch_size=24",
    "learning_rate=5e-3",
    "trainer.gradient_clip_val=1",  # what makes so high a rate safe
    "validation={interval: 300, count: 1}",
    "budget=paper",
    "num_workers=0",
)


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
        # One thread: the sums are always of the same order, and two tests at a time do not fight for cores.
        env={**os.environ, "SR_LAB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
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


@pytest.mark.parametrize("model", MODELS)
def test_a_small_network_beats_bicubic_in_300_steps(tmp_path: Path, model: str) -> None:
    network = hydra.utils.get_class(OmegaConf.load(CONF / "model" / f"{model}.yaml")._target_)
    accepted = inspect.signature(network).parameters
    small = {name: value for name, value in (SMALL | SMALL_OF.get(model, {})).items() if name in accepted}
    if not any(True for _ in network(scale=4, **small).parameters()):
        pytest.skip("has nothing to train")
    values = train(tmp_path, f"model={model}", *SHORT, *(f"++model.{k}={v}" for k, v in small.items()))
    ours, bicubic = values["test/sample/psnr_y"], values["bicubic/sample/psnr_y"]
    print(f"{model}: {ours:.3f} dB, bicubic {bicubic:.3f} dB")  # noqa: T201
    assert ours > bicubic


@pytest.mark.parametrize("upsampler", ["native", "subpixel", "deconv", "mwaum"])
def test_a_network_learns_with_every_upsampler(tmp_path: Path, upsampler: str) -> None:
    small = ("+model.num_feat=24", "+model.num_block=2", "learning_rate=2e-3", "steps=300", "budget=short")
    values = train(tmp_path, "model=imdn", f"upsampler={upsampler}", *small)
    # 300 small steps do not reach bicubic without an image skip; not learning at all is near 9 dB.
    assert values["test/sample/psnr_y"] > 24
