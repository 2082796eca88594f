"""Record what the tests broke and what was lost, in ``experiments/reliability/results.csv`` and a plot."""

import csv
import datetime
import os
import platform
import subprocess
from pathlib import Path

import matplotlib as mpl

from sr_lab import files

FOLDER = Path(__file__).parents[2] / "experiments" / "reliability"
TABLE = FOLDER / "results.csv"
COLUMNS = ("date", "commit", "kind", "count", "lost", "seconds", "device")
# 1: repeat as often as `make chaos` does; ci: as often as the slow tests do. Both store their results.
CHAOS = os.environ.get("SR_LAB_CHAOS")


def size(ci: int, chaos: int) -> int:
    """How many times the slow tests break something."""
    return chaos if CHAOS == "1" else ci


def read() -> list[dict[str, str]]:
    """The rows of the table, oldest first."""
    if not TABLE.is_file():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def store(kind: str, *, count: int, lost: int, seconds: float) -> None:
    """Append a row and redraw the plot, if `CHAOS` asks for stored results."""
    if not CHAOS:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=TABLE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    row = (
        *(datetime.datetime.now(datetime.UTC).date().isoformat(), commit.stdout.strip(), kind),
        *(str(count), str(lost), f"{seconds:.1f}", f"CPU, {platform.machine()}, 1 thread"),
    )
    rows = [*read(), dict(zip(COLUMNS, row, strict=True))]
    lines = [
        ",".join(COLUMNS),
        *(",".join(f'"{r[c]}"' if "," in r[c] else r[c] for c in COLUMNS) for r in rows),
    ]
    files.write(TABLE, "\n".join(lines) + "\n")
    draw(rows, FOLDER / "kills.svg")


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw a bar for each kind of fault: how often it happened and how often data was lost."""
    from matplotlib.figure import Figure

    totals: dict[str, list[int]] = {}
    for row in rows:
        total = totals.setdefault(row["kind"], [0, 0])
        total[0] += int(row["count"])
        total[1] += int(row["lost"])
    kinds = list(totals)[::-1]
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(kinds, [totals[kind][0] for kind in kinds], color="#4c78a8")
    axes.barh(kinds, [totals[kind][1] for kind in kinds], color="#e45756")
    axes.bar_label(bars, [f"{count}, lost {lost}" for count, lost in (totals[k] for k in kinds)], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(1, 10 * max(count for count, _ in totals.values()))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("times broken (blue), times lost (red)")
    axes.spines[["top", "right"]].set_visible(False)
    # the same numbers give the same file; text is stored as text
    with mpl.rc_context({"svg.hashsalt": "sr_lab", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
