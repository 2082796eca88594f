"""Several processes train and measure like one; a process that dies or hangs is reported."""

import pytest
import torch

from tests import processes

MANY = (3, 4, 7)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Results for one process, for two, and for a process with a partner that never starts."""
    scenarios = ("exact:1", "exact:2", "one:2", "half:2", "rest:1", "measure:1", "measure:2", "norm:2")
    return processes.run(tmp_path_factory.mktemp("few"), *scenarios, "dies:2", "hangs:2", "alone:1")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The results of more than two processes."""
    scenarios = [f"measure:{world}" for world in (1, *MANY)]
    return processes.run(
        tmp_path_factory.mktemp("many"), *scenarios, "exact:1", "exact:4", "half:4", "rest:2"
    )


def difference(ours, theirs) -> float:
    """Largest difference in a parameter tensor, relative to the norm of the tensor."""
    return max(
        ((theirs["weights"][name] - value).norm() / value.norm()).item()
        for name, value in ours["weights"].items()
    )


def assert_follows(one, several, precision: str) -> None:
    assert len(several["losses"]) == processes.STEPS
    assert one["losses"][-1] < one["losses"][0]  # the loss falls
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-12 if precision == "64" else 1e-6)
    assert difference(one, several) < (1e-12 if precision == "64" else 1e-6)


CASES = [*(f"{name}-64" for name in processes.NETWORKS), "imdn-32"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_the_same_as_one_process_with_the_whole_batch(few, case):
    (one,), two = few["exact:1"], few["exact:2"]
    assert_follows(one[case], two[0][case], case[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_four_processes_learn_the_same_as_one_process_with_the_whole_batch(many, case):
    (one,), four = many["exact:1"], many["exact:4"]
    assert_follows(one[case], four[0][case], case[-2:])


def test_the_processes_of_a_run_end_with_the_same_weights(few):
    first, second = few["exact:2"]
    for key, values in first.items():
        assert all(torch.equal(second[key]["weights"][n], value) for n, value in values["weights"].items())


def test_two_runs_of_two_processes_are_equal_bit_for_bit(few):
    again, before = few["one:2"][0], few["exact:2"][0]["imdn-32"]
    assert again["losses"] == before["losses"]
    assert all(torch.equal(again["weights"][name], value) for name, value in before["weights"].items())


def test_one_process_resumes_a_run_of_two_processes(few):
    (whole,), halves = few["exact:1"], [few["half:2"][0], few["rest:1"][0]]
    assert sum(halves[0]["losses"] + halves[1]["losses"]) > 0
    joined = {"losses": halves[0]["losses"] + halves[1]["losses"], "weights": halves[1]["weights"]}
    assert_follows(whole["imdn-32"], joined, "32")


@pytest.mark.slow
def test_two_processes_resume_a_run_of_four_processes(many):
    (whole,), first, second = many["exact:1"], many["half:4"][0], many["rest:2"][0]
    joined = {"losses": first["losses"] + second["losses"], "weights": second["weights"]}
    assert_follows(whole["imdn-32"], joined, "32")


def test_two_processes_give_the_same_metrics_as_one_bit_for_bit(few):
    (one,) = few["measure:1"]
    assert len(one["images"]) == sum(count for _, count in processes.SETS)
    # Four pictures are saved of each image in these small sets, and a strip of each set's first two images.
    assert len(one["pictures"]) == 4 * len(one["images"]) + (2 + 2 + 1)
    assert few["measure:2"] == [one, one]


@pytest.mark.slow
@pytest.mark.parametrize("world", MANY)
def test_many_processes_give_the_same_metrics_as_one_bit_for_bit(many, world):
    assert many[f"measure:{world}"] == [many["measure:1"][0]] * world


def test_all_processes_measure_the_same_network_although_each_has_its_own_batch_statistics(few):
    first, second = few["norm:2"]
    assert first["psnr"] == second["psnr"]
    for name, value in first["statistics"].items():
        assert torch.equal(second["statistics"][name], value), name
    assert first["statistics"]["running_mean"].abs().max() > 0


def test_the_remaining_processes_end_at_once_with_one_sentence_if_a_process_is_lost(few):
    (left,) = few["dies:2"]
    assert left["told"] == (
        "training: another process of this run is gone; the same command resumes from the last checkpoint"
    )
    assert left["seconds"] < 5


def test_the_wait_for_a_process_that_hangs_ends_at_the_timeout(few):
    waiting, _ = few["hangs:2"]
    assert waiting["told"].startswith("training: a process has not answered for 2 s; it hangs or is gone")
    assert waiting["seconds"] < 5


def test_the_wait_for_a_process_that_does_not_start_ends_at_the_timeout(few):
    (left,) = few["alone:1"]
    assert left["told"] == (
        "trainer: after 3 s only 1 of 2 processes had joined; "
        "start all of them, or set a longer trainer.timeout"
    )
