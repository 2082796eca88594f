"""Every network has the parameter count of its paper or its authors' code, as listed in sizes.csv."""

import csv
import functools
from pathlib import Path

import pytest

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.networks import model_options
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import num_params
from tests.papers.meta import unfilled

with (Path(__file__).parent / "sizes.csv").open(newline="") as file:
    SIZES = list(csv.DictReader(file, strict=True))


def plain(value):
    """Parse a setting as the command line does."""
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isdigit() else value


def name(row):
    return "-".join(filter(None, (row["option"], row["settings"], f"x{row['scale']}", row["printed"])))


every_size = pytest.mark.parametrize("row", SIZES, ids=name)


@functools.cache  # a network has a row for each paper that prints its size
def size(option, scale, settings):
    given = dict(setting.split("=") for setting in settings.split(";") if setting)
    with unfilled():
        net = Entry(option, int(scale)).build(**{name: plain(value) for name, value in given.items()})
    return num_params(fold(net.eval()))


@every_size
def test_a_network_has_exactly_the_listed_number_of_parameters(row):
    assert size(row["option"], row["scale"], row["settings"]) == int(row["params"])


@every_size
def test_the_printed_count_is_reproduced_or_the_gap_is_explained(row):
    """Papers round or truncate, so the tolerance is one unit of the last printed digit."""
    if not row["printed"]:
        assert row["source"] == "authors' code"
        return
    number, unit = row["printed"][:-1], {"K": 1e3, "M": 1e6}[row["printed"][-1]]
    last_digit = 10.0 ** -len(number.partition(".")[2])
    reached = abs(int(row["params"]) / unit - float(number)) < last_digit
    assert reached == (row["gap"] == "")


def test_every_network_is_in_the_table():
    assert {row["option"] for row in SIZES} == set(model_options()) - {"bicubic"}
