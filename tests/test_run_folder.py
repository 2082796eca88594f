import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder, write_atomically


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "a long first content")
    write_atomically(path, "short")
    assert path.read_text() == "short"


def test_bytes_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "a.png", b"\x89\r\n")
    assert (tmp_path / "a.png").read_bytes() == b"\x89\r\n"


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_whole_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("flushed"), fsync(handle)))

    def renamed(source, target) -> None:
        steps.append((Path(source).read_text(), Path(source).parent == tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(tmp_path / "a.txt", "content")
    assert steps == ["flushed", ("content", True)]


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a.txt", "content")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_the_files_of_a_run_have_these_names(tmp_path):
    folder = RunFolder(tmp_path)
    files = (folder.config, folder.metrics, folder.record, folder.failed, folder.checkpoints, folder.images)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        *("config.yaml", "metrics.json", "metrics.csv", "failed.txt", "checkpoints", "images")
    ]


def test_results_read_back_as_they_were_written(tmp_path):
    values = {"test/Set5/psnr_y": 32.2104999, "images": [{"image": "baby"}], "commit": None}
    RunFolder(tmp_path).write_metrics(values)
    assert RunFolder(tmp_path).read_metrics() == values
    assert json.loads((tmp_path / "metrics.json").read_text()) == values


def test_an_unfinished_run_has_no_results(tmp_path):
    assert RunFolder(tmp_path).read_metrics() is None


def test_a_run_that_dies_leaves_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="too bad"), RunFolder(tmp_path / "run").attempt():
        raise ValueError("too bad")
    text = (tmp_path / "run" / "failed.txt").read_text()
    assert text.startswith("Traceback")
    assert text.strip().endswith("ValueError: too bad")


def test_a_run_that_is_interrupted_leaves_its_traceback(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path).attempt():
        raise KeyboardInterrupt
    assert "KeyboardInterrupt" in (tmp_path / "failed.txt").read_text()


def test_the_next_attempt_removes_the_traceback(tmp_path):
    (tmp_path / "failed.txt").write_text("Traceback")
    with RunFolder(tmp_path).attempt():
        assert not (tmp_path / "failed.txt").exists()
    assert not (tmp_path / "failed.txt").exists()


HOLD = """
import pathlib, sys
from sr_lab.run_folder import RunFolder
with RunFolder(pathlib.Path(sys.argv[1])).attempt():
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    """Another process at work in ``tmp_path``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_a_second_process_is_refused(tmp_path, other_process):
    with (
        pytest.raises(ConfigError, match="another process is at work on this run; wait for it"),
        RunFolder(tmp_path).attempt(),
    ):
        pytest.fail("two processes at work")


def test_a_refused_process_leaves_no_traceback_in_the_others_folder(tmp_path, other_process):
    with pytest.raises(ConfigError), RunFolder(tmp_path).attempt():
        pass
    assert not (tmp_path / "failed.txt").exists()


def test_a_killed_process_leaves_no_lock_behind(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    with RunFolder(tmp_path).attempt():
        pass
