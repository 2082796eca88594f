"""The queue of a multirun: Hydra expands, we run, one process a job.

Hydra's basic launcher runs jobs in one process, where they share a CUDA context, W&B's global run and a
random state, and where Lightning's DDP children would replay ``-m``.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sr_lab import targets
from sr_lab.config import Config, to_yaml
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.table import print_table
from sr_lab.run_folder import RunFolder

IN_SWEEP = "SR_LAB_IN_SWEEP"  # set for jobs, whose table comes at the end
_console = Console(highlight=False, soft_wrap=True)


def enqueue(config: Config, folder: Path) -> Path:
    """Write a job down in its run folder, from which it can be started."""
    RunFolder(folder).write_config(to_yaml(config))
    # The command line trusted these packages; a file may not say so again in the job's process.
    extra = [name for name in targets.trusted_packages(config.allow) if name not in targets.TRUSTED]
    if extra:
        os.environ["SR_LAB_ALLOW"] = ",".join(dict.fromkeys(extra))
    return folder.resolve()


def command(folder: Path) -> list[str]:
    """The command that runs a written job; DDP ranks replay exactly this."""
    return [
        *(sys.executable, "-m", "sr_lab"),
        *("--config-path", str(folder), "--config-name", "config"),
        *(f"hydra.run.dir='{folder}'", "hydra.output_subdir=null", "hydra/job_logging=stdout"),
    ]


def run(queue: Sequence[Path]) -> int:
    """Run every job, keep going after a failure, print the collected table and what failed.

    Returns:
        0 if every job finished, else 1.
    """
    failed = []
    for number, folder in enumerate(queue, start=1):
        _console.print(f"[{number}/{len(queue)}] {folder.name}", markup=False)
        code = subprocess.run(command(folder), env=os.environ | {IN_SWEEP: "1"}, check=False).returncode
        if code == 130:  # Ctrl-C, which the job was sent too
            raise KeyboardInterrupt
        if code != 0:
            failed.append(folder)
            _console.print(f"  failed: {_reason(folder)}", markup=False)
    return finish(queue, failed)


def finish(folders: Sequence[Path], failed: Sequence[Path] = ()) -> int:
    """Print the table of all jobs and the list of those that failed, with where to read why."""
    print_table([read_run(folder) for folder in folders])
    for folder in failed:
        _console.print(
            f"failed: {folder.name}: {_reason(folder)} (traceback in {folder / 'failed.txt'})", markup=False
        )
    return 1 if failed else 0


def _reason(folder: Path) -> str:
    problem = read_run(folder).problem
    return problem.removeprefix("failed: ") or "stopped before its first step"
