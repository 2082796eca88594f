"""``task=benchmark``: speed of sr_lab on this machine, compared with references measured in turn with it."""

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sr_lab import files
from sr_lab.config.schema import BenchmarkConfig
from sr_lab.errors import ConfigError, did_you_mean
from sr_lab.reporting import speed
from sr_lab.reporting.terminal import Terminal, print_wide
from sr_lab.runs import provenance
from sr_lab.speed.benchmark import Benchmark, Spread, measure
from sr_lab.system.devices import processor
from sr_lab.system.unix import cores, cpuinfo
from sr_lab.tasks import common

# Module of sr_lab.speed -> the names of its benchmarks; the keys of their figures begin with these names.
GROUPS = {
    "loader": ("loader",),
    "start": ("start",),
    "step": ("step",),
    "metrics": ("ssim", "psnr", "evaluate"),
    "inference": ("tiling", "fold", "backend"),
    "degradation": ("degradation",),
    "gpu": tuple(f"gpu_{model}" for model in ("osffnet", "efrdn", "mren", "imfm", "edsr", "imdn")),
}


def run(config: BenchmarkConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Measure, write ``benchmark.json``, print the figures with their goals, then store or compare them.

    Raises:
        ConfigError: ``only`` names a benchmark that does not exist.
        Exception: The first error of a group, raised after the other groups were measured.
        SystemExit: With 1, if a ratio is worse than the stored one by more than 10 %.
    """
    known = [name for names in GROUPS.values() for name in names]
    only = config.only or known
    if unknown := [name for name in only if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise ConfigError(f"only: there is no benchmark '{unknown[0]}'; allowed: {', '.join(known)}{near}")
    facts = {"device": device(), "threads": torch.get_num_threads(), "clocks": _clocks()}
    table: dict[str, object] = {**facts, **provenance.origin(), "rounds": config.rounds}
    problems: list[Exception] = []
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for group in (group for group, names in GROUPS.items() if set(names) & set(only)):
            try:  # an error in one group must not lose the other groups' figures
                spreads = _measure(group, only, config.rounds, folder, progress)
            except Exception as error:
                problems.append(error)
                common.console.print(f"{group}: {type(error).__name__}: {error}")
                continue
            table |= {key: asdict(spread) for key, spread in spreads.items()}
    files.write(folder / "benchmark.json", json.dumps(table, indent=1) + "\n")
    _print(table)
    common.console.print(f"figures: {folder / 'benchmark.json'}")
    if problems:
        raise problems[0]
    if config.store:
        common.console.print(f"stored: {speed.store(table, speed.benchmarks_dir())}")
    else:
        _compare(table, only)


def _compare(table: speed.Table, only: Sequence[str]) -> None:
    """Print each ratio that is more than 10 % worse than the stored one, and exit with 1 if there are any."""
    stored = speed.stored_at(str(table["device"]), speed.benchmarks_dir())
    before: speed.Table = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    compared = {key for key in speed.comparable(before) if key.partition(".")[0] in only}
    if not compared:
        common.console.print("there are no stored figures to compare with; store=true stores these")
        return
    fallen = speed.fallen(table, before, only)
    for sentence in fallen:
        common.console.print(f"worse by more than 10 %: {sentence}")
    if fallen:
        sys.exit(1)
    common.console.print(f"none of {len(compared)} ratios is more than 10 % worse than in {stored}")


def _measure(
    group: str, only: Sequence[str], rounds: int, folder: Path, progress: Progress
) -> dict[str, Spread]:
    """Prepare and run the benchmarks of a group, in a workspace that is removed at the end."""
    bar = progress.add_task(f"{group}: preparing", total=None)
    with tempfile.TemporaryDirectory(dir=folder, prefix="workspace-") as workspace:
        prepared: list[Benchmark] = importlib.import_module(f"sr_lab.speed.{group}").benchmarks(
            Path(workspace)
        )
        wanted = [benchmark for benchmark in prepared if benchmark.name in only]
        if not wanted:
            common.console.print(f"{group}: nothing to measure on this machine")
        runs = sum(len(benchmark.variants) for benchmark in wanted) * (rounds + 1)
        progress.update(bar, total=runs)
        return measure(
            wanted, rounds, ran=lambda name: progress.update(bar, advance=1, description=escape(name))
        )


def _print(table: speed.Table) -> None:
    shown = Table()
    for title in ("figure", "median", "quartiles", "goal", ""):
        shown.add_column(title, justify="left" if title == "figure" else "right", no_wrap=True)
    marks = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}
    for *cells, met in speed.rows(table):
        shown.add_row(*map(escape, map(str, cells)), marks[met])
    print_wide(shown, speed.facts(table), None)


def device() -> str:
    """The name of the GPU, or that of the processor with its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {cores()} cores"


def _clocks() -> str | None:
    """Current clock rates in MHz of the processor and the GPU, where they can be read."""
    found = [float(clock) for clock in re.findall(r"^cpu MHz\s*: ([\d.]+)$", cpuinfo(), re.MULTILINE)]
    clocks = [f"CPU {sum(found) / len(found):.0f} MHz"] if found else []
    if torch.cuda.is_available() and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        clocks += [f"GPU {done.stdout.splitlines()[0]}"] if done.returncode == 0 and done.stdout else []
    return ", ".join(clocks) or None
