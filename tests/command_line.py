"""``python -m sr_lab`` in a process and a folder of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# A training that takes a second, most of a process' time goes into its imports.
SMOKE = ("trainer=cpu", "budget=smoke", "model=imdn", "+model.num_feat=16", "+model.num_block=1")


def sr_lab(
    folder: Path, *arguments: str, timeout: float = 240, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run in ``folder``, with neither the user's settings nor a key of W&B."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sr_lab", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment_in(folder) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # its own processes too: DDP ranks wait for each other
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def environment_in(folder: Path) -> dict[str, str]:
    """The environment of a command, without the user's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SR_LAB_", "COVERAGE"))}
    ours = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "SR_LAB_CACHE": str(folder / "cache")}
    # Its list of fonts takes seconds to make, in each new HOME.
    return {"MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib")} | inherited | ours


def run_folder(folder: Path) -> Path:
    """The only run folder below ``folder``."""
    (found,) = {path.parent for path in folder.glob("outputs/*/*/config.yaml")}
    return found
