"""Run ``python -m sr_lab`` in its own process and folder, forked from the one in `tests.prepared`."""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from wandb.sdk.data_types.image import MEDIA_TMP

from sr_lab.runs import sweep
from tests import prepared

SMOKE = ("trainer=cpu", "budget=smoke", "model=imdn", "+model.num_feat=16", "+model.num_block=1")


def sr_lab(
    folder: Path, *arguments: str, timeout: float = 240, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in ``folder``, with neither the user's settings nor a W&B key."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = environment_in(folder) | environment
    return prepared.run(
        "tests.command_line:main", *arguments, folder=folder, environment=environment, timeout=timeout
    )


def environment_in(folder: Path) -> dict[str, str]:
    """The environment of a command, without the user's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SR_LAB_", "COVERAGE"))}
    ours = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "SR_LAB_CACHE": str(folder / "cache")}
    # Matplotlib takes seconds to build its font cache in a new HOME.
    return {"MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib")} | inherited | ours


def run_folder(folder: Path) -> Path:
    """The only run folder below ``folder``."""
    (found,) = {path.parent for path in folder.glob("outputs/*/*/config.yaml")}
    return found


def main(*arguments: str) -> None:
    """Do what ``python -m sr_lab`` does; a sweep forks its jobs."""
    sweep.subprocess = types.SimpleNamespace(**vars(subprocess) | {"Popen": _started})
    _program(*arguments)


def _program(*arguments: str) -> None:
    # Each process removes this folder when it exits, so the processes must not share one.
    MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")
    sys.argv = ["sr_lab", *arguments]
    sys.orig_argv = [sys.executable, "-m", "sr_lab", *arguments]
    sys.path[0] = os.getcwd()  # as with -m
    runpy.run_module("sr_lab", run_name="__main__", alter_sys=True)


def _started(command: list[str], **options: Any) -> "subprocess.Popen[bytes] | _Job":
    """Start a command; a job of a sweep is forked, any other command is started by ``subprocess.Popen``."""
    if command[:3] == [sys.executable, "-m", "sr_lab"]:
        return _Job(command[3:], **options)
    return subprocess.Popen(command, **options)


class _Job:
    """A job that a sweep has forked, with the methods of ``subprocess.Popen`` that the queue calls."""

    def __init__(self, arguments: list[str], *, env: Mapping[str, str], stdout: Any, **_: object) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            if stdout is not None:
                for number in (1, 2):
                    os.dup2(stdout.fileno(), number)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            prepared.finish(env, _program, *arguments)

    def poll(self) -> int | None:
        """The exit code, or ``None`` while the job runs."""
        if self.code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.code = os.waitstatus_to_exitcode(ended[1])
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the job to exit."""
        until = time.monotonic() + (timeout if timeout is not None else 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("sr_lab", timeout or 0)
            time.sleep(0.01)
        return code
