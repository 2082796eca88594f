"""A stranger's run folder that is gone on with, shards that are streamed, photographs that are looked at."""

import json
import os
import random
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from sr_lab import config as configuration
from sr_lab import untrusted
from sr_lab.config import DoctorConfig
from sr_lab.datasets.images import read_image
from sr_lab.datasets.shards import Shards, read_index
from sr_lab.durable import DurableCheckpointIO, RandomState
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.run_folder import RunFolder
from sr_lab.run_folder import read_index as read_sweep
from sr_lab.tasks import doctor
from tests.conftest import compose
from tests.test_durable import pytestmark, saved, train  # noqa: F401 - the warnings of a training

# Run folders


def forge(folder: Path, victim: str) -> None:
    """Let the callbacks' states of ``last.ckpt`` say that the next checkpoint takes the place of a victim."""
    content = saved(folder, "last")
    for name, state in content["callbacks"].items():
        if name.startswith("Checkpoints"):
            worst = torch.tensor(-1.0)
            state |= {"best_model_path": victim, "kth_best_model_path": victim, "kth_value": worst}
            state |= {"best_model_score": worst, "best_k_models": {victim: worst}}
    DurableCheckpointIO().save_checkpoint(content, folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "way", ["../../precious", "../../precious/best.ckpt", "..", "photo.png", "folder.ckpt"]
)
def test_going_on_removes_nothing_that_a_checkpoint_names(tmp_path, way):
    run = tmp_path / "run"
    train(run, 2)
    for file in (tmp_path / "precious" / "best.ckpt", run / "checkpoints" / "folder.ckpt" / "x"):
        file.parent.mkdir()
        file.write_text("precious")
    (run / "checkpoints" / "photo.png").write_text("precious")
    forge(run, str(run / "checkpoints" / way))
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="no checkpoint of this run"):
        train(run, 4, ckpt=str(run / "checkpoints" / "last.ckpt"))
    assert there <= {path for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("numpy", ("MT19937", [0] * 624, 2**31 - 1, 0, 0.0)),  # NumPy would read beyond its state, and crash
        ("numpy", ("MT19937", [0] * 624, -1, 0, 0.0)),
        ("numpy", ("MT19937", [0], 0, 0, 0.0)),
        ("numpy", None),
        ("python", (3, (0,) * 7, None)),
        ("torch", torch.zeros(3, dtype=torch.uint8)),
        ("torch", "text"),
    ],
)
def test_a_random_state_that_is_none_is_refused(tmp_path, key, value):
    train(tmp_path, 2, RandomState())
    content = saved(tmp_path, "last")
    content["random_state"][0][key] = value
    path = tmp_path / "checkpoints" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content, path)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(CheckpointError, match="random state is none"):
            train(tmp_path, 4, RandomState(), ckpt=str(path))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@pytest.mark.timeout(20)
def test_no_pipe_in_a_run_folder_is_waited_for(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.lock, folder.record, tmp_path / "sweep.json"):
        os.mkfifo(path)
    assert folder.state() == "interrupted"
    assert folder.since() is None
    assert folder.progress() == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"\.lock: is a pipe"), folder.attempt():
        pass


@pytest.mark.parametrize("name", ["checkpoints", "images"])
def test_a_folder_that_leads_elsewhere_is_not_written_into(tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match=f"{name}: is a link"), RunFolder(tmp_path / "run").attempt():
        pass


# Experiments


WRITERS = {
    "callbacks.dirpath": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath"),
    "callbacks.filename": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "filename"),
    "logger.version": ("logger", "lightning.pytorch.loggers.CSVLogger", "version"),
}


@pytest.mark.parametrize("way", ["/tmp/precious", "~/precious", "../precious", "a/../../precious"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_lets_nothing_write_outside_of_the_run_folder(tmp_path, writer, way):
    group, target, key = WRITERS[writer]
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\n{group}:\n  mine:\n    _target_: {target}\n    {key}: {way}\n"
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    words = ("experiment=sly", "trainer=cpu", "budget=smoke", f"hydra.searchpath=[{tmp_path}]")
    with pytest.raises(ConfigError, match=f"{group}.mine.{key}: leads out of the run folder"):
        compose(*words)
    said = compose(*words, f"{group}.mine.{key}='{way}'")
    assert getattr(said, group)["mine"][key] == way


# Shards


@pytest.mark.parametrize("digest", ["../../precious/x", "/tmp/precious/xx", "0" * 63, "0" * 65, "", "G" * 64])
def test_the_digest_of_a_shard_is_no_path(tmp_path, digest):
    image = {"name": "a", "height": 8, "width": 8}
    shard = {"name": "0.safetensors", "size": 4, "sha256": digest, "source": "", "images": [image]}
    store = fsspec.filesystem("memory")
    store.pipe("/evil/index.json", json.dumps({"format": 1, "lr": [], "shards": [shard]}).encode())
    store.pipe("/evil/0.safetensors", b"evil")
    (tmp_path / "precious").mkdir()
    with pytest.raises(DataError, match=r"sha256: String should match pattern"):
        Shards(
            "memory://evil", read_index("memory://evil"), folder=tmp_path / "a" / "b", limit=1e9, keep_open=1
        ).file(0)
    assert list((tmp_path / "precious").iterdir()) == []


# Photographs


@pytest.mark.timeout(20)
def test_a_pipe_that_is_called_a_photograph_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="Expecting value"):
        untrusted.read_json(tmp_path / "photo.png")


def test_the_name_of_a_photograph_does_not_steer_the_terminal(tmp_path, capsys):
    file = tmp_path / "\x1b]0;evil\x07.png"
    file.write_bytes(b"no photograph")
    with pytest.raises(SystemExit):
        doctor.run(DoctorConfig.model_construct(folder=str(tmp_path)), tmp_path, [])
    assert "evil" in (shown := capsys.readouterr().out)
    assert "\x1b]" not in shown
    with pytest.raises(DataError) as refused:
        read_image(file)
    assert "\x1b" not in configuration.explain(refused.value)
