import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "gpu_check.py"


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def outcomes(folder: Path) -> dict[str, str]:
    return {line[:13].strip(): line[14:23].strip() for line in (folder / "gpu_check.txt").open()}


def test_each_item_of_the_gpu_check_writes_a_line(tmp_path):
    done = check(tmp_path, "switches", "fp16", "set5", "--device", "cpu", "--weights", "nowhere")
    assert outcomes(tmp_path) == {"switches": "ok", "fp16": "skipped", "set5": "skipped"}
    assert done.stdout == (tmp_path / "gpu_check.txt").read_text()
    assert (done.returncode, done.stderr) == (0, "")


def test_an_item_of_the_gpu_check_that_takes_too_long_is_ended(tmp_path):
    done = check(tmp_path, "networks", "waits", "--device", "cpu", "--limit", "0.3")
    assert outcomes(tmp_path) == {"networks": "timed out", "waits": "timed out"}
    assert done.returncode == 1


def test_an_item_of_the_gpu_check_that_fails_says_why(tmp_path):
    done = check(tmp_path, "device")
    assert outcomes(tmp_path) == {"device": "failed"}
    assert "torch sees no GPU" in done.stdout
    assert "Traceback" in (tmp_path / "gpu_check.log").read_text()
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", [["devise"], ["--device", "mps"]])
def test_the_gpu_check_refuses_what_it_does_not_know(tmp_path, arguments):
    assert "usage:" in check(tmp_path, *arguments).stderr
    assert not (tmp_path / "gpu_check.txt").exists()
