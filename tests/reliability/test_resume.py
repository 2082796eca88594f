"""Runs that resume with other settings or after an early stop give the same results."""

import signal
from pathlib import Path

import pytest
import torch

from sr_lab.run_folder import RunFolder
from tests.reliability.comparing import checkpoint, differences, rows
from tests.reliability.forge import INTERVAL

KILLED = -signal.SIGKILL
NOT_TRAINED = "body"


def die(*steps: int) -> tuple[str, ...]:
    """Overrides for a run that saves and dies after these steps."""
    return (
        "+callbacks.die._target_=tests.reliability.plugins.SaveAndDie",
        f"+callbacks.die.steps={list(steps)}",
        f"+callbacks.die.interval={INTERVAL}",
    )


def figures(folder: Path) -> dict[tuple[str, str], float]:
    """The values of the record by step and column."""
    return {
        (row["step"], key): float(value)
        for row in rows(folder)
        for key, value in row.items()
        if value and key != "step"
    }


@pytest.fixture(scope="module")
def finished(whole) -> tuple[Path, dict[tuple[str, str], float]]:
    """An undisturbed run with two accumulated batches per step, and its record."""
    return whole, figures(whole)


@pytest.mark.parametrize("accumulated", [(1, 2, 1), (2, 1, 2)], ids=str)
def test_a_run_that_resumes_with_another_number_of_accumulated_batches_gives_the_same_record(
    forge, finished, tmp_path, accumulated
):
    """Step 3 is odd, so a wrong batch count after the resume would shift the step boundaries."""
    folder = tmp_path / "run"
    codes = [
        forge.train(folder, f"trainer.accumulate_grad_batches={number}", *die(3, 14)).code
        for number in accumulated
    ]
    assert codes == [KILLED, KILLED, 0]
    assert figures(folder) == pytest.approx(finished[1], abs=1e-5)  # floats are summed in a different order


# With these schedules, each step or each validation changes the learning rate.
OTHER_SCHEDULES = [
    ("schedule=warmup_cosine", "schedule.scheduler.milestones=[10]"),
    ("schedule=plateau", "schedule.scheduler.threshold=9", "schedule.scheduler.patience=0"),
    pytest.param(("schedule=multistep",), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("schedule", OTHER_SCHEDULES, ids=lambda schedule: schedule[0])
def test_a_run_killed_at_a_validation_and_after_it_resumes_bit_equal_with_every_schedule(
    forge, tmp_path, schedule
):
    """Frozen weights and the average of the weights resume too."""
    settings = (f"freeze=[{NOT_TRAINED}]",)
    assert forge.train(tmp_path / "whole", *settings, schedule=schedule).code == 0
    cases = die(10, 14)
    codes = [forge.train(tmp_path / "run", *settings, *cases, schedule=schedule).code for _ in range(3)]
    assert codes == [KILLED, KILLED, 0]
    assert differences(tmp_path / "whole", tmp_path / "run") == []
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run") if row["learning_rate"]]
    assert len(set(rates)) >= 4


def test_frozen_weights_keep_their_values_have_no_optimizer_state_and_equal_their_average(forge, tmp_path):
    ended = forge.train(tmp_path / "run", f"freeze=[{NOT_TRAINED}]")
    assert ended.code == 0, ended.said
    assert "parameters, which keep their random initial values, since there is no init_ckpt" in ended.said
    last = checkpoint(tmp_path / "run", "last")
    names = [name.removeprefix("network.") for name in last["current_model_state"] if "network." in name]
    frozen = [name for name in names if name.startswith(f"{NOT_TRAINED}.")]
    trained = [name for name in names if name not in frozen]
    assert frozen
    assert len(last["optimizer_states"][0]["state"]) == len(trained)
    for name in names:
        raw, average = last["current_model_state"][f"network.{name}"], last["state_dict"][f"network.{name}"]
        assert torch.equal(raw, average) == (name in frozen)


STOPS = (
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
    *("+callbacks.stop.monitor=val/psnr_y", "+callbacks.stop.mode=max"),
    *("+callbacks.stop.patience=1", "+callbacks.stop.min_delta=100"),  # no improvement is this large
)


def test_a_run_stopped_early_says_so_and_stays_stopped(forge, tmp_path):
    folder = RunFolder(tmp_path / "run")
    ended = forge.train(folder.path, *STOPS)
    assert ended.code == 0, ended.said
    assert f"at step {2 * INTERVAL} of 24" in ended.said
    before = folder.read_metrics()
    assert (before["steps"], before["planned_steps"]) == (2 * INTERVAL, 24)
    folder.metrics.unlink()  # as if the run had been killed during its test
    assert forge.train(folder.path, *STOPS).code == 0
    after = folder.read_metrics()
    assert after["steps"] == 2 * INTERVAL
    assert after["images"] == before["images"]


def test_a_finished_run_names_the_sets_it_was_not_measured_on_and_the_command_that_measures_them(
    forge, finished
):
    folder, _ = finished
    assert "not measured" not in forge.train(folder).said
    metrics = RunFolder(folder).read_metrics()
    assert metrics["steps"] == 24
    assert "planned_steps" not in metrics
    said = forge.train(folder, "benchmark.sets=[Tiny,Set5]").said
    assert (
        "benchmark: this run was not measured on Set5 with rgb_uint8; run task=evaluate "
        f"'ckpt={folder}' 'benchmark.sets=[Set5]' benchmark.protocol=rgb_uint8"
    ) in said
    assert "resume=never" not in said
    said = forge.train(folder, "benchmark.lr=given").said
    assert "on Tiny with rgb_uint8 on given LR; run " in said
    given = f"benchmark.protocol=rgb_uint8 benchmark.lr=given 'paths.data_dir={forge.folder}/data'"
    assert said.rstrip().endswith(given)


def test_a_nan_result_fails_the_run(forge, tmp_path):
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):  # the second attempt fails too
        ended = forge.train(folder.path, "nan_policy=skip", "learning_rate=1e30")
        assert ended.code == 1
        assert "the weights diverged; " in ended.said
        assert "steps were skipped (nan_policy); lower learning_rate" in ended.said
        assert folder.state() == "failed"


def test_a_similar_unfinished_run_is_named_with_the_settings_that_differ(forge, tmp_path):
    assert forge.train(tmp_path / "a", *die(4)).code == KILLED
    said = forge.train(tmp_path / "b", "trainer.gradient_clip_val=0.5", "seed=1", *die(4)).said
    (line,) = [line for line in said.splitlines() if line.startswith("resume: ")]
    assert line == (
        f"resume: '{tmp_path}/a' stopped at step 4 and is unfinished; this run differs in seed (0 there, 1 "
        "here), trainer.gradient_clip_val (None there, 0.5 here), so it is a new run"
    )
    said = forge.train(tmp_path / "c", "trainer.gradient_clip_val=0.5", *die(4)).said
    assert f"resume: '{tmp_path}/a' " not in said  # run b differs just as little and is newer
    assert f"resume: '{tmp_path}/b' stopped at step 4 and is unfinished; this run differs in seed (1" in said
    (tmp_path / "a" / "metrics.csv").unlink()
    said = forge.train(tmp_path / "a").said  # the unfinished run resumes
    assert "is unfinished;" not in said
    assert "metrics.csv: the rows up to step 4, from which the run resumes, are missing" in said
