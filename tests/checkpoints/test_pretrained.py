"""The weights in the package: their names, and the PSNR and SSIM that they reach."""

import csv
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.errors import CheckpointError
from sr_lab.ops.complexity import num_params
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.published import experiments_dir
from sr_lab.run_folder import checkpoint_file
from sr_lab.tasks import upscale
from sr_lab.training.lit_module import SRModule
from sr_lab.zoo import shipped
from tests.composing import compose

FIGURES = list(csv.DictReader((experiments_dir() / "ledger" / "shipped.csv").read_text().splitlines()))


def test_a_name_stands_for_weights_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    (tmp_path / "package").mkdir()
    network = Entry("ecbsr_m4c16", 2).build()
    save_file(network.state_dict(), tmp_path / "package" / "tiny_x2.safetensors")
    assert checkpoint_file("pretrained/tiny_x2") == tmp_path / "package" / "tiny_x2.safetensors"
    assert type(sr_lab.load("pretrained/tiny_x2")) is type(network)
    with pytest.raises(
        CheckpointError, match=re.escape("ckpt: there is no 'pretrained/a'; allowed: pretrained/tiny_x2")
    ):
        checkpoint_file("pretrained/a")


def test_an_existing_file_of_that_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "mine_x2.pth").touch()
    assert str(checkpoint_file("pretrained/mine_x2.pth")) == "pretrained/mine_x2.pth"


def test_the_package_has_small_weights_with_a_card_and_figures():
    files = shipped.shipped()
    assert sorted(files) == sorted({int(row["scale"]) for row in FIGURES}) == [2, 3, 4]
    assert sum(file.stat().st_size for file in files.values()) < 2**20
    assert all(num_params(sr_lab.load(file)) <= 120_000 for file in files.values())
    assert all(file.with_suffix(".md").is_file() for file in files.values())  # the model card


@pytest.mark.parametrize(
    ("words", "size"), [([], (40, 32)), (["scale=2"], (40, 32)), (["scale=4"], (80, 64))]
)
def test_an_image_is_upscaled_if_no_network_is_named(tmp_path, words, size, capsys):
    Image.linear_gradient("L").convert("RGB").resize((20, 16)).save(tmp_path / "a.png")
    given = [f"input={tmp_path / 'a.png'}", f"output={tmp_path / 'big.png'}", *words]
    upscale.run(compose("task=upscale", "trainer=cpu", *given), tmp_path, given)
    with Image.open(tmp_path / "big.png") as image:
        assert image.size == size
    assert "half precision" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "row",
    [
        # Set14 takes most of the time; `make ledger` measures Set14 too.
        pytest.param(
            row, id=f"{row['weights']}-{row['set']}", marks=[pytest.mark.slow] * (row["set"] == "Set14")
        )
        for row in FIGURES
    ],
)
@torch.inference_mode()
def test_the_weights_give_their_stored_figures(request, tmp_path, row):
    scale, protocol = int(row["scale"]), PROTOCOLS["rgb_uint8"]
    data_dir = tmp_path if row["set"] == "sample" else request.getfixturevalue("data_dir")
    images = BenchmarkSet.of(row["set"], data_dir=data_dir, scale=scale, protocol=protocol)
    module = SRModule(sr_lab.load(f"pretrained/{row['weights']}"), scale=scale, protocol=protocol)
    found = []
    for index in range(len(images)):
        item = images[index]
        sr = module.upscale(item["lr"][None], grey=item["grey"])
        found.append(protocol.measure(sr, item["hr"][None], scale, grey=item["grey"]))
    psnr, ssim = (float(sum(values) / len(values)) for values in zip(*found, strict=True))
    assert psnr == pytest.approx(float(row["psnr_y"]), abs=0.01)
    assert ssim == pytest.approx(float(row["ssim_y"]), abs=0.0003)


def test_the_readme_has_the_stored_figures():
    readme = (experiments_dir().parent / "README.md").read_text()
    for row in FIGURES:
        if row["set"] == "Set5":
            assert f"{float(row['psnr_y']):.2f} / {float(row['ssim_y']):.4f}" in readme
