"""In the plot of quality against cost, every network has a name, and no two names overlap."""

import itertools
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from sr_lab.reporting import tradeoff
from sr_lab.reporting.tradeoff import Point
from tests.report_runs import finished


def drawn(points: list[Point]) -> Figure:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    tradeoff._scatter(figure, points, set_name="Set14")
    figure.draw_without_rendering()
    return figure


OURS = [Point(f"ours_{n}_x4", 6e5, 3e10 + n * 1e8, 28.6, "run") for n in range(4)]


@pytest.mark.parametrize("set_name", ["Set5", "Set14", "Urban100"])
@pytest.mark.parametrize("scale", [2, 4])
def test_no_two_names_of_networks_overlap(scale, set_name):
    points = tradeoff.around(OURS, scale=scale, set_name=set_name)
    (axes,) = drawn(points).axes
    assert len(points) > 15
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        point.name.removesuffix("_x4") for point in points
    )
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_printed_networks_are_placed_by_our_count_of_all_operations():
    points = {point.name: point for point in tradeoff.around(OURS, scale=4, set_name="Set5")}
    assert points["EFRDN"].multi_adds == pytest.approx(292.6e9, rel=1e-3)  # printed: 27.9
    assert points["OSFFNet"].multi_adds == pytest.approx(29.3e9, rel=1e-2)  # printed: 22.0
    assert "HNCT" not in points  # not implemented, so not counted


def test_networks_with_the_same_name_and_different_sizes_are_separate_points():
    points = {point.name: point for point in tradeoff.around(OURS, scale=4, set_name="Set5")}
    small, large = points["SRCNN (8 K)"], points["SRCNN (57 K)"]
    assert (small.multi_adds, large.multi_adds) == (7_402_291_200, 52_700_774_400)


def test_a_name_that_was_moved_away_has_a_line_to_its_network():
    (axes,) = drawn([Point(f"net {n}", 1e6, 3e10, 28.6, "run") for n in range(20)]).axes
    ends = [line.get_xydata()[0] for line in axes.lines]
    assert len(ends) >= 10
    assert all(end == pytest.approx((30, 28.6)) for end in ends)


def test_a_name_next_to_its_network_has_no_line():
    (axes,) = drawn([Point("a", 1e6, 3e10, 28.6, "run")]).axes
    assert not axes.lines


def test_names_of_runs_of_the_same_network_stay_distinct():
    names = ("imdn_x4_steps-300", "imdn_x4_steps-600", "imdn_x4")
    points = [Point(name, 1e6, 1e10 * (n + 1), 28.6, "run") for n, name in enumerate(names)]
    (axes,) = drawn(points).axes
    assert [text.get_text() for text in axes.texts] == ["imdn_x4_steps-300", "imdn_x4_steps-600", "imdn"]


@pytest.mark.parametrize(
    "other", [{"protocol": "classic_y"}, {"test_images": {"Set5": "not the published Set5: 5 cropped"}}]
)
def test_only_runs_measured_as_in_papers_are_drawn_next_to_printed_figures(monkeypatch, other):
    drawn = []
    monkeypatch.setattr(tradeoff, "_scatter", lambda _, points, **__: drawn.extend(points))
    tradeoff.plots([finished("111", 32.2), finished("000", 25.0, **other)])
    assert [point.psnr for point in drawn if point.source == "run"] == [32.2]
    assert not all(point.source == "run" for point in drawn)
    drawn.clear()
    tradeoff.plots([finished("000", 25.0, **other)])
    assert [(point.psnr, point.source) for point in drawn] == [(25.0, "run")]


def test_if_there_are_many_networks_only_those_that_no_other_beats_are_named():
    points = [
        Point(f"net {n}", 1e6, 1e9 * (1 + n), 28 + (n if n % 10 == 0 else -1) / 10, "run") for n in range(60)
    ]
    (axes,) = drawn(points).axes
    assert {text.get_text() for text in axes.texts} == {f"net {n}" for n in range(0, 60, 10)}


def test_the_seeds_of_a_row_are_one_point():
    runs = [finished("OSFF", 32.0 + seed, seed=seed) for seed in (0, 1)]
    (point,) = tradeoff.measured(runs, "Set5")
    assert point.psnr == 32.5


def test_markers_of_one_network_that_overlap_share_a_name():
    points = [Point("IMDN", 715e3, 40.9e9, 26.04, "paper"), Point("IMDN", 715e3, 40.9e9, 26.041, "weights")]
    points += [Point("IMDN", 715e3, 40.9e9, 25.0, "run")]
    (axes,) = drawn(points).axes
    assert [text.get_text() for text in axes.texts] == ["IMDN", "IMDN"]


def test_a_figure_has_a_panel_for_each_cost_that_is_known():
    point = Point("a", 1e6, 3e10, 28.6, "paper")
    for own, labels in ((point, ["parameters", "multiply-adds"]), (replace(point, time=2.0), ["", "", "s"])):
        axes = tradeoff.figure([own], title="", set_name="Set5", time="s").axes
        assert len(axes) == len(labels)
        assert all(axis.get_xlabel().startswith(label) for axis, label in zip(axes, labels, strict=True))


def test_printed_networks_far_below_the_others_are_named_instead_of_drawn():
    points = [Point("SRCNN", 8e3, 7e9, 30.5, "paper"), Point("good", 1e6, 3e10, 32.0, "paper")]
    points += [Point("better", 2e6, 4e10, 32.1, "paper")]
    upper, _ = tradeoff.figure(points, title="", set_name="Set5").axes
    assert upper.texts[-1].get_text() == "below the axis: SRCNN 30.50 dB"
    assert upper.get_ylim()[0] > 31
    points[0] = replace(points[0], source="run")
    upper, _ = tradeoff.figure(points, title="", set_name="Set5").axes
    assert upper.get_ylim()[0] < 30.5  # a user's own run is always drawn


def test_times_are_those_of_one_device_and_belong_to_the_network_of_the_paper():
    identity = {"model": {"_target_": "IMDN"}, "scale": 4}
    papers = {"option": "imdn", "multi_adds": 40_885_865_472, "task": "complexity"}
    runs = [
        finished(None, 0.0, device="CPU, 2 threads", cpu_s_per_megapixel=5.0, **papers),
        finished(None, 0.0, device="CPU, 2 threads", cpu_s_per_megapixel=3.0, option="imdn", multi_adds=7),
        finished(None, 0.0, device="CPU, 8 threads", cpu_s_per_megapixel=1.0, **papers),
    ]
    runs = [replace(run, identity=identity | {"strategy": n}) for n, run in enumerate(runs)]
    times = tradeoff.Times.of(runs)
    assert times.label == "time for a megapixel [s], CPU, 2 threads"
    assert times.of_model("imdn", 4) == 5.0
    assert times.of_model("imdn", 2) is None
    assert [times.values.get(tradeoff.network_of(run)) for run in runs] == [5.0, 3.0, None]


def test_the_figures_of_a_table_are_its_own_rows():
    points = tradeoff.printed(4, "Urban100", table=("osffnet", "table1"))
    found = {point.name: point.psnr for point in points}
    assert found["OSFFNet"] == 26.36
    assert "EFRDN" not in found  # of another paper
    assert "HNCT" not in found  # not implemented, so not counted
    assert all(point.source == "paper" for point in points)
