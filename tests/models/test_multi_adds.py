"""Multiply-adds of the networks that papers compare, and how papers counted them (multi_adds.csv)."""

import csv
import functools
from pathlib import Path

import pytest

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.reporting import counts
from sr_lab.reporting.published import comparisons
from tests.papers.meta import unfilled

with (Path(counts.__file__).parent / "multi_adds.csv").open(newline="") as file:
    COUNTED = list(csv.DictReader(file, strict=True))

every_row = pytest.mark.parametrize(
    "row", COUNTED, ids=lambda row: f"{row['model']}-x{row['scale']}-{row['printed']}"
)


@functools.cache  # a network has a row for each value that papers print
def network(option, scale):
    with unfilled():
        return fold(Entry(option, int(scale)).build().eval())


@functools.cache
def count(option, scale, rule):
    return multi_adds(network(option, scale), scale=int(scale), rule=rule)


OF_THE_PAPERS = ("osffnet", "efrdn", "mren", "imfm", "imdn", "edsr", "fsrcnn")


# Counting takes a second for each network; the networks that papers only compare with are in the slow tests.
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row["model"].startswith(OF_THE_PAPERS) else pytest.mark.slow)
        for row in COUNTED
    ],
    ids=lambda row: f"{row['model']}-x{row['scale']}-{row['printed']}",
)
def test_the_stored_count_equals_the_count_of_the_network(row):
    net = network(row["model"], row["scale"])
    counted = num_params(net), count(row["model"], row["scale"], "all")
    assert counted == (int(row["num_params"]), int(row["multi_adds"]))


@every_row
def test_printed_multiply_adds_are_reproduced_by_their_rule_or_the_gap_is_explained(row):
    if not row["printed"]:
        return
    printed, net = float(row["printed"]), network(row["model"], row["scale"])
    assert row["counted"] in (net.multi_adds_rule, *counts.RULES) or len(row["counted"].split()) > 5
    counted = count(row["model"], row["scale"], net.multi_adds_rule) / 1e9
    # 1 %, because at x3 papers count 426.67 or 427 columns of LR pixels, whereas sr_lab counts 426.
    reached = abs(counted - printed) <= max(0.01 * printed, 0.05)
    assert reached == (row["counted"] == net.multi_adds_rule)


def test_every_printed_comparison_of_an_implemented_network_has_a_rule():
    printed = {
        (figure.model, str(figure.scale), figure.text)
        for figure in comparisons()
        if figure.metric == "multi_adds_g" and figure.model != "not implemented"
    }
    assert printed == {(row["model"], row["scale"], row["printed"]) for row in COUNTED if row["printed"]}
