import math
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

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


def from_conf(name, learning_rate, **settings):
    config = OmegaConf.create({**settings, "schedule": OmegaConf.load(CONF / f"{name}.yaml")})
    return hydra.utils.instantiate(config.schedule.scheduler)(optimizer(learning_rate))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_states_whether_it_counts_steps_or_epochs(name):
    assert OmegaConf.load(CONF / f"{name}.yaml").interval in ("step", "epoch")


def test_cosine_restart_follows_equation_13_over_three_restarts():
    period, low, high = 250, 1e-7, 1e-3
    expected = [
        low + (high - low) * (1 + math.cos(math.pi * (t % period) / period)) / 2
        for t in range(3 * period + 2)
    ]
    assert values(from_conf("cosine_restart", high), len(expected)) == pytest.approx(expected, rel=1e-12)


def test_constant_keeps_the_learning_rate():
    assert values(from_conf("constant", 1e-3), 10) == [1e-3] * 10


def test_step_halves_the_learning_rate_every_200_epochs():
    taken = values(from_conf("step", 1e-3), 401)
    assert [taken[t] for t in (0, 199, 200, 399, 400)] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_cosine_ends_at_a_learning_rate_of_1e_7():
    taken = values(from_conf("cosine", 1e-4, steps=100), 101)
    assert [taken[t] for t in (0, 50, 100)] == pytest.approx([1e-4, (1e-4 + 1e-7) / 2, 1e-7])
