"""Whether the direction of a claim is seen in runs of both rows."""

import pytest

from sr_lab.reporting import claims
from sr_lab.reporting.claims import Claim
from sr_lab.reporting.published import experiments_dir, figures
from tests.report_runs import finished

BETTER = Claim("osffnet", "table2", "111", "000", "all three parts help", "Set14", 0.2)


def seeds(label, psnrs, **more):
    return [finished(label, psnr, seed=seed, **more) for seed, psnr in enumerate(psnrs)]


@pytest.mark.parametrize(
    ("psnrs", "verdict", "difference"),
    [
        ([32.1, 32.2, 32.3], "holds", 0.2),
        ([31.9, 31.8, 31.7], "reversed", -0.2),
        ([32.2, 32.2, 31.9], "undecided", 0.1),  # one seed disagrees
        ([32.1, 32.2], "undecided", 0.15),  # two seeds are too few
    ],
)
def test_the_verdict_needs_three_seeds_that_agree(psnrs, verdict, difference):
    (found,) = claims.find([*seeds("111", psnrs), *seeds("000", [32.0] * 3)], [BETTER])
    assert found.verdict == verdict
    # The mean PSNR of the images is half a step below the given PSNR.
    assert found.difference == pytest.approx(difference * (1 - 0.5 / 1000))
    assert (found.seeds, found.images) == (len(psnrs), 8)


def test_a_few_images_decide_nothing():
    runs = [*seeds("111", [33, 33, 33], count=5), *seeds("000", [32, 32, 32], count=5)]
    (found,) = claims.find(runs, [BETTER])
    assert (found.p, found.verdict) == (1.0, "undecided")


def test_the_claims_of_a_table_share_one_level_of_significance():
    rows = [*seeds("111", [32.2] * 3), *seeds("000", [32.0] * 3), *seeds("100", [32.1] * 3)]
    alone = claims.find(rows, [BETTER])
    both = claims.find(rows, [BETTER, Claim("osffnet", "table2", "100", "000", "OISI helps", "Set14", 0.13)])
    assert both[0].p == pytest.approx(2 * alone[0].p)


def test_budgets_are_not_mixed():
    runs = [*seeds("111", [32.2] * 3, budget="ledger"), *seeds("000", [32.0] * 3, budget="smoke")]
    assert claims.find(runs, [BETTER]) == []


def test_findings_replace_earlier_ones_and_fill_the_table(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "claims.csv").write_text(
        "paper,table,better,worse,claim,set,printed\nosffnet,table2,111,000,all three | help,Set14,0.2\n"
        "osffnet,table2,000,wider,the rate alone helps,,\n"
    )
    for psnr in (32.2, 31.8):
        runs = [*seeds("111", [psnr] * 3), *seeds("000", [32.0] * 3), *seeds("wider", [31.5] * 3)]
        claims.write_findings(claims.find(runs, claims.read_claims(tmp_path)), tmp_path)
    _, row = claims.read_findings(tmp_path)
    assert (row["verdict"], row["difference"]) == ("reversed", "-0.1999")
    assert claims.section(tmp_path).splitlines()[-2:] == [
        "| osffnet | the rate alone helps | control | +0.50 ± 0.00 | 3 | 0.016 | holds |",
        r"| osffnet | all three \| help | +0.20 (Set14) | -0.20 ± 0.00 | 3 | 0.016 | reversed |",
    ]
    written = (tmp_path / "ledger" / "results.csv").read_text()
    claims.write_findings([], tmp_path)
    assert (tmp_path / "ledger" / "results.csv").read_text() == written


PRINTED = [claim for claim in claims.read_claims(experiments_dir()) if claim.printed is not None]


@pytest.mark.parametrize("claim", PRINTED, ids=lambda claim: claim.claim)
def test_a_claim_has_the_papers_difference(claim):
    """It is the difference of the rows' printed PSNR, or the gain that the paper prints."""
    own = [each for each in figures() if (each.paper, each.table) == (claim.paper, claim.table)]
    printed = {
        (each.row, each.metric): each.value
        for each in own
        if each.set_name in (claim.set, "") and each.metric.startswith("psnr_y")
    }
    gain = printed.get((claim.better, "psnr_y_gain"))
    if gain is None:
        gain = printed[claim.better, "psnr_y"] - printed[claim.worse, "psnr_y"]
    assert claim.printed == pytest.approx(gain, abs=0.001)
