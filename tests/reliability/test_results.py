"""The stored results are complete and report no lost data."""

import pytest

from tests.reliability import results


def test_the_stored_results_report_no_lost_data():
    rows = results.read()
    assert [row for row in rows if int(row["lost"]) > 0] == []


def test_each_kind_of_fault_was_tested_as_often_as_promised():
    counts = {row["kind"]: int(row["count"]) for row in results.read()}
    promised = {
        "kill -9 at a random instant": 40,
        "kill -9 at each file operation": 100,
        "kill -9 while a checkpoint is saved": 40,
        "kill -9 while the cache is built": 20,
        "resume at each step": 24,
        "signal to two processes, or to one": 12,
        "bit flipped in a checkpoint": 256,
    }
    assert {kind: counts.get(kind, 0) >= count for kind, count in promised.items()} == dict.fromkeys(
        promised, True
    )


@pytest.mark.parametrize("column", results.COLUMNS)
def test_every_row_has_every_column(column):
    assert all(row[column] for row in results.read())


def test_the_plot_shows_how_many_faults_there_were_and_how_many_lost_something(tmp_path):
    rows = [
        {"kind": "kill", "count": "40", "lost": "0"},
        {"kind": "flip", "count": "256", "lost": "1"},
        {"kind": "kill", "count": "1000", "lost": "0"},
    ]
    results.draw(rows, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for word in (">kill<", ">flip<", ">1040, lost 0<", ">256, lost 1<"):
        assert word in text


def test_the_stored_plot_shows_the_stored_results():
    text = (results.FOLDER / "kills.svg").read_text()
    for row in results.read():
        assert f">{row['kind']}<" in text
