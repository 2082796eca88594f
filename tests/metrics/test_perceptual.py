"""LPIPS and DISTS, compared with their authors' packages."""

import hashlib
import math
import sys

import pytest
import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError, DataError
from sr_lab.metrics import perceptual
from sr_lab.metrics.perceptual import Perceptual


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights from a formula, scaled so that a signal neither vanishes nor explodes in many layers."""
    found = {}
    for place, (name, value) in enumerate(network.state_dict().items()):
        x = torch.arange(value.numel(), dtype=torch.float64)
        wave = torch.sin(x * 0.7071 + place) * torch.cos(x * 0.0137)
        size = 1.4 * math.sqrt(2 / value[0].numel()) if value.ndim > 1 else 0.1
        found[name] = (wave * size).reshape(value.shape).float()
    return found


def images() -> tuple[Tensor, Tensor]:
    """An SR image in [0, 1] and its uint8 HR image, 70x90 pixels."""
    rows, columns = torch.meshgrid(torch.arange(70.0), torch.arange(90.0), indexing="ij")
    planes = [127 + 100 * torch.sin(rows / 5 + k) * torch.cos(columns / 7 - k) for k in range(3)]
    hr = torch.stack(planes).round().clamp(0, 255).to(torch.uint8)[None]
    return (hr.float() / 255 + 0.08 * torch.sin(rows * columns / 31)).clamp(0, 1), hr


@pytest.mark.slow  # writes 0.8 GB of weights
def test_figures_equal_those_of_the_authors_packages(tmp_path, monkeypatch):
    # lpips 0.1.4 and DISTS-pytorch 0.1 with these weights, on the rounded images, cropped by 4 pixels
    expected = {"lpips": 0.0655062347650528, "lpips_vgg": 0.16164828836917877, "dists": 0.031027793884277344}
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(perceptual, "digest_of", lambda file: file.stem.rpartition("-")[2])
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name in ("alexnet", "vgg16"):
        file = models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
        torch.save(weights(models.get_model(name)), tmp_path / "hub" / "checkpoints" / file)
    before = torch.get_rng_state()
    measure = Perceptual(list(expected))
    assert torch.equal(torch.get_rng_state(), before)
    found = measure(*images(), scale=2, crop=4, image="waves")
    assert found.tolist() == pytest.approx(list(expected.values()), rel=1e-5)


class Named:
    """Stands for torchvision's list of weights, with a file whose digest is known."""

    content = b"weights"

    def __init__(self, digest: str) -> None:
        self.url = f"https://example.org/models/net-{digest}.pth"
        self.DEFAULT = self


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Put ``net-<digest>.pth`` into torchvision's list of weights; return the path of the missing file."""
    named = Named(hashlib.sha256(Named.content).hexdigest()[:8])
    module = type(sys)("torchvision.models")
    monkeypatch.setattr(module, "get_model_weights", lambda network: named, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", type(sys)("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(perceptual, "_KINDS", {"lpips": perceptual._Kind("alexnet", MeanDifference)})
    file = tmp_path / "hub" / "checkpoints" / named.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    return file


class MeanDifference(nn.Module):
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).abs().mean()


def test_weights_that_are_missing_are_not_downloaded_but_named(known):
    with pytest.raises(ConfigError, match=rf"lpips.*https://example.org/models/net-.*{known.name}") as error:
        Perceptual(["lpips"])
    assert str(known) in str(error.value)


def test_damaged_weights_are_refused(known):
    known.write_bytes(b"other")
    with pytest.raises(ConfigError, match="damaged"):
        Perceptual(["lpips"])


def test_the_rounded_result_is_compared_inside_the_cropped_border(known):
    known.write_bytes(Named.content)
    sr, hr = images()
    sr = sr[..., :68, :88] + 1e-3  # 70x90 pixels, cropped to multiples of 4
    found = Perceptual(["lpips"])(sr, hr, scale=4, crop=5, image="waves")
    sr = (sr.clamp(0, 1) * 255).round() / 255
    assert found.dtype == torch.float64
    difference = (sr - hr[..., :68, :88] / 255)[..., 5:-5, 5:-5].abs().mean().item()
    assert found.tolist() == pytest.approx([difference])


def test_images_that_are_too_small_are_refused_by_name(known):
    known.write_bytes(Named.content)
    sr, hr = images()
    with pytest.raises(DataError, match="the shorter side of waves has 31 pixels"):
        Perceptual(["lpips"])(sr[..., :39, :], hr[..., :39, :], scale=1, crop=4, image="waves")


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ConfigError, match=r"pip install 'sr_lab\[perceptual\]'"):
        Perceptual(["dists"])
