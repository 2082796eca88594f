"""IMDN's official weights reproduce the published results on Set5 (Hui et al., ACM MM 2019)."""

import json
from pathlib import Path

import pytest

from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.models.imdn import IMDN
from tests.command_line import run_folder, sr_lab
from tests.tiny import sr_module, trainer

# Published: 38.00/.9605, 34.36/.9270, 32.21/.8948; the third decimals were measured with rgb_uint8.
PRINTED = {2: (37.996, 0.9605), 3: (34.360, 0.9270), 4: (32.210, 0.8948)}


def evaluate(folder: Path, data_dir: Path, *overrides: str) -> dict[str, object]:
    done = sr_lab(
        folder,
        *("task=evaluate", "trainer=cpu", "benchmark=set5", f"paths.data_dir='{data_dir}'", *overrides),
    )
    assert done.returncode == 0, done.stderr
    return json.loads((run_folder(folder) / "metrics.json").read_text())


@pytest.mark.parametrize("scale", PRINTED)
def test_an_official_checkpoint_gives_the_printed_figures(tmp_path, data_dir, weights_dir, scale):
    ckpt = weights_dir / "IMDN" / f"IMDN_x{scale}.pth"
    values = evaluate(tmp_path, data_dir, "model=imdn", f"scale={scale}", f"ckpt='{ckpt}'")
    psnr, ssim = PRINTED[scale]
    assert values["test/Set5/psnr_y"] == pytest.approx(psnr, abs=0.005)
    assert values["test/Set5/ssim_y"] == pytest.approx(ssim, abs=0.0002)
    assert len(values["images"]) == 5


def test_the_same_weights_in_an_sr_lab_checkpoint_give_the_same_figures(tmp_path, data_dir, weights_dir):
    network = IMDN(scale=4)
    load_weights(network, open_checkpoint(str(weights_dir / "IMDN" / "IMDN_x4.pth")))
    record = {
        "model": {"_target_": "sr_lab.models.imdn.IMDN", "scale": 4, "upsampler": None},
        "upsampler": {"name": "native", "factory": None},
        "strategy": {"name": "none", "apply": None},
        "scale": 4,
    }
    light = trainer(tmp_path)
    light.strategy.connect(sr_module(network=network, record=record))
    light.save_checkpoint(tmp_path / "ours.ckpt")
    values = evaluate(tmp_path, data_dir, f"ckpt='{tmp_path}/ours.ckpt'")
    assert values["test/Set5/psnr_y"] == pytest.approx(32.210, abs=0.005)
    assert values["test/Set5/ssim_y"] == pytest.approx(0.8948, abs=0.0002)
