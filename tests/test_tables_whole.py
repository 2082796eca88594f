"""Experiments run whole, as a user runs them: every row, then the report, the paper's figures beside ours."""

import csv
from pathlib import Path

import pytest

from sr_lab.reporting import published
from sr_lab.run_folder import RunFolder, read_index
from tests.command_line import sr_lab

# Rows are attentions and strategies; tails; schedules, a training figure whose runs are part of a table.
TABLES = {
    "two_strategies/table1_attention": "two_strategies/table1_attention",
    "imfm/table3_upsamplers": "imfm/table3_upsamplers",
    "imfm/fig3_fig4_schedules": "imfm/table2_schedules",
}
ROWS = {
    "two_strategies/table1_attention": [
        *("Baseline", "Baseline+CA", "Baseline+CCA", "Baseline+SA", "Baseline+ESA", "Baseline+proposed")
    ],
    "imfm/table3_upsamplers": ["Deconvolution layer", "Sub pixel layer", "MWAUM"],
    "imfm/fig3_fig4_schedules": ["IMFM step_lr", "IMFM cos_lr"],
}
SMOKE = ("budget=smoke", "dataset=sample", "benchmark=sample", "logger=none", "trainer=cpu", "num_workers=0")
pytestmark = pytest.mark.timeout(
    900
)  # a training imports for 4 s; the first test of a table is charged with all


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name == "imfm/fig3_fig4_schedules" else pytest.mark.slow)
        for name in TABLES
    ],
)
def name(request) -> str:
    """An experiment; by default the one of fewest rows."""
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def swept(place, name):
    """What the command of the experiment ended with."""
    return sr_lab(place, f"experiment={name}", *SMOKE, timeout=500)


@pytest.fixture(scope="module")
def reported(place, swept, name):
    """What the report on its runs ended with."""
    return sr_lab(place, "task=report", f"runs=outputs/{TABLES[name]}")


def test_every_row_is_finished_and_the_sweep_ends_with_the_table(swept, place, name):
    assert swept.returncode == 0, swept.stdout + swept.stderr
    folder = place / "outputs" / TABLES[name]
    states = {job.label: RunFolder(folder / job.folder).state() for job in read_index(folder)}
    assert states == dict.fromkeys(ROWS[name], "finished")
    assert "\nbudget: smoke\n" in swept.stdout
    for row in ROWS[name]:
        assert f"│ {row} " in swept.stdout


def test_every_form_of_the_table_tells_the_budget(reported, place, name):
    assert reported.returncode == 0, reported.stderr
    folder = place / "outputs" / TABLES[name]
    for file in ("table.md", "table.tex", "table_paired.tex", "report.html"):
        assert "not trained at the paper's budget: smoke" in (folder / file).read_text().replace("&#39;", "'")


def test_the_papers_figure_stands_beside_ours(reported, place, name):
    folder = place / "outputs" / TABLES[name]
    with (folder / "table.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    paper, _, table = TABLES[name].partition("/")
    for row in ROWS[name]:
        own = [cell for cell in cells if cell["row"] == row]
        figures = [figure for figure in published.table(paper, table.partition("_")[0]) if figure.row == row]
        assert figures
        shown = sorted(float(cell["paper"]) for cell in own if cell["paper"])
        assert shown == sorted(figure.value for figure in figures)
        ours = {(cell["set"], cell["column"]): cell["value"] for cell in own}
        assert float(ours["sample", "PSNR"]) > 10
        (trained,) = [figure.value for figure in figures if figure.metric == "num_params_k"] or [None]
        if trained is not None:
            assert float(ours["", "params"]) == pytest.approx(trained, rel=0.02)
