"""Only one module uses what only Unix has, and a run also works without it."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sr_lab
from sr_lab import run_folder
from sr_lab.errors import ConfigError
from sr_lab.run_folder import Listed, RunFolder, read_index, write_index
from sr_lab.system import unix
from tests import without_unix
from tests.command_line import SMOKE, environment_in

PACKAGE = Path(sr_lab.__file__).parent
ROOT = PACKAGE.parent


def used(source: str) -> set[str]:
    """The names in a module's source that Windows lacks; docstrings do not count."""
    found = set()
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & without_unix.MODULES
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in ("os", "signal", *without_unix.MODULES), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} & set(without_unix.NAMES.get(node.value.id, ()))
            found |= {"CDLL"} & {node.attr}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            found |= {place for place in without_unix.PLACES if node.value.startswith(place)}
    return found


def test_one_module_uses_what_only_unix_has():
    users = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if (found := used(path.read_text(encoding="utf-8")))
    }
    assert users.keys() == {"system/unix.py"}
    assert {"fcntl", "killpg", "geteuid", "pthread_sigmask", "/proc", "/dev/shm", "CDLL"} <= users[
        "system/unix.py"
    ]


@pytest.fixture
def no_fcntl(monkeypatch):
    """Hide ``fcntl`` from sr_lab and filelock, as on Windows."""
    import filelock

    monkeypatch.setattr(unix, "_fcntl", None)
    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)


def test_a_run_folder_is_locked_without_fcntl(no_fcntl, tmp_path):
    ours, theirs = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert ours.state() == "waiting"
    with ours.attempt():
        assert theirs.state() == "running"
        assert theirs.since() == pytest.approx(ours.lock.stat().st_mtime, abs=5)  # a locked file can be read
        with pytest.raises(ConfigError, match="another process is running this"), theirs.attempt():
            pytest.fail("two at work")
    assert theirs.state() == "interrupted"
    with theirs.attempt():
        theirs.write_metrics({})
    assert ours.state() == "finished"


def test_asking_for_the_state_writes_nothing_without_fcntl(no_fcntl, tmp_path):
    (tmp_path / ".lock").write_text("17.5")
    assert RunFolder(tmp_path).state() == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_index_of_a_sweep_is_locked_without_fcntl(no_fcntl, monkeypatch, tmp_path):
    job = Listed("run", None, [])
    monkeypatch.setattr(run_folder, "_add_to_index", lambda *_: pytest.fail("not locked"))
    with (tmp_path / ".sweep.lock").open("ab") as file, unix.locked(file) as is_ours:
        assert is_ours
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(ConfigError, match="another process keeps it locked"):
            write_index(tmp_path, [job])
    monkeypatch.undo()
    write_index(tmp_path, [job])
    assert read_index(tmp_path) == [job]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "/a", "a/"])
def test_a_job_of_the_index_is_next_to_it(tmp_path, name):
    index = {"jobs": [{"folder": name, "label": None, "overrides": []}]}
    (tmp_path / "sweep.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="must name run folders next to the file"):
        read_index(tmp_path)


def test_without_process_groups_only_the_process_is_signalled(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    sleeps = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    for number in (signal.SIGINT, unix.KILL):
        with subprocess.Popen(sleeps, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.readline()
            unix.signal_group(process, number)
            assert process.wait(30) != 0
            unix.signal_group(process, number)  # it has ended, which is not an error


def test_a_worker_ignores_signals_where_their_sender_is_unknown(monkeypatch):
    before = {number: signal.getsignal(number) for number in unix.END_SIGNALS}
    monkeypatch.delattr(signal, "sigwaitinfo")  # as on macOS
    try:
        unix.obey_parent_only()
        ignored = {n for n in unix.END_SIGNALS if signal.getsignal(n) is signal.SIG_IGN}
        assert ignored == set(unix.END_SIGNALS) - {signal.SIGTERM}
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_memory_is_unknown_where_the_system_does_not_report_it(monkeypatch):
    assert unix.memory() > 2**28
    monkeypatch.delattr(os, "sysconf")
    assert unix.memory() is None


def sr_lab_without_unix(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command, its workers and its jobs with only what Windows has."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    shutil.copy(without_unix.__file__, site / "sitecustomize.py")
    environment = environment_in(folder) | without_unix.ENVIRONMENT | {"PYTHONPATH": f"{site}:{ROOT}"}
    command = [sys.executable, "-m", "sr_lab", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done


TRAIN = (*SMOKE, "steps=1", "benchmark=sample", "logger=none")


def test_a_run_needs_nothing_that_only_unix_has(tmp_path):
    assert "run folder: outputs/train/" in sr_lab_without_unix(tmp_path, *TRAIN, "num_workers=0").stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_help_a_sweep_a_report_and_upscaling_need_nothing_that_only_unix_has(tmp_path):
    assert "model=imfm" in sr_lab_without_unix(tmp_path, "model=imfm", "--help").stdout
    sweep = ("-m", *TRAIN, "num_workers=1", "upsampler=native,deconv", "sweep.jobs=2")
    assert "deconv" in sr_lab_without_unix(tmp_path, *sweep).stdout
    (tmp_path / "outputs" / "train" / "sweep.json").unlink()
    again = sr_lab_without_unix(tmp_path, *sweep, "num_workers=0")
    assert again.stdout.count("already finished") == 2
    assert "report.html" in sr_lab_without_unix(tmp_path, "task=report", "runs=outputs/train").stdout
    assert "2 finished" in sr_lab_without_unix(tmp_path, "task=status", "runs=outputs/train").stdout
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    upscale = ("task=upscale", "model=bicubic", "input=photos", "output=big")
    assert "1 of 1 upscaled" in sr_lab_without_unix(tmp_path, *upscale).stdout
    plan = sr_lab_without_unix(tmp_path, "task=plan", *TRAIN, "seed=1").stdout
    assert "this system does not say" in " ".join(plan.split())
