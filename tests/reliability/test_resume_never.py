"""Runs lose nothing if they train from scratch or if their checkpoints were removed or damaged."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from sr_lab.errors import CheckpointError
from sr_lab.run_folder import RunFolder
from sr_lab.training.checkpointing import to_test
from tests.reliability.comparing import checkpoint, differences
from tests.reliability.forge import INTERVAL, TWO
from tests.reliability.test_kill import KILLED, die
from tests.reliability.test_signals import ask

NEVER = "resume=never"


@pytest.fixture(scope="module")
def whole(whole_of_two) -> Path:
    """A finished run."""
    return whole_of_two


def contents(folder: Path) -> dict[str, bytes]:
    kept = (*(folder / "checkpoints").iterdir(), folder / "metrics.csv", folder / "metrics.json")
    return {path.name: path.read_bytes() for path in kept}


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("benchmark.sets=[Set14]", "there is no folder"),
        ("freeze=['*']", "has only frozen weights"),
    ],
)
def test_a_run_that_cannot_start_from_scratch_keeps_its_earlier_files(
    forge, whole, tmp_path, mistake, sentence
):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in (
        "identity.json",
        "config.yaml",
    ):  # otherwise it would be refused as the folder of another run
        (folder / name).unlink()
    before = contents(folder)
    ended = forge.train(folder, NEVER, *TWO, mistake)
    assert ended.code == 1
    assert sentence in ended.said
    assert contents(folder) == before


def test_an_earlier_attempt_is_kept_until_the_new_one_has_saved_a_checkpoint(forge, whole, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole, folder.path)
    last = (folder.checkpoints / "last.ckpt").read_bytes()
    for _ in range(2):  # the first killed attempt leaves no checkpoint to keep
        ended = forge.train(folder.path, NEVER, *ask(2, signal.SIGKILL))
        assert ended.code == KILLED, ended.said
        assert (folder.earlier / "last.ckpt").read_bytes() == last
        assert not folder.metrics.exists()
    assert forge.train(folder.path, NEVER, *TWO).code == 0
    assert not folder.earlier.exists()
    assert differences(whole, folder.path) == []


def test_a_job_that_started_from_scratch_resumes_when_it_is_requeued(forge, whole, tmp_path, scontrol):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    first = forge.train(folder, NEVER, *ask(7, signal.SIGUSR1), **scontrol)
    assert first.code == 138, first.said
    again = forge.train(folder, NEVER, *ask(7, signal.SIGUSR1), **scontrol, SLURM_RESTART_COUNT="1")
    assert again.code == 0, again.said
    assert f"resumes from {folder / 'checkpoints' / 'last.ckpt'}" in again.said
    assert differences(whole, folder) == []
    assert "already finished" in forge.train(folder, NEVER, *TWO, **scontrol, SLURM_RESTART_COUNT="2").said


def test_a_job_that_ended_too_early_to_start_from_scratch_does_so_when_it_is_requeued(forge, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    job = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}
    ended = forge.train(folder, NEVER, *ask(2, signal.SIGKILL), **job)
    assert ended.code == KILLED
    assert "resumes from" not in ended.said
    assert RunFolder(folder).started_over_by("17")


def test_a_process_that_torchrun_restarts_resumes(forge, tmp_path):
    job = {"TORCHELASTIC_RUN_ID": "a"} | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
    job |= dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), "0")
    folder = tmp_path / "run"
    assert forge.train(folder, NEVER, *ask(7, signal.SIGTERM), **job).code == 143
    again = forge.train(folder, NEVER, *ask(9, signal.SIGTERM), **job, TORCHELASTIC_RESTART_COUNT="1")
    assert again.code == 143
    assert checkpoint(folder, "last")["global_step"] == 9
    assert "resumes from" in again.said


WORSE = ("+optimizer.maximize=true",)  # training makes the network worse: the first validation stays the best


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("harm", "how"),
    [
        (damage, "damaged, and renamed to damaged.ckpt"),
        pytest.param(Path.unlink, "missing", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_lost_its_best_checkpoint_tests_the_best_remaining_checkpoint(forge, tmp_path, harm, how):
    folder = tmp_path / "run"
    assert forge.train(folder, *WORSE, *die(17)).code == KILLED
    assert checkpoint(folder, "best")["global_step"] == INTERVAL
    harm(folder / "checkpoints" / "best.ckpt")
    ended = forge.train(folder, *WORSE)
    assert ended.code == 0, ended.said
    assert f"resume: best.ckpt is {how}" in ended.said
    assert checkpoint(folder, "best")["global_step"] == 4 * INTERVAL
    best = max(RunFolder(folder).validations().values())
    why = f"best.ckpt; the checkpoint with the best validation PSNR ({best:.2f} dB) is lost"
    assert json.loads((folder / "metrics.json").read_text())["tested"] == why


@pytest.mark.parametrize("harm", [pytest.param(damage, marks=pytest.mark.slow), Path.unlink])
def test_a_run_that_only_needs_testing_uses_the_last_checkpoint_if_the_best_is_lost(
    forge, whole, tmp_path, harm
):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole, folder.path)
    assert "tested" not in folder.read_metrics()
    folder.metrics.unlink()
    harm(folder.checkpoints / "best.ckpt")
    ended = forge.train(folder.path, *TWO)
    assert ended.code == 0, ended.said
    assert folder.read_metrics()["tested"].startswith(
        "last.ckpt; the checkpoint with the best validation PSNR ("
    )


def test_the_message_names_the_best_checkpoint_if_no_checkpoint_can_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file '.*best\.ckpt'"):
        to_test(tmp_path)


def test_a_run_whose_checkpoints_are_all_removed_says_that_it_starts_at_step_0(forge, whole, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole, folder.path)
    folder.metrics.unlink()
    shutil.rmtree(folder.checkpoints)
    ended = forge.train(folder.path, *TWO)
    assert "there is no checkpoint for the 24 steps in" in "".join(ended.said.splitlines())
    assert differences(whole, folder.path) == []
