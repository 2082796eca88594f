"""The progress of a piece of work, on terminals of several widths and in a log file."""

import io
import re

import pytest
from rich.console import Console

from sr_lab.reporting import progress
from sr_lab.reporting.progress import Progress, duration

FACTS = ("loss 0.0123", "val PSNR 30.12 dB", "512 samples/s", "13% waiting for data")


@pytest.fixture
def clock(monkeypatch):
    """Time in seconds, which only the test advances."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def bar(width: int, clock: list[float]) -> str:
    """The last state of the bar of a long training run on a terminal."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Progress(1_000_000, "steps", done=1000, console=console) as shown:
        clock[0] += 3600
        shown.update(121_000, *FACTS)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").split("\n")
    return next(line for line in reversed(lines) if line.strip())


@pytest.mark.parametrize(("width", "last"), [(60, "loss"), (80, "dB"), (140, "waiting for data")])
def test_the_bar_fits_the_terminal_and_shows_the_most_important_facts(width, last, clock):
    line = bar(width, clock)
    assert len(line) <= width
    assert "121000/1000000 steps  7:19:30 left  loss 0.0123" in line
    assert "━" in line
    assert "…" not in line
    assert last in line


def test_a_log_file_gets_a_line_a_minute(clock):
    console = Console(file=io.StringIO(), width=80)
    with Progress(600, "steps", console=console) as shown:
        for step in range(1, 151):
            clock[0] += 1
            shown.update(step, *FACTS)
    assert console.file.getvalue().splitlines() == [
        f"{step}/600 steps, {left} left, {', '.join(FACTS)}" for step, left in ((60, "9:00"), (120, "8:00"))
    ]


def test_the_time_left_counts_only_the_work_since_the_start(clock):
    console = Console(file=io.StringIO(), width=80)
    with Progress(200, "steps", done=100, console=console) as shown:
        clock[0] += 100
        shown.update(150)
    assert console.file.getvalue() == "150/200 steps, 1:40 left\n"


def test_work_that_is_under_way_is_not_counted_as_done(clock):
    console = Console(file=io.StringIO(), width=80)
    with Progress(1, "images", console=console) as shown:
        clock[0] += 75
        shown.update(0.75)
    assert console.file.getvalue() == "0/1 images, 0:25 left\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "0:12"), (59.7, "1:00"), (17_999, "4:59:59"), (183_600, "2 d 3 h")]
)
def test_a_duration_is_short(seconds, text):
    assert duration(seconds) == text
