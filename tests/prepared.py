"""``python -m sr_lab`` in processes forked from one that has imported everything: in a second, not seven."""

import contextlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.command_line import environment_in


class Prepared:
    """The process that forks.

    Args:
        process: Speaks JSON lines.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def sr_lab(self, folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """The same as `tests.command_line.sr_lab`."""
        folder.mkdir(parents=True, exist_ok=True)
        request = {
            "folder": str(folder),
            "arguments": arguments,
            "environment": environment_in(folder) | environment,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        said = [folder / "stdout.txt", folder / "stderr.txt"]
        out, err = (path.read_text() for path in said)
        for path in said:
            path.unlink()
        return subprocess.CompletedProcess(arguments, code, out, err)


@contextlib.contextmanager
def prepared() -> Iterator[Prepared]:
    """Start the process."""
    command = [sys.executable, "-m", "tests.prepared"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) as process:
        try:
            yield Prepared(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def _serve() -> None:
    """Fork a command for each line of stdin."""
    import sr_lab.tasks.evaluate
    import sr_lab.tasks.report
    import sr_lab.tasks.train  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(**request)
        answers.write(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) + "\n")
        answers.flush()


def _run(folder: str, arguments: list[str], environment: dict[str, str]) -> None:
    """What ``python -m sr_lab`` does in a process of its own; ends with `SystemExit`."""
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ |= environment
    sys.path[0] = folder
    sys.argv = ["sr_lab", *arguments]
    sys.orig_argv = [sys.executable, "-m", "sr_lab", *arguments]
    runpy.run_module("sr_lab", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve()
