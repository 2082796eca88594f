"""Every recipe of conf/experiment composes, every paper's figures can be read; so will a new file be."""

import csv
import re
from pathlib import Path

import pytest

from sr_lab.config import conf_dir
from tests.conftest import compose

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RECIPES = sorted(
    path.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
    for path in (conf_dir() / "experiment").rglob("*.yaml")
)
COLUMNS = ["table", "row", "model", "scale", "set", "metric", "value"]
# Empty: a figure of the network alone. Average: over the sets, Table 6 of EFRDN.
SETS = {"", "Set5", "Set14", "B100", "Urban100", "Manga109", "DIV2K", "Average"}

every_table = pytest.mark.parametrize(
    "table", sorted(EXPERIMENTS.rglob("expected.csv")), ids=lambda path: path.parent.name
)


def rows(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


# The name is the path, so no two recipes share a folder of runs.
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_composes_under_its_own_name(recipe):
    config = compose(f"experiment={recipe}", "trainer=cpu", "budget=smoke")
    assert (config.task, config.experiment_name) == ("train", recipe)


@every_table
def test_columns(table):
    assert table.read_text().splitlines()[0].split(",") == COLUMNS
    assert all(list(row) == COLUMNS and None not in row.values() for row in rows(table))


@every_table
def test_values_are_numbers_as_printed(table):
    assert [row for row in rows(table) if not re.fullmatch(r"-?\d+(\.\d+)?", row["value"])] == []


@every_table
def test_scales_are_whole_numbers(table):
    assert {row["scale"] for row in rows(table)} <= {"", "2", "3", "4", "8"}


@every_table
def test_no_figure_stands_twice(table):
    keys = [tuple(row[column] for column in COLUMNS[:-1]) for row in rows(table)]
    assert sorted(keys) == sorted(set(keys))


@every_table
def test_sets_have_the_names_of_the_field(table):
    assert {row["set"] for row in rows(table)} <= SETS


@every_table
def test_a_row_names_its_network_or_says_that_there_is_none(table):
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    assert {row["model"] for row in rows(table)} <= options | {"not implemented"}
