"""``task=status``: print the state and progress of all jobs below a folder, without importing torch."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sr_lab import files
from sr_lab.config.schema import ReadingConfig
from sr_lab.errors import ConfigError
from sr_lab.reporting.runs import find_runs, read_run
from sr_lab.reporting.terminal import Terminal, print_wide
from sr_lab.run_folder import Listed, RunFolder, State, read_index
from sr_lab.runs.sweep import reason

_COLOURS: dict[State, str] = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "pruned": "magenta",
    "interrupted": "yellow",
    "waiting": "default",
}
# Column of the record, its title in the table, its format.
_FIGURES = (
    ("train/loss", "loss", ".4g"),
    ("val/psnr_y", "val PSNR", ".2f"),
    ("samples_per_s", "samples/s", ".3g"),
)


def run(config: ReadingConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Print every job, and the number of jobs in each state."""
    root = Path(config.runs)
    jobs = find_jobs(root)
    states = [run_folder.state() for run_folder, _ in jobs]
    table = Table()
    has_rows = any(listed is not None and listed.label is not None for _, listed in jobs)
    for title in ("job", *(("row",) if has_rows else ()), "state", "step", "started", "latest"):
        table.add_column(title, overflow="fold", no_wrap=title in ("state", "step", "started"))
    for (run_folder, listed), state in zip(jobs, states, strict=True):
        name = run_folder.path.relative_to(root) if run_folder.path != root else run_folder.path.name
        label = (listed.label or "" if listed is not None else "",) if has_rows else ()
        coloured = f"[{_COLOURS[state]}]{state}[/]"
        table.add_row(
            escape(str(name)), *map(escape, label), coloured, *map(escape, _cells(run_folder, state))
        )
    console = Terminal(highlight=False)
    if console.is_terminal:
        console.print(table)
    else:  # one line per job, for other programs
        print_wide(table, [], console)
    counts = Counter(states)
    total = ", ".join(f"{counts[state]} {state}" for state in _COLOURS if counts[state])
    console.print(f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}: {total}")


def find_jobs(root: Path) -> list[tuple[RunFolder, Listed | None]]:
    """The jobs at or below ``root``, with their entries in the index of a sweep; a sweep's jobs come first.

    Raises:
        ConfigError: There is neither a run nor a sweep.
    """
    indices = (path for path in files.below(root) if path.name == "sweep.json")
    parents = [root, *sorted(path.parent for path in indices if path.parent != root)]
    listed = {parent / job.folder: job for parent in [root.parent, *parents] for job in read_index(parent)}
    planned = [path for path in listed if path.is_relative_to(root)]
    try:
        found = [run.path for run in find_runs(root)]
    except ConfigError:
        if not planned:
            raise
        found = []
    return [(RunFolder(path), listed.get(path)) for path in dict.fromkeys([*planned, *found])]


def _cells(folder: RunFolder, state: State) -> tuple[str, str, str]:
    """Step, time since the start, and the latest figures or the reason for a failure."""
    progress, since = folder.progress(), folder.since()
    total = read_run(folder.path).settings.get("steps")
    step = f"{progress.get('step', 0)}/{total}" if total else progress.get("step", "")
    latest = ", ".join(
        f"{title} {_figure(progress[key], spec)}" for key, title, spec in _FIGURES if key in progress
    )
    if state in ("failed", "pruned"):
        latest = reason(folder)
    return step if state != "waiting" else "", _ago(since) if since is not None else "", latest


def _figure(text: str, spec: str) -> str:
    """Format a number from the record, which a power cut may have damaged."""
    try:
        return format(float(text), spec)
    except ValueError:
        return "?"


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name} ago"
    return f"{seconds} s ago"
