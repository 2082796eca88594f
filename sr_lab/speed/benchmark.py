"""Measure speed: variants take turns, and a ratio compares two runs of the same round."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Benchmark:
    """Variants measured in turn, round by round, so that a slow phase of the machine affects all of them.

    Args:
        name: First part of every key, e.g. ``loader``.
        variants: The functions to measure; each call does one run and returns its seconds or a rate.
        figures: Turns the results of a round's variants into named values, e.g. ``{"ratio_to_png": 62.0}``.
    """

    name: str
    variants: Mapping[str, Callable[[], float]]
    figures: Callable[[Mapping[str, float]], Mapping[str, float]]


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Mean seconds per run; a GPU is synchronised before and after."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    q1: float
    q3: float


def measure(
    benchmarks: Sequence[Benchmark], rounds: int = 5, *, ran: Callable[[str], object] = lambda _: None
) -> dict[str, Spread]:
    """Measure benchmarks one after the other, after one call of each variant to warm up.

    Every other round runs in the opposite order, so that no variant always runs after the same one.

    Args:
        benchmarks: What to measure.
        rounds: Number of measured runs of each variant, at least 1.
        ran: Called back with ``<benchmark>.<variant>`` after every run, for a progress bar.

    Returns:
        ``<name>.<figure>`` -> its spread over the rounds, in the order of the benchmarks. A value that is
        missing in a round because a variant failed is left out.
    """
    spreads: dict[str, Spread] = {}
    for benchmark in benchmarks:
        order = list(benchmark.variants)
        of_rounds: list[Mapping[str, float]] = []
        for number in range(rounds + 1):
            measured: dict[str, float] = {}
            for variant in order if number % 2 else reversed(order):
                measured[variant] = benchmark.variants[variant]()
                ran(f"{benchmark.name}.{variant}")
            if number > 0:
                of_rounds.append(benchmark.figures(measured))
        for figure in (name for name in of_rounds[0] if all(name in values for values in of_rounds)):
            q1, median, q3 = np.quantile([values[figure] for values in of_rounds], [0.25, 0.5, 0.75]).tolist()
            spreads[f"{benchmark.name}.{figure}"] = Spread(median=median, q1=q1, q3=q3)
    return spreads
