"""``task=report`` on run folders."""

import csv
import re
import subprocess
import sys

import pytest
from PIL import Image

from sr_lab.reporting import results, saved_images
from sr_lab.reporting.runs import find_runs
from sr_lab.tasks import report
from tests import pictures
from tests.composing import compose
from tests.report_runs import folder, values

PUBLISHED = {"Set5": "Set5, 5 of 5 as published"}


@pytest.fixture
def place(tmp_path):
    """Two rows of OSFFNet's Table 2."""
    for label, psnr in (("000", 31.9), ("111", 32.2)):
        folder(tmp_path, f"osffnet_x4_{label}-0123abcd", **values(label, psnr, test_images=PUBLISHED))
    return tmp_path


def run(place, *overrides):
    report.run(compose("task=report", f"runs='{place}'", *overrides), place, [])


def test_the_table_is_printed_and_written_next_to_the_runs_in_every_format(place, capsys):
    run(place)
    assert {path.name for path in place.iterdir() if path.is_file()} == {
        *("table.md", "table.csv", "table.tex", "table_paired.tex", "runs.csv", "report.html")
    }
    shown = capsys.readouterr().out
    assert "difference" in shown
    assert "report.html" in shown
    assert "results.csv" not in shown


def test_a_report_does_not_import_torch(place):
    command = [sys.executable, "-X", "importtime", "-m", "sr_lab", "task=report", f"runs='{place}'"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (place / "report.html").is_file()
    assert not re.search(r"\| +(torch|lightning|wandb)$", done.stderr, re.MULTILINE)


def test_zoomed_crops_of_the_saved_images_are_in_the_report_in_the_order_of_the_table(tmp_path):
    table = {"paper": "osffnet", "name": "table2"}
    for number, label in enumerate(
        ("111", "010", "000")
    ):  # the folders are not in the order of the paper's rows
        pictures.run_folder(tmp_path, f"{number}", row=label, table=table, images=("one",))
    report.run(compose("task=report", f"runs='{tmp_path}'"), tmp_path, [])
    written = {path.name for path in (tmp_path / "crops").iterdir()}
    assert {f"crops_Set5_one_x4.{kind}" for kind in ("png", "pdf", "tex", "csv")} <= written
    rows = csv.DictReader((tmp_path / "crops" / "crops_Set5_one_x4.csv").read_text().splitlines())
    assert [row["method"] for row in rows] == ["HR", "bicubic", "000", "010", "111"]
    page = (tmp_path / "report.html").read_text()
    assert '<figure class="crops">' in page
    assert len(find_runs(tmp_path)) == 3  # the files of the report are not a run


def test_two_copies_of_an_image_with_different_pixels_are_named_and_left_out_of_the_figures(tmp_path, capsys):
    pictures.run_folder(tmp_path, "whole", images=("one", "two"))
    cropped = pictures.run_folder(tmp_path, "cropped", images=("one",), size=(56, 80))
    report.run(compose("task=report", f"runs='{tmp_path}'"), tmp_path, [])
    said = capsys.readouterr().out
    assert cropped.scale == 4
    assert "Set5 one x4: " in said
    assert "different HR images of this name" in said
    assert "80x60" in said
    assert "80x56" in said
    written = {path.name for path in (tmp_path / "crops").iterdir()}
    assert "crops_Set5_two_x4.png" in written
    assert "crops_Set5_one_x4.png" not in written


@pytest.mark.parametrize(("protocol", "is_left_out"), [("rgb_uint8", True), ("rgb_double", False)])
def test_results_from_different_lr_images_are_not_in_one_figure(tmp_path, capsys, protocol, is_left_out):
    """Another protocol rounds the LR images differently, and its results are not ranked with these."""
    pictures.run_folder(tmp_path, "made")
    given = pictures.run_folder(tmp_path, "given", protocol=protocol)
    for file in (given.path / "images").rglob("*.lr.png"):
        Image.fromarray(255 - saved_images.load(file)).save(file)
    report.run(compose("task=report", f"runs='{tmp_path}'"), tmp_path, [])
    assert ("different LR images of this name" in capsys.readouterr().out) == is_left_out
    assert bool(list(tmp_path.glob("crops/*.png"))) != is_left_out


def test_the_baseline_is_the_row_that_is_named(place):
    run(place, "baseline='111'")
    lines = csv.DictReader((place / "table.csv").read_text().splitlines())
    assert {line["baseline"] for line in lines if line["row"] == "000"} == {"111"}


def test_results_for_the_paper_are_written_on_request(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "experiments_dir", lambda: tmp_path / "papers")
    run(place, "write_results=true")
    (line,) = [
        line
        for line in results.read_results(tmp_path / "papers" / "osffnet" / "results.csv")
        if (line["row"], line["metric"]) == ("111", "psnr_y")
    ]
    assert float(line["value"]) == 32.2
    assert "results.csv" in capsys.readouterr().out
