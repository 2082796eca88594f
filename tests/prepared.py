"""A process that has imported everything; tests fork the processes that they need from it.

Starting a new process takes seconds. All workers of pytest-xdist share the prepared one.
"""

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

ADDRESS = "SR_LAB_TESTS_PREPARED"  # the variable with the socket's path; pytest-xdist's workers inherit it
_starting = threading.Lock()


def start() -> None:
    """Start the prepared process, unless this process or its parent has; it ends when this process ends."""
    with _starting:
        if ADDRESS in os.environ:
            return
        folder = tempfile.mkdtemp(prefix="sr_lab-tests-")
        os.environ[ADDRESS] = str(Path(folder, "socket"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.environ[ADDRESS])
            listener.listen(64)
            command = [sys.executable, "-m", "tests.prepared", str(listener.fileno())]
            process = subprocess.Popen(
                command,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # closed even if this process is killed
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        atexit.register(_end, process, folder)


def _end(process: "subprocess.Popen[bytes]", folder: str) -> None:
    with process:
        process.kill()
    shutil.rmtree(folder)


def connect(call: str, *arguments: object, timeout: float | None = None) -> TextIO:
    """Fork a process that calls a function, and connect to it.

    Args:
        call: The function, ``module:name``; its first argument is the other end of the connection.
        arguments: Its other arguments, which are sent as JSON.
        timeout: Seconds after which reading from the connection raises ``TimeoutError``.
    """
    start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        connection.settimeout(timeout)
        stream = connection.makefile("rw")
    stream.write(json.dumps([call, *arguments]) + "\n")
    stream.flush()
    return stream


def run(
    call: str, *arguments: object, folder: Path, environment: Mapping[str, str], timeout: float = 240
) -> "subprocess.CompletedProcess[str]":
    """Call a function in its own process, as `subprocess.run` runs a command.

    Args:
        call: The function, ``module:name``.
        arguments: Its arguments, which are sent as JSON.
        folder: The working folder.
        environment: All environment variables of the process.
        timeout: Seconds after which the process, and what it has started, is killed.

    Raises:
        subprocess.TimeoutExpired: It was killed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        written = [str(Path(scratch, name)) for name in ("stdout", "stderr")]
        request = (call, arguments, str(folder), dict(environment), written)
        with connect("tests.prepared:_run", *request, timeout=timeout) as stream:
            process = int(stream.readline())
            try:
                code = int(stream.readline())
            except BaseException as error:
                os.killpg(process, signal.SIGKILL)  # the ranks of a training run wait for each other
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(call, timeout) from error
                raise
        output = [Path(path).read_text(errors="replace") for path in written]
    return subprocess.CompletedProcess([call, *map(str, arguments)], code, *output)


def _run(
    stream: TextIO,
    call: str,
    arguments: Sequence[object],
    folder: str,
    environment: Mapping[str, str],
    written: Sequence[str],
) -> None:
    """Fork once more, and tell the test the id and then the exit code of that process."""
    process = os.fork()
    if process == 0:
        stream.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(written, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(folder)
        finish(environment, _named(call), *arguments)
    stream.write(f"{process}\n")
    stream.flush()
    stream.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
    stream.flush()


def _named(call: str) -> Callable[..., object]:
    module, _, name = call.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


def finish(environment: Mapping[str, str], function: Callable[..., object], *arguments: object) -> NoReturn:
    """Call a function as the last thing that this forked process does, and exit as the interpreter does."""
    code: object = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # makes tempfile read the environment again
        function(*arguments)
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


def _serve(listener: socket.socket) -> None:
    """Fork a process for each connection, until stdin is closed."""
    _prepare()
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket) -> NoReturn:
    code = 1
    try:
        with connection, connection.makefile("rw") as stream:
            call, *arguments = json.loads(stream.readline())
            _named(call)(stream, *arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _prepare() -> None:
    """Do what most commands do, so that their processes need not do it."""
    import pytest

    from sr_lab import tasks
    from sr_lab.checkpoints import catalogue
    from sr_lab.config import code
    from sr_lab.system import garbage
    from tests import composing
    from tests.command_line import SMOKE

    garbage.collect_later()
    for task in pkgutil.iter_modules(tasks.__path__):
        if task.name != "demo":  # Gradio, which it imports, is not always installed
            importlib.import_module(f"sr_lab.tasks.{task.name}")
    # The last library takes a second to import in each run that W&B logs.
    for library in ("fontTools.subset", "matplotlib.backends.backend_pdf", "wandb.sdk.launch"):
        importlib.import_module(library)
    composing.share(pytest.MonkeyPatch())
    code.needed(composing.compose(*SMOKE).model_dump())
    code.measuring()
    catalogue.skipped()  # builds each network once, as every command that opens an official file does


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _serve(listening)
