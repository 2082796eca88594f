import json
import os
import subprocess
import sys
import threading

import pytest

from sr_lab.errors import ConfigError, DistributedError, FaultError
from sr_lab.run_folder import RunFolder


def test_the_files_of_a_run_have_these_names(tmp_path):
    folder = RunFolder(tmp_path)
    files = (folder.config, folder.metrics, folder.record, folder.failed, folder.checkpoints, folder.images)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        *("config.yaml", "metrics.json", "metrics.csv", "failed.txt", "checkpoints", "images")
    ]


def test_results_are_read_back_as_they_were_written(tmp_path):
    values = {"test/Set5/psnr_y": 32.2104999, "images": [{"image": "baby"}], "commit": None}
    RunFolder(tmp_path).write_metrics(values)
    assert RunFolder(tmp_path).read_metrics() == values
    assert json.loads((tmp_path / "metrics.json").read_text()) == values


@pytest.mark.parametrize("spoilt", [b"", b"\0" * 40, b'{"test/Set5/psn', b"[1]", b"{}\xff"])
def test_a_run_with_damaged_results_is_not_finished(tmp_path, spoilt):
    folder = RunFolder(tmp_path)
    folder.write_metrics({"test/Set5/psnr_y": 32.2})
    assert folder.state() == "finished"
    folder.metrics.write_bytes(spoilt)
    assert folder.state() == "waiting"


def test_an_unfinished_run_has_no_results(tmp_path):
    assert RunFolder(tmp_path).read_metrics() is None


def test_a_run_that_fails_leaves_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="too bad"), RunFolder(tmp_path / "run").attempt():
        raise ValueError("too bad")
    text = (tmp_path / "run" / "failed.txt").read_text()
    assert text.startswith("Traceback")
    assert text.strip().endswith("ValueError: too bad")


def test_an_interrupted_run_does_not_count_as_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path).attempt():
        raise KeyboardInterrupt
    assert not (tmp_path / "failed.txt").exists()


@pytest.mark.parametrize(
    "error",
    [FaultError("training: the memory is full"), DistributedError("training: gone"), OSError(28, "full")],
)
def test_a_run_ended_by_a_fault_of_the_machine_counts_as_interrupted(tmp_path, error):
    with pytest.raises(type(error)), RunFolder(tmp_path).attempt():
        raise error
    assert RunFolder(tmp_path).state() == "interrupted"


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
    """Another process that runs in ``tmp_path``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_a_second_process_in_the_same_run_folder_is_refused(tmp_path, other_process):
    with (
        pytest.raises(ConfigError, match="another process is running this run"),
        RunFolder(tmp_path).attempt(),
    ):
        pytest.fail("two processes at work")


@pytest.mark.parametrize("finishes", [True, False])
def test_a_process_that_waits_does_only_what_the_other_has_left_to_do(tmp_path, finishes):
    folder, waits = RunFolder(tmp_path), threading.Event()
    folder.write_metrics({"of": "an earlier attempt"})
    os.utime(folder.metrics, (1, 1))
    began = threading.Event()

    def other() -> None:
        with folder.attempt():
            began.set()
            assert waits.wait(60)
            if finishes:
                folder.write_metrics({"of": "the other process"})

    thread = threading.Thread(target=other)
    thread.start()
    assert began.wait(60)
    with folder.attempt(wait=waits.set) as done_meanwhile:
        assert done_meanwhile == finishes
    thread.join()


def test_a_refused_process_leaves_no_traceback_in_the_run_folder(tmp_path, other_process):
    with pytest.raises(ConfigError), RunFolder(tmp_path).attempt():
        pass
    assert not (tmp_path / "failed.txt").exists()


def test_a_killed_process_leaves_no_lock_behind(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    with RunFolder(tmp_path).attempt():
        pass


def test_a_link_out_of_the_run_folder_is_refused_and_one_inside_is_not(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / "wandb" / "run-1").mkdir(parents=True)
    (folder.path / "wandb" / "latest-run").symlink_to("run-1")  # as W&B makes it
    (tmp_path / "linked").symlink_to(tmp_path)
    with RunFolder(tmp_path / "linked" / "run").attempt():
        pass
    (folder.path / "wandb" / "run-1" / "logs").mkdir()
    (folder.path / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "cache.log")  # too
    with folder.attempt():
        pass
    (folder.path / "wandb" / "deep").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="deep: is a link out of the run folder"), folder.attempt():
        pass


def test_results_are_strict_json_with_null_for_infinity(tmp_path):
    def refuse(word):
        raise AssertionError(word)

    RunFolder(tmp_path).write_metrics(
        {"psnr": float("inf"), "images": [{"psnr": float("nan"), "n": (1, 2.5)}]}
    )
    read = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert read == {"psnr": None, "images": [{"psnr": None, "n": [1, 2.5]}]}


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "", "yesterday"])
def test_a_lock_that_names_no_time_is_ignored(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    assert RunFolder(tmp_path).since() is None
    (tmp_path / ".lock").write_text("17.5\n")
    assert RunFolder(tmp_path).since() == 17.5


def test_a_run_that_was_refused_keeps_the_traceback_of_an_attempt_that_began(tmp_path):
    folder = RunFolder(tmp_path)
    folder.refuse("the data is missing")
    assert folder.state() == "failed"
    assert folder.refused
    folder.failed.write_text("Traceback of an attempt")
    folder.refuse("the data is missing")
    assert folder.failed.read_text() == "Traceback of an attempt"
    assert not folder.refused


def test_no_line_of_a_record_with_an_endless_step_is_read(tmp_path):
    (tmp_path / "metrics.csv").write_text(f"step,val/psnr_y\n1,30\n{'9' * 5000},31\n")
    assert RunFolder(tmp_path).validations() == {1: 30}
