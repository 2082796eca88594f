import pytest

from sr_lab.speed.benchmark import Benchmark, Spread, measure


def benchmark(name, calls, **values):
    """A benchmark whose variants return the given values in turn and record their calls."""

    def variant(key, given):
        def run():
            calls.append(key)
            return given.pop(0)

        return run

    variants = {key: variant(key, given) for key, given in values.items()}
    return Benchmark(name, variants, lambda seconds: {"ratio": seconds["slow"] / seconds["fast"]})


def test_a_ratio_is_computed_within_each_round_and_the_first_runs_do_not_count():
    # the ratio of the medians would be 6 / 2 = 3
    measured = measure([benchmark("c", [], fast=[9, 1, 2, 4], slow=[1, 6, 8, 4])], rounds=3)
    assert measured == {"c.ratio": Spread(median=4.0, q1=2.5, q3=5.0)}


def test_variants_take_turns():
    calls, ran = [], []
    measure([benchmark("c", calls, fast=[1] * 4, slow=[1] * 4)], rounds=3, ran=ran.append)
    assert calls[2:] == ["fast", "slow", "slow", "fast", "fast", "slow"]
    assert ran == [f"c.{name}" for name in calls]


def test_every_benchmark_is_measured_and_keeps_its_name():
    benchmarks = [benchmark(name, [], fast=[1, 1], slow=[2, 2]) for name in ("a", "b")]
    assert measure(benchmarks, rounds=1) == {f"{name}.ratio": Spread(2.0, 2.0, 2.0) for name in ("a", "b")}


def test_an_error_in_a_benchmark_is_raised():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure([Benchmark("c", {"broken": broken}, dict)])


def test_a_figure_that_is_missing_in_a_round_is_left_out():
    benchmarks = [Benchmark("c", {"all": lambda: 1.0}, lambda _: rounds.pop(0))]
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 3.0}]  # a variant ran out of memory in the second round
    assert measure(benchmarks, rounds=2) == {"c.a": Spread(2.0, 1.5, 2.5)}
