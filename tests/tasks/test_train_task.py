"""``task=train`` when other processes use the same run folder."""

import contextlib

from sr_lab.run_folder import RunFolder
from sr_lab.tasks import train
from tests.conftest import compose


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
    monkeypatch.setattr(train, "_show", lambda _: None)
    train.run(compose(*again), tmp_path / "run", again)
    assert trained
