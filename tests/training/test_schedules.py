import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from sr_lab.config import targets
from sr_lab.config.messages import explain
from tests.composing import compose

CONF = Path(__file__).parents[2] / "conf" / "schedule"
SCHEDULES = sorted(path.stem for path in CONF.glob("*.yaml"))


def optimizer(learning_rate):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)


def values(scheduler, number):
    """The learning rate of the first parameter group at t = 0 .. number - 1."""
    taken = []
    for _ in range(number):
        taken.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return taken


def from_conf(name, *settings):
    config = compose("trainer=cpu", "budget=paper", f"schedule={name}", *settings).schedule
    made = targets.build("schedule", config.scheduler)
    return made(optimizer(1e-3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_states_what_it_counts(name):
    assert OmegaConf.load(CONF / f"{name}.yaml").interval in ("step", "epoch", "validation")


def test_cosine_restart_follows_equation_13_over_three_restarts():
    period, low, high = 250, 1e-7, 1e-3
    expected = [
        low + (high - low) * (1 + math.cos(math.pi * (t % period) / period)) / 2
        for t in range(3 * period + 2)
    ]
    assert values(from_conf("cosine_restart"), len(expected)) == pytest.approx(expected, rel=1e-12)


def test_constant_keeps_the_learning_rate():
    assert values(from_conf("constant"), 10) == [1e-3] * 10


def test_step_halves_the_learning_rate_every_200_epochs():
    taken = values(from_conf("step"), 401)
    assert [taken[t] for t in (0, 199, 200, 399, 400)] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_cosine_ends_at_a_learning_rate_of_1e_7():
    taken = values(from_conf("cosine", "steps=100"), 101)
    assert [taken[t] for t in (0, 50, 100)] == pytest.approx([1e-3, (1e-3 + 1e-7) / 2, 1e-7])


def test_multistep_halves_at_the_steps_of_swinir():
    """500 000 steps, halved after 250, 400, 450 and 475 thousand; here a thousandth of them."""
    taken = values(from_conf("multistep", "steps=500"), 501)
    edges = [0, 250, 400, 450, 475]
    assert [taken[t] for t in edges] == pytest.approx([1e-3 / 2**n for n in range(5)])
    assert [taken[t - 1] for t in [*edges[1:], 501]] == pytest.approx([1e-3 / 2**n for n in range(5)])


def rising_and_falling(steps: int, warmup: int) -> list[float]:
    """In closed form: a line from a hundredth of the rate, then half a cosine down to 1e-7."""
    low, high = 1e-7, 1e-3
    line = [high * (0.01 + 0.99 * t / warmup) for t in range(warmup)]
    fall = steps - warmup
    return line + [low + (high - low) * (1 + math.cos(math.pi * t / fall)) / 2 for t in range(fall + 1)]


@pytest.mark.parametrize(
    ("steps", "settings", "warmup"),
    [(400, (), 8), (400, ("schedule.scheduler.milestones=[100]",), 100), (6, (), 1)],
)
def test_warmup_cosine_is_a_line_and_then_a_cosine(steps, settings, warmup):
    taken = values(from_conf("warmup_cosine", f"steps={steps}", *settings), steps + 1)
    assert taken == pytest.approx(rising_and_falling(steps, warmup), rel=1e-9)


def test_a_warm_up_that_leaves_no_steps_is_refused():
    with pytest.raises(OmegaConfBaseException) as caught:
        compose("trainer=cpu", "schedule=warmup_cosine", "steps=400", "schedule.scheduler.milestones=[500]")
    said = str(explain(caught.value))
    assert said.startswith("schedule: the warm-up takes 500 steps, but the training run has only 400; ")


def test_a_budget_shortens_the_warm_up_with_the_training():
    config = compose("trainer=cpu", "budget=short", "schedule=warmup_cosine")
    assert config.steps == 300
    assert config.schedule.scheduler["milestones"] == [6]


def test_plateau_halves_after_eleven_validations_without_a_hundredth_of_a_decibel():
    scheduler = from_conf("plateau")
    rates = []
    for psnr in [30.0, *[30.009] * 11, 30.02, *[30.02] * 11]:
        scheduler.step(psnr)
        rates.append(scheduler.get_last_lr()[0])
    assert rates == [1e-3] * 11 + [5e-4] * 12 + [2.5e-4]


def test_the_schedules_inside_a_sequence_get_its_optimizer_and_each_build_makes_new_ones():
    parts = [{"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 0.5}, LINEAR]
    made = targets.build("schedule", {**SEQUENCE, "schedulers": parts, "milestones": [2]})
    for own in (optimizer(1.0), optimizer(1.0)):
        scheduler = made(own)
        assert scheduler.optimizer is own
        assert values(scheduler, 5) == pytest.approx([0.5, 0.5, 0.5, 0.6, 0.7])


LINEAR = {"_target_": "torch.optim.lr_scheduler.LinearLR", "_partial_": True, "start_factor": 0.5}
SEQUENCE = {"_target_": "torch.optim.lr_scheduler.SequentialLR", "_partial_": True}
