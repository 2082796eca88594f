"""Names in untrusted folders cannot control the terminal, and no name breaks a report."""

import io
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from rich.table import Table

from sr_lab.files import printable
from sr_lab.reporting import page
from sr_lab.reporting.experiment import experiment_table, print_experiment
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.safe_csv import runs_to_csv
from sr_lab.reporting.terminal import Terminal
from tests.command_line import environment_in
from tests.pictures import run_folder

SLY = "a\x1b[2J\x1b]0;title\x07\u202eb\x9b-00000000"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\u202eb\x9b-00000000"


def is_clean(text: str) -> bool:
    return not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\x00"}


def test_printable_shows_control_characters_as_escapes():
    assert printable(SLY) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("Größe 4 µm, 日本\tx\n") == "Größe 4 µm, 日本\tx\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_text_can_control_the_terminal(is_terminal):
    written = io.StringIO()
    console = Terminal(file=written, force_terminal=is_terminal, color_system=None, width=200)
    table = Table()
    table.add_column(SLY)
    table.add_row(SLY)
    console.print(SLY, table, markup=False)
    assert is_clean(written.getvalue())
    assert written.getvalue().count(r"a\x1b[2J") == 3


@pytest.fixture
def folders(tmp_path):
    """Two runs; the name of one is an attack."""
    run_folder(tmp_path, "good", seed=1)
    sly = run_folder(tmp_path, "sly", seed=2).path
    shutil.move(sly, sly.with_name(SLY))
    return tmp_path


def test_a_folder_with_a_hostile_name_does_not_break_a_report(folders, capsys):
    runs = find_runs(folders)
    assert len(runs) == 2
    table = experiment_table(runs)
    assert table is not None
    html = page.render(table, runs, root=folders, found=[])
    for text in (html, to_markdown(table), to_latex(table), runs_to_csv(runs)):
        assert is_clean(text)
    for plot in html.split("<svg")[1:]:
        ElementTree.fromstring(f"<svg{plot.partition('</svg>')[0]}</svg>")
    print_experiment([run.path for run in runs])
    assert is_clean(capsys.readouterr().out)


def test_a_reader_that_stops_reading_ends_the_command_quietly(folders):
    command = [sys.executable, "-m", "sr_lab", "task=status", f"runs={folders}"]
    with subprocess.Popen(
        command, cwd=folders, env=environment_in(folders), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
