"""The learning rate of a schedule over a training run, without training anything."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sr_lab.errors import ConfigError

_POINTS = 2000  # as many as a figure can show


def rates(
    make_scheduler: Callable[..., LRScheduler],
    *,
    learning_rate: float,
    steps: int,
    steps_per_unit: float,
) -> tuple[list[float], list[float]]:
    """Steps of a training run, and the learning rate at each.

    Args:
        make_scheduler: Called with an optimizer.
        learning_rate: Learning rate at which the schedule starts.
        steps: Number of optimizer steps of the run.
        steps_per_unit: Number of optimizer steps after which the scheduler advances by one.

    Raises:
        ConfigError: The schedule depends on validation results.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            "schedules: ReduceLROnPlateau depends on validation results; draw a training run with "
            "own_runs=<its folder>"
        )
    units = max(1, math.ceil(steps / steps_per_unit))
    every = math.ceil(units / _POINTS)
    optimizer.step()  # a scheduler warns if it advances before its optimizer
    found: list[tuple[float, float]] = []
    for unit in range(units):
        if unit:
            scheduler.step()
        if unit % every == 0 or unit == units - 1:
            found.append((unit * steps_per_unit, float(optimizer.param_groups[0]["lr"])))
    return [step for step, _ in found], [rate for _, rate in found]
