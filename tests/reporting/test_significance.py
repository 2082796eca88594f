"""Significance tests are compared with scipy, values computed by hand, and the definition."""

import itertools

import pytest
from scipy.stats import wilcoxon

from sr_lab.reporting.significance import ALL_SETS, compare, holm, per_image, signed_rank
from tests.report_runs import finished

SEVEN = [0.11, -0.02, 0.3, 0.07, 0.05, -0.01, 0.21]


def images(values, name="Set5"):
    return {(name, str(index)): value for index, value in enumerate(values)}


def by_definition(differences):
    """Two-sided p of the signed-rank sum, computed over all equally likely signs."""
    sizes = sorted(abs(d) for d in differences)
    ranks = [sizes.index(abs(d)) + 1 for d in differences]
    total = sum(ranks)

    def extreme(signs):
        positive = sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        return min(positive, total - positive)

    ours = extreme([d > 0 for d in differences])
    outcomes = [extreme(signs) <= ours for signs in itertools.product([False, True], repeat=len(ranks))]
    return sum(outcomes) / len(outcomes)


def test_p_equals_the_p_of_the_definition():
    # of 2^7 sign patterns, 5 have a rank sum of 3 or less: {}, {1}, {2}, {3}, {1, 2}; doubled for two sides
    assert by_definition(SEVEN) == 10 / 128
    assert signed_rank(SEVEN) == pytest.approx(10 / 128)


def test_p_equals_scipys_without_ties():
    values = [(-1) ** (i % 3) * (i + 1) / 100 for i in range(60)]
    assert signed_rank(values) == wilcoxon(values).pvalue


def test_zero_differences_count_against_significance():
    better = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert signed_rank(better) == pytest.approx(2 / 64)
    assert signed_rank([*better, 0.0, 0.0, 0.0, 0.0]) >= signed_rank(better)


def test_zero_differences_take_the_lowest_ranks_and_are_left_out_of_the_sum():
    differences = [0.0, 0.0, -0.1, 0.2, 0.3, 0.4, -0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]  # ranks 3 to 13
    # The negative ranks sum to 3 + 7. Of 2^11 sign patterns, 15 have a sum of 10 or less: {}, {3} to {10},
    # {3, 4} to {3, 7}, {4, 5} and {4, 6}. The count is doubled for two sides.
    assert signed_rank(differences) == pytest.approx(30 / 2**11)


def test_differences_in_the_last_bits_count_as_zero():
    assert signed_rank([1e-14, -1e-14, 0.0, 0.0, 0.0, 1e-13]) == 1.0


def test_equal_rows_do_not_differ():
    assert signed_rank([0.0] * 6) == 1.0


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        (
            [0.01, 0.04, 0.03],
            [0.03, 0.06, 0.06],
        ),  # 3 x 0.01, then 2 x 0.03; a value is never below the previous one
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_correction_steps_down(values, corrected):
    assert holm(values) == pytest.approx(corrected)


def test_fewer_than_six_images_are_too_few():
    ((test,),) = compare([images(range(5))], images([0.5] * 5))
    assert (test.set_name, test.count, test.p) == (ALL_SETS, 5, None)
    assert str(test) == "all sets: too few images (n=5)"


def test_each_set_with_enough_images_is_tested():
    base = images([30.0] * 6) | images([25.0] * 4, "B100")
    better = {image: value + 0.01 * (1 + int(image[1])) for image, value in base.items()}
    ((overall, set5, b100),) = compare([better], base)
    assert (overall.count, set5.count, b100.count) == (10, 6, 4)
    assert set5.p == pytest.approx(2 / 64)
    assert b100.p is None


def test_only_images_that_both_rows_have_are_compared():
    ((test,),) = compare([images(range(9))], images([0.5] * 7))
    assert test.count == 7


def test_rows_are_corrected_together_except_those_with_too_few_images():
    base = images([30.0] * 7)
    rows = [images([30.0 + d for d in SEVEN]), images([31.0 + i for i in range(7)]), images([1.0])]
    first, second, third = (tests[0] for tests in compare(rows, base))
    assert (first.p, second.p) == (pytest.approx(10 / 128), pytest.approx(2 / 128))
    assert (first.p_holm, second.p_holm) == (pytest.approx(10 / 128), pytest.approx(4 / 128))
    assert third.p_holm is None


def test_the_value_of_an_image_is_the_mean_over_its_seeds():
    runs = [finished("111", 32.0, count=1), finished("111", 33.0, count=1, seed=1)]
    assert per_image(runs) == {("Set5", "0"): pytest.approx(32.5 * (1 - 0.0005))}


def test_an_image_upscaled_without_error_is_excluded():
    run = finished("111", 32.0, count=2)
    run.values["images"][0]["psnr_y"] = float("inf")
    assert [image for _, image in per_image([run])] == ["1"]
