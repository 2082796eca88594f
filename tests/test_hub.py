"""``sr_lab.HubNetwork``: folders in the form of the Hub's repositories, without a network connection."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import sr_lab
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.zoo.published import published
from tests.security import hostile
from tests.tiny import stored

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "own_x2.safetensors"
    file.write_bytes(stored("ecbsr_m4c16", 2, num_block=2))
    return file


@pytest.fixture(scope="module")
def saved(ckpt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "ecbsr"
    sr_lab.HubNetwork.from_pretrained(ckpt).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """A copy of the folder whose ``config.json`` a test replaces."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def same(first, second):
    lr = torch.rand(1, 1, 12, 15)
    with torch.no_grad():
        return torch.equal(first(lr), second(lr))


def test_a_saved_network_is_read_again(ckpt, saved):
    assert sorted(file.name for file in saved.iterdir()) == ["README.md", "config.json", WEIGHTS]
    original, network = sr_lab.load(ckpt), sr_lab.HubNetwork.from_pretrained(saved)
    assert same(original, network)
    assert same(original, sr_lab.load(saved / WEIGHTS))
    assert not network.training
    assert (network.scale, network.colour) == (2, "y")
    image = torch.rand(3, 9, 8)
    assert torch.equal(sr_lab.upscale(image, network), sr_lab.upscale(image, original))


def test_the_card_says_what_the_network_is_and_how_to_load_it(saved):
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sr_lab\n")
    assert r"weights: own\_x2.safetensors" in card
    assert "licence: unknown" in card
    assert "HubNetwork.from_pretrained" in card


def test_config_json_decides_which_network_is_built(changed):
    record = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(record | {"model": record["model"] | {"num_block": 3}}))
    with pytest.raises(CheckpointError, match=r"hub: '.*model\.safetensors'"):
        sr_lab.HubNetwork.from_pretrained(changed)


REST = {
    "upsampler": {"name": "native", "factory": None},
    "strategy": {"name": "none", "apply": None},
    "scale": 2,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"model": {"_target_": "os.system", "command": "true"}, **REST}), r"os\.system"),
        (json.dumps({"model": {"_target_": "subprocess.Popen", "args": ["true"]}, **REST}), r"subprocess"),
        (json.dumps({"network": 1, "described": 2, **REST}), "has no complete description of its network"),
        ("[1]", "does not describe a network"),
        ("[" * 100_000, "cannot be read"),
        ("", "cannot be read"),
    ],
    ids=["a function", "a class", "no model", "a list", "deep", "empty"],
)
def test_an_untrusted_config_json_runs_nothing(changed, content, message):
    (changed / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        sr_lab.HubNetwork.from_pretrained(changed)


def test_a_config_json_that_describes_a_giant_network_is_refused_before_it_is_built(changed):
    record = json.loads((changed / "config.json").read_text())
    record["model"]["num_block"] = 10**6
    (changed / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="far larger network"):
        sr_lab.HubNetwork.from_pretrained(changed)


def test_a_damaged_weights_file_is_refused(changed):
    (changed / WEIGHTS).write_bytes(hostile.safetensors({"w": {"dtype": "F32"}}, bytes(4)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        sr_lab.HubNetwork.from_pretrained(changed)


def test_a_repository_that_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no file or folder 'me/nothing'"):
        sr_lab.HubNetwork.from_pretrained("me/nothing", local_files_only=True, cache_dir=tmp_path)


def test_a_repository_is_read_from_the_cache(saved, ckpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fetch(repository, name, **settings):
        asked.append((repository, name, settings["revision"]))
        return str(saved / name)

    monkeypatch.setattr("sr_lab.hub.hf_hub_download", fetch)
    assert same(sr_lab.load(ckpt), sr_lab.HubNetwork.from_pretrained("me/net", revision="v1"))
    assert asked == [("me/net", "config.json", "v1"), ("me/net", WEIGHTS, "v1")]


class Hub:
    """Stands for the Hub: keeps what is pushed."""

    pushed: dict[str, bytes]

    def __init__(self, token=None):
        assert token == "secret"

    def create_repo(self, repo_id, **settings):
        self.repo_id = repo_id
        return self

    def upload_folder(self, *, repo_id, folder_path, **settings):
        Hub.pushed = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        return f"address of {repo_id}"


def test_a_network_is_pushed_with_its_settings_and_card(ckpt, saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    network = sr_lab.HubNetwork.from_pretrained(ckpt)
    assert network.push_to_hub("me/ecbsr", token="secret") == "address of me/ecbsr"
    assert Hub.pushed == {file.name: file.read_bytes() for file in saved.iterdir()}


def test_published_weights_are_opened_by_name(weights_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("SR_LAB_CACHE", str(tmp_path))
    entry = published()["imdn_rtc_x2"]
    entry.file().parent.mkdir(parents=True)
    shutil.copy(weights_dir / "IMDN" / "IMDN_RTC_x2.pth", entry.file())
    network = sr_lab.HubNetwork.from_pretrained("zoo/imdn_rtc_x2", note=lambda text: None)
    network.save_pretrained(tmp_path / "saved")
    assert "licence: none stated" in (tmp_path / "saved" / "README.md").read_text()
