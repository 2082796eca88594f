"""How long a user waits for the output of ``--help``, and for the first step of a training command."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sr_lab.run_folder import whole_rows
from sr_lab.speed.benchmark import Benchmark
from sr_lab.system.unix import KILL, OWN_GROUP, signal_group

_MODEL = "import lightning; from sr_lab.models.osffnet import OSFFNet; OSFFNet(scale=4)"
_TIMEOUT = 300.0  # seconds


def benchmarks(workspace: Path) -> list[Benchmark]:
    """Measure commands against the imports that they need in any case; each runs in its own process.

    Returns:
        ``start.ratio_to_import``: from the command to the end of the first step (sample data, CPU, warm
        cache) divided by ``import lightning`` and building the same model; ``first_step_s``, the time of that
        command; and ``help_ratio_to_import_hydra``.
    """
    return [
        Benchmark(
            "start",
            {
                "training": lambda: first_step(workspace),
                "import": _seconds("-c", _MODEL),
                "help": _seconds("-m", "sr_lab", "--help"),
                "hydra": _seconds("-c", "import hydra"),
            },
            lambda seconds: {
                "ratio_to_import": seconds["training"] / seconds["import"],
                "first_step_s": seconds["training"],
                "help_ratio_to_import_hydra": seconds["help"] / seconds["hydra"],
            },
        )
    ]


def _seconds(*arguments: str) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=_environment())
        return time.perf_counter() - started

    return measure


def first_step(workspace: Path) -> float:
    """Seconds from starting a training run to the row that its first step writes; then the run is killed.

    Raises:
        RuntimeError: The training run ended without a row.
    """
    output = workspace / "outputs"
    settings = ("trainer=cpu", "budget=smoke", "steps=1", "resume=never", "run_name=start")
    paths = (f"paths.output_dir={output}", f"paths.cache_dir={workspace / 'cache'}")
    command = [sys.executable, "-m", "sr_lab", *settings, *paths]
    for record in output.glob("*/*/metrics.csv"):
        record.unlink()
    log = workspace / "log.txt"
    with log.open("wb") as printed:
        started = time.time()
        process = subprocess.Popen(command, stdout=printed, stderr=printed, env=_environment(), **OWN_GROUP)
        try:
            while time.time() - started < _TIMEOUT:
                ended = process.poll() is not None
                for record in output.glob("*/*/metrics.csv"):
                    for row in whole_rows(record):
                        return float(row["time"]) - started
                if ended:
                    break
                time.sleep(0.02)
        finally:
            signal_group(process, KILL)
            process.wait()
    raise RuntimeError(f"the training run wrote no row: {log.read_text(encoding='utf-8')[-2000:]}")


def _environment() -> dict[str, str]:
    """The environment of a command: one thread unless the caller sets another number, and W&B offline."""
    return {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
