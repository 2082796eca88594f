"""Run ``python -m sr_lab`` in its own process and folder.

A short command spends most of its time on imports and on reading ``conf``, so its process is forked from one
that has already done both, and so are the jobs of a sweep.
"""

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from wandb.sdk.data_types.image import MEDIA_TMP

from sr_lab import tasks
from sr_lab.config import code
from sr_lab.runs import sweep
from sr_lab.system import garbage
from tests import composing
from tests.conftest import compose

SMOKE = ("trainer=cpu", "budget=smoke", "model=imdn", "+model.num_feat=16", "+model.num_block=1")


def sr_lab(
    folder: Path, *arguments: str, timeout: float = 240, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in ``folder``, with neither the user's settings nor a W&B key."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": environment_in(folder) | environment,
            "scratch": scratch,
        }
        _server().ask(request)
        code = _wait(Path(scratch), timeout)
        said = [Path(scratch, name).read_text(errors="replace") for name in ("stdout", "stderr")]
    command = [sys.executable, "-m", "sr_lab", *arguments]
    return subprocess.CompletedProcess(command, code, *said)


def _wait(scratch: Path, timeout: float) -> int:
    until = time.monotonic() + timeout
    try:
        while not (scratch / "code").exists():
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("sr_lab", timeout)
            time.sleep(0.02)
    except BaseException:
        os.killpg(int((scratch / "pid").read_text()), signal.SIGKILL)  # DDP ranks wait for each other
        raise
    return int((scratch / "code").read_text())


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


class _Server:
    """The process that forks the commands; it exits when this process does."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.command_line"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
        self.lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: dict[str, object]) -> None:
        assert self.process.stdin is not None
        with self.lock:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        with self.process:
            self.process.kill()  # its stdin stays open as long as any process that was forked meanwhile


_servers: list[_Server] = []
_starting = threading.Lock()


def _server() -> _Server:
    with _starting:
        if not _servers:
            _servers.append(_Server())
    return _servers[0]


def _serve() -> None:
    """Fork two processes for each line of stdin: one runs the command, the other waits for it to exit."""
    garbage.collect_later()
    _prepare()
    for line in sys.stdin:
        if os.fork() == 0:
            _run(json.loads(line))
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _prepare() -> None:
    """Do what most commands do, so that their processes need not: import, and read and merge ``conf``."""
    for task in pkgutil.iter_modules(tasks.__path__):
        if task.name != "demo":  # its library is not always installed
            importlib.import_module(f"sr_lab.tasks.{task.name}")
    # The last takes a second, in each run that W&B logs.
    for library in ("fontTools.subset", "matplotlib.backends.backend_pdf", "wandb.sdk.launch"):
        importlib.import_module(library)
    composing.share(pytest.MonkeyPatch())
    code.needed(compose(*SMOKE).model_dump())
    code.measuring()


def _run(request: dict[str, object]) -> NoReturn:
    scratch = Path(str(request["scratch"]))
    worker = os.fork()
    if worker == 0:
        _become(request, scratch)
    (scratch / "pid").write_text(str(worker))
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    (scratch / "ended").write_text(str(code))
    (scratch / "ended").rename(scratch / "code")
    os._exit(0)


def _become(request: dict[str, object], scratch: Path) -> NoReturn:
    """Do what ``python -m sr_lab`` does, and exit as the interpreter does."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(str(request["folder"]))
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    sweep.subprocess = types.SimpleNamespace(**vars(subprocess) | {"Popen": _started})
    _exit_as(arguments, environment)


def _exit_as(arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    code: object = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # makes tempfile read the environment again
        MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")  # every exit removes a shared one
        sys.argv = ["sr_lab", *arguments]
        sys.orig_argv = [sys.executable, "-m", "sr_lab", *arguments]
        sys.path[0] = os.getcwd()  # as with -m
        runpy.run_module("sr_lab", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


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
            _exit_as(arguments, env)

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


if __name__ == "__main__":
    _serve()
