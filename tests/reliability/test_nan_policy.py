"""If the loss or gradient of a step is not finite, the run skips the step or ends, and saves the batch."""

import json

import pytest
import torch

from tests.reliability.comparing import checkpoint, differences, rows


def spoil(what: str, value: str, *steps: int) -> tuple[str, ...]:
    """Overrides for a run in which the loss or gradient of these steps is not finite."""
    return (
        "+callbacks.spoil._target_=tests.reliability.plugins.Spoil",
        f"+callbacks.spoil.steps={list(steps)}",
        f"+callbacks.spoil.what={what}",
        f"+callbacks.spoil.value={value}",
    )


CASES = [
    ("loss", "nan"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (("loss", "inf"), ("gradient", "nan"))),
    ("gradient", "inf"),
]


@pytest.mark.parametrize(("what", "value"), CASES)
def test_the_run_stops_at_the_step_that_it_names_and_resumes_from_the_last_checkpoint(
    forge, whole, tmp_path, what, value
):
    folder = tmp_path / "run"
    ended = forge.train(folder, *spoil(what, value, 12))
    assert ended.code == 1
    (line,) = [line for line in ended.said.splitlines() if line.startswith("sr_lab.errors.ConfigError")]
    assert f"training: the {'loss' if what == 'loss' else 'norm of the gradient'} is " in line
    kept = folder / "nan" / "step-12.pt"
    assert f" at step 12 (its batch is in '{kept}'); the last checkpoint was saved before that" in line
    assert checkpoint(folder, "last")["global_step"] == 10
    assert forge.train(folder).code == 0
    assert differences(whole, folder) == []


def test_the_batch_is_kept_with_its_names_samples_and_seed(forge, tmp_path):
    forge.train(tmp_path / "run", *spoil("loss", "nan", 3))
    kept = torch.load(tmp_path / "run" / "nan" / "step-3.pt", weights_only=True)
    assert kept["samples"] == [4, 5]
    assert (kept["step"], kept["seed"]) == (3, 0)
    assert kept["lr"].shape == (2, 3, 16, 16)
    assert kept["hr"].shape == (2, 3, 32, 32)
    assert len(kept["name"]) == len(kept["dihedral"]) == 2


@pytest.mark.parametrize(("what", "value"), CASES)
def test_a_skipped_step_is_counted_and_leaves_the_weights_finite(forge, tmp_path, what, value):
    folder = tmp_path / "run"
    bad = range(6, 10)
    ended = forge.train(folder, "nan_policy=skip", *spoil(what, value, *bad, 24))
    assert ended.code == 0, ended.said
    assert ended.said.count("such steps are skipped") == 1
    assert json.loads((folder / "metrics.json").read_text())["skipped_steps"] == 5
    assert all(value.isfinite().all() for value in checkpoint(folder, "last")["state_dict"].values())
    assert sorted(path.name for path in (folder / "nan").iterdir()) == sorted(
        f"step-{step}.pt" for step in [*bad, 24]
    )
    assert {row["step"] for row in rows(folder)} == {str(step) for step in range(1, 25)}


@pytest.mark.parametrize("optimizer", [(), ("+optimizer.fused=true",)], ids=str)
def test_skipped_steps_change_no_weight(forge, tmp_path, optimizer):
    folder = tmp_path / "run"
    assert forge.train(folder, "nan_policy=skip", *optimizer, *spoil("loss", "nan", *range(21, 25))).code == 0
    before, after = checkpoint(folder, "previous"), checkpoint(folder, "last")  # state_dict is an average
    assert (before["global_step"], after["global_step"]) == (20, 24)
    weights = before["current_model_state"]
    assert weights.keys() == after["current_model_state"].keys()
    for name, value in weights.items():
        assert torch.equal(value, after["current_model_state"][name]), name


def test_at_most_ten_batches_are_kept(forge, tmp_path):
    forge.train(tmp_path / "run", "nan_policy=skip", *spoil("loss", "nan", *range(1, 25, 2)))
    assert len(list((tmp_path / "run" / "nan").iterdir())) == 10
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["skipped_steps"] == 12
