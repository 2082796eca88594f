"""In the plot of quality and cost, every network has a name, and no two names overlap."""

import itertools

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


OURS = [Point(f"ours_{n}_x4", 6e5, 3e10 + n * 1e8, 28.6, is_measured=True) for n in range(4)]


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
    (axes,) = drawn([Point(f"net {n}", 1e6, 3e10, 28.6, is_measured=True) for n in range(20)]).axes
    ends = [line.get_xydata()[0] for line in axes.lines]
    assert len(ends) >= 10
    assert all(end == pytest.approx((30, 28.6)) for end in ends)


def test_a_name_next_to_its_network_has_no_line():
    (axes,) = drawn([Point("a", 1e6, 3e10, 28.6, is_measured=True)]).axes
    assert not axes.lines


def test_names_of_runs_of_the_same_network_stay_distinct():
    names = ("imdn_x4_steps-300", "imdn_x4_steps-600", "imdn_x4")
    points = [Point(name, 1e6, 1e10 * (n + 1), 28.6, is_measured=True) for n, name in enumerate(names)]
    (axes,) = drawn(points).axes
    assert [text.get_text() for text in axes.texts] == ["imdn_x4_steps-300", "imdn_x4_steps-600", "imdn"]


@pytest.mark.parametrize(
    "other", [{"protocol": "classic_y"}, {"test_images": {"Set5": "not the published Set5: 5 cropped"}}]
)
def test_only_runs_measured_as_in_papers_are_drawn_next_to_printed_figures(monkeypatch, other):
    drawn = []
    monkeypatch.setattr(tradeoff, "_scatter", lambda _, points, **__: drawn.extend(points))
    tradeoff.plots([finished("111", 32.2), finished("000", 25.0, **other)])
    assert [point.psnr for point in drawn if point.is_measured] == [32.2]
    assert not all(point.is_measured for point in drawn)
    drawn.clear()
    tradeoff.plots([finished("000", 25.0, **other)])
    assert [(point.psnr, point.is_measured) for point in drawn] == [(25.0, True)]


def test_if_there_are_many_networks_only_those_that_no_other_beats_are_named():
    points = [
        Point(f"net {n}", 1e6, 1e9 * (1 + n), 28 + (n if n % 10 == 0 else -1) / 10, is_measured=True)
        for n in range(60)
    ]
    (axes,) = drawn(points).axes
    assert {text.get_text() for text in axes.texts} == {f"net {n}" for n in range(0, 60, 10)}


def test_the_seeds_of_a_row_are_one_point():
    runs = [finished("OSFF", 32.0 + seed, seed=seed) for seed in (0, 1)]
    (point,) = tradeoff._measured(runs, "Set5")
    assert point.psnr == 32.5
