"""Two processes continue or end together if one of them gets a NaN or a signal or ends early."""

import itertools
import json
import signal
import time
from pathlib import Path

import pytest

from tests.command_line import SMOKE, run_folder, sr_lab
from tests.reliability import results
from tests.reliability.comparing import checkpoint, differences
from tests.reliability.test_signals import HEARD

ROOT = str(Path(__file__).parents[2])
TWO = ("batch_size=4", "budget.max_batch_size=4", "strategy=ggas")  # GGAS has batch norm
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "logger=none", "num_workers=0")
SMALL = (*(argument for argument in SMOKE if argument != "trainer=cpu"), *DDP, "allow=[tests]")
WEIGHTS = "+callbacks.weights._target_=tests.reliability.plugins.Weights"


@pytest.fixture(scope="module")
def whole(forge, tmp_path_factory) -> Path:
    """An undisturbed run with two processes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = forge.train(folder, *TWO, ranks=2)
    assert ended.codes == (0, 0), ended.said
    return folder


def spoil(*steps: int, rank: int) -> tuple[str, ...]:
    """Overrides for a run in which the loss of one process is NaN at these steps."""
    return (
        "+callbacks.spoil._target_=tests.reliability.plugins.Spoil",
        *(
            f"+callbacks.spoil.steps={list(steps)}",
            "+callbacks.spoil.what=loss",
            "+callbacks.spoil.value=nan",
        ),
        f"+callbacks.spoil.ranks=[{rank}]",
    )


def weights(folder: Path, rank: int) -> list[tuple[str, ...]]:
    """Digests of parameters and of buffers after each step."""
    return [tuple(line.split()) for line in (folder / f"weights{rank}.txt").read_text().splitlines()]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_step_with_a_nan_loss_on_one_rank_is_skipped_by_both_ranks(forge, tmp_path, rank):
    folder = tmp_path / "run"
    ended = forge.train(folder, *TWO, WEIGHTS, "nan_policy=skip", *spoil(12, 13, rank=rank), ranks=2)
    assert ended.codes == (0, 0), ended.said
    assert ended.said.count("such steps are skipped") == 1
    first, second = weights(folder, 0), weights(folder, 1)
    assert [parameters for parameters, _ in first] == [parameters for parameters, _ in second]
    for own in (first, second):
        assert own[10] == own[11] == own[12]  # both the weights and the batch norm statistics
        assert own[12][0] != own[13][0]
        assert own[12][1] != own[13][1]
    assert json.loads((folder / "metrics.json").read_text())["skipped_steps"] == 2
    assert sorted(path.name for path in (folder / "nan").iterdir()) == ["step-12.pt", "step-13.pt"]


def test_a_skipped_step_leaves_the_batch_norm_statistics_unchanged(forge, tmp_path):
    folder = tmp_path / "run"
    ended = forge.train(folder, "strategy=ggas", WEIGHTS, "nan_policy=skip", *spoil(7, 8, rank=0))
    assert ended.code == 0, ended.said
    own = weights(folder, 0)
    assert own[5] == own[6] == own[7]
    assert all(before[1] != after[1] for before, after in itertools.pairwise(own[7:]))


@pytest.mark.slow
def test_a_nan_loss_on_one_rank_ends_both_ranks_and_they_resume_bit_equal(forge, whole, tmp_path):
    folder = tmp_path / "run"
    ended = forge.train(folder, *TWO, *spoil(12, rank=1), ranks=2)
    assert ended.codes == (1, 1)
    assert [path.name for path in (folder / "nan").iterdir()] == ["step-12.pt"]
    assert checkpoint(folder, "last")["global_step"] == 10
    assert forge.train(folder, *TWO, ranks=2).codes == (0, 0)
    assert differences(whole, folder) == []


@pytest.mark.slow
def test_a_nan_that_ends_a_run_of_two_processes_is_reported_once(tmp_path):
    done = sr_lab(tmp_path, *SMALL, *spoil(3, rank=1), PYTHONPATH=ROOT)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: training: ")
    assert " at step 3 (its batch is in '" in line


CASES = [("SIGUSR1", 1)]


@pytest.mark.parametrize(
    "cases",
    [CASES, pytest.param([(name, rank) for name in HEARD for rank in (-1, 0, 1)], marks=pytest.mark.slow)],
    ids=len,
)
@pytest.mark.timeout(2000)
def test_ranks_that_get_a_signal_save_the_same_step_and_resume_bit_equal(
    forge, whole, tmp_path, cases, scontrol
):
    lost, started, requeued = [], time.perf_counter(), tmp_path / "asked.txt"
    for name, rank in cases:
        folder = tmp_path / f"{name}{rank}" / "run"
        ask = (
            "+callbacks.ask._target_=tests.reliability.plugins.Ask",
            *("+callbacks.ask.step=7", f"+callbacks.ask.number={int(getattr(signal, name))}"),
            f"+callbacks.ask.rank={rank}",
        )
        ended = forge.train(folder, *TWO, *ask, ranks=2, **scontrol)
        found = [] if ended.codes == (HEARD[name], HEARD[name]) else [f"codes {ended.codes}: {ended.said}"]
        # the ranks agree during the next step
        found += [] if checkpoint(folder, "last")["global_step"] == 8 else ["another step"]
        said = requeued.read_text() if requeued.exists() else ""
        found += [] if said == ("requeue 17\n" if name == "SIGUSR1" else "") else [said]  # one rank only
        requeued.unlink(missing_ok=True)
        again = forge.train(folder, *TWO, *ask, ranks=2, **scontrol)
        found += differences(whole, folder) if again.codes == (0, 0) else [again.said]
        lost += [f"{name} to {rank}: {found}"] if found else []
    if len(cases) > len(CASES):
        seconds = time.perf_counter() - started
        results.store("signal to two processes, or to one", count=len(cases), lost=len(lost), seconds=seconds)
    assert lost == []


def identities(folder: Path) -> list[str]:
    """The W&B id of each attempt, from the end of its folder's name."""
    return [path.name.split("-", 3)[3] for path in (folder / "wandb").glob("offline-run-*")]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_killed_and_requeued_stays_a_single_wandb_run(forge, tmp_path, ranks, scontrol):
    folder, wandb = tmp_path / "mren_x4-12ab34cd", ("logger=wandb", *TWO)
    die = (
        "+callbacks.die._target_=tests.reliability.plugins.SaveAndDie",
        *("+callbacks.die.steps=[12]", "+callbacks.die.interval=5"),
        "+callbacks.ask._target_=tests.reliability.plugins.Ask",
        *("+callbacks.ask.step=17", f"+callbacks.ask.number={int(signal.SIGUSR1)}"),
    )
    codes = [
        forge.train(folder, *wandb, *die, ranks=ranks, HOME=str(tmp_path), **scontrol).code for _ in range(3)
    ]
    assert codes == [-signal.SIGKILL, 138, 0]
    assert identities(folder) == [folder.name] * 3  # one folder per attempt, not per process


EARLY = """
import os
import lightning
from sr_lab.errors import DataError

class Early(lightning.Callback):
    def __init__(self):
        if os.environ.get("LOCAL_RANK") == "1":
            raise DataError("dataset: this machine has no images")
"""


@pytest.mark.slow
def test_the_run_does_not_wait_for_a_rank_that_ends_before_it_joins(tmp_path):
    (tmp_path / "early.py").write_text(EARLY)
    arguments = (*SMALL, "allow=[early]", "+callbacks.early._target_=early.Early")
    done = sr_lab(tmp_path, *arguments, PYTHONPATH=f"{tmp_path}:{ROOT}", timeout=90)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: dataset: this machine has no images",
        "error: training: process 1 ended with exit code 2 (its message says why); "
        "the same command resumes from the last checkpoint",
    ]
    assert not (run_folder(tmp_path) / "metrics.json").exists()
