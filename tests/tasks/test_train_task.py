"""``task=train`` when other processes use the same run folder, and what it records of ``init_ckpt``."""

import contextlib

import pytest
import torch

from sr_lab.checkpoints.opening import build_network
from sr_lab.config.schema import TrainConfig
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder
from sr_lab.tasks import train
from sr_lab.training import build
from tests.composing import compose


def test_a_run_that_another_process_finishes_before_the_lock_is_taken_is_not_trained_again(
    tmp_path, monkeypatch, capsys
):
    locked = RunFolder.attempt
    trained = []

    @contextlib.contextmanager
    def finished_meanwhile(folder):
        folder.path.mkdir()
        folder.write_metrics({"test/sample/psnr_y": 30.0, "test/sample/ssim_y": 0.9, "protocol": "rgb_uint8"})
        with locked(folder):
            yield

    monkeypatch.setattr(RunFolder, "attempt", finished_meanwhile)
    monkeypatch.setattr(train, "_train", lambda *_, **__: trained.append(1))
    overrides = ("model=imdn", "trainer=cpu", "budget=smoke", "scale=2")
    train.run(compose(*overrides), tmp_path / "run", overrides)
    assert not trained
    assert f"already finished: {tmp_path}/run" in capsys.readouterr().out
    again = (*overrides, "resume=never")
    monkeypatch.setattr(RunFolder, "attempt", locked)
    monkeypatch.setattr(train, "_show", lambda *_: None)
    train.run(compose(*again), tmp_path / "run", again)
    assert trained


def test_a_training_run_says_that_it_validates_on_fewer_images_than_asked():
    assert train._fewer_held_out(10, 10) == train._fewer_held_out(2, 10) == ""
    assert "on 3 images, all that the dataset holds out (validation.count=10)" in train._fewer_held_out(10, 3)


@pytest.mark.parametrize(
    ("name", "of", "known"),
    [
        ("own_x2.pth", ("model=osffnet", "scale=2"), 2),
        ("own_x4.pth", ("model=osffnet", "scale=4"), 4),
        ("imdn_x4.pth", ("model=imdn", "scale=4"), None),
        ("narrow_x2.pth", ("model=osffnet", "+model.num_feat=32", "scale=2"), None),
    ],
)
def test_the_network_and_the_scale_of_the_initial_weights_are_recorded(tmp_path, name, of, known):
    torch.save(build_network(compose(*of, "trainer=cpu")).state_dict(), tmp_path / name)
    config = compose("model=osffnet", "scale=4", "trainer=cpu", f"init_ckpt={tmp_path}/{name}")
    assert isinstance(config, TrainConfig)
    started = build.started_from(config)["started_from"]
    assert (started and (started["model"], started["scale"])) == (known and (config.model, known))


def test_the_network_that_a_run_folder_describes_is_recorded(tmp_path):
    own = compose("model=imdn", "+model.num_feat=16", "scale=3", "trainer=cpu")
    network = {f"network.{name}": value for name, value in build_network(own).state_dict().items()}
    described = own.model_dump(include={"model", "upsampler", "strategy", "scale"}) | {"version": 1}
    torch.save({"state_dict": network, "sr_lab": described}, tmp_path / "best.ckpt")
    config = compose("model=osffnet", "scale=4", "trainer=cpu", f"init_ckpt={tmp_path}/best.ckpt")
    assert isinstance(config, TrainConfig)
    started = build.started_from(config)["started_from"]
    assert started == own.model_dump(include={"model", "strategy", "scale"})


@pytest.mark.parametrize("word", ["sweep.jobs=2", "sweep.retry_failed=true"])
def test_a_setting_of_a_sweep_is_refused_for_one_run(tmp_path, word):
    config = compose("trainer=cpu", "budget=smoke", word)
    assert isinstance(config, TrainConfig)
    with pytest.raises(ConfigError, match="sweep: is used only by a multirun"):
        train.run(config, tmp_path / "run", [word])
    assert not (tmp_path / "run").exists()
