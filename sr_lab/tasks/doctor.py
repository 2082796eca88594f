"""``task=doctor``: check a folder of data; exits with 1 if something is wrong."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table

from sr_lab.config.schema import DoctorConfig
from sr_lab.datasets.doctor import Finding, examine
from sr_lab.datasets.facts import State
from sr_lab.files import plain
from sr_lab.reporting.terminal import Terminal

_COLOURS: dict[State, str] = {"right": "green", "note": "yellow", "wrong": "red"}


def run(config: DoctorConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Print a table of findings.

    Raises:
        SystemExit: With 1, if something is wrong.
    """
    root = Path(config.folder).expanduser()
    errors = Terminal(stderr=True)
    with Progress(
        TextColumn("{task.completed} images examined"), console=errors, disable=not errors.is_terminal
    ) as bar:
        row = bar.add_task("", total=None)
        findings = list(examine(root, count=lambda images: bar.advance(row, images)))
    _print(root, findings)
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)


def _print(root: Path, findings: Sequence[Finding]) -> None:
    table = Table()
    for title in ("", "where", "finding"):
        table.add_column(title, overflow="fold")
    for state, where, says in findings:
        place = where.relative_to(root) if where.is_relative_to(root) else where
        table.add_row(
            f"[{_COLOURS[state]}]{state}[/]", escape(str(plain(str(place)))), escape(str(plain(says)))
        )
    console = Terminal(highlight=False)
    if not console.is_terminal:  # one line for each finding, for other programs
        needed = console.measure(table, options=console.options.update(width=1000)).maximum
        console.width = max(console.width, needed)
    console.print(table)
    counts = Counter(finding.state for finding in findings)
    summary = ", ".join(f"{counts[state]} {state}" for state in _COLOURS if counts[state])
    console.print(f"{root}: {summary}", markup=False, soft_wrap=True)
