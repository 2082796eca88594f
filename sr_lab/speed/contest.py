"""How a speed is measured: contenders take turns, and a ratio is of two runs that stood side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contest:
    """Contenders measured in turn, round by round, so that a slow minute of the machine slows all of them.

    Args:
        name: First part of every key, e.g. ``loader``.
        contenders: What is measured: each call does one run and returns its seconds, or a rate.
        figures: Figures of one round from what its contenders returned, e.g. ``{"ratio_to_png": 62.0}``.
    """

    name: str
    contenders: Mapping[str, Callable[[], float]]
    figures: Callable[[Mapping[str, float]], Mapping[str, float]]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    q1: float
    q3: float


def play(
    contests: Sequence[Contest], rounds: int = 5, *, ran: Callable[[str], object] = lambda _: None
) -> dict[str, Spread]:
    """Measure contests one after the other, after one call of each contender to warm up.

    Every other round goes the other way round: what is run after another finds the same caches as before it.

    Args:
        contests: What to measure.
        rounds: Runs of each contender that count, at least 1.
        ran: Told ``<contest>.<contender>`` after every run, for a progress bar.

    Returns:
        ``<name>.<figure>`` -> its spread over the rounds, in the order of the contests. A figure that a round
        lacks, since a contender did not run to its end, is none.
    """
    spreads: dict[str, Spread] = {}
    for contest in contests:
        order = list(contest.contenders)
        of_rounds: list[Mapping[str, float]] = []
        for number in range(rounds + 1):
            measured: dict[str, float] = {}
            for contender in order if number % 2 else reversed(order):
                measured[contender] = contest.contenders[contender]()
                ran(f"{contest.name}.{contender}")
            if number > 0:
                of_rounds.append(contest.figures(measured))
        for figure in (name for name in of_rounds[0] if all(name in values for values in of_rounds)):
            q1, median, q3 = np.quantile([values[figure] for values in of_rounds], [0.25, 0.5, 0.75]).tolist()
            spreads[f"{contest.name}.{figure}"] = Spread(median=median, q1=q1, q3=q3)
    return spreads
