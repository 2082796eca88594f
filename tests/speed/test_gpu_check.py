import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"

SOME = """
import sys, time, gpu_check

def fails(place):
    assert place.on_gpu, "there is no GPU"

def crashes(place):
    import os
    os.abort()

given = {name: gpu_check.ITEMS[name] for name in ("switches", "fp16")}
more = {"slow": (lambda place: time.sleep(60), 0.1), "wrong": (fails, 9), "crash": (crashes, 9)}
gpu_check.ITEMS = given | more
sys.argv = ["gpu_check.py", "--device", "cpu"]
sys.exit(gpu_check.main())
"""


def python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, [str(ROOT), str(FOLDER), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_each_item_of_the_gpu_check_writes_a_line_whether_it_passes_fails_times_out_or_crashes(tmp_path):
    done = python(tmp_path, "-c", SOME)
    text = (tmp_path / "gpu_check.txt").read_text()
    assert {line[:13].strip(): line[14:23].strip() for line in text.splitlines()} == {
        "switches": "ok",
        "fp16": "skipped",
        "slow": "timed out",
        "wrong": "failed",
        "crash": "failed",
    }
    assert "there is no GPU" in text
    assert "Traceback" in (tmp_path / "gpu_check.log").read_text()
    assert (done.stdout, done.returncode) == (text, 1)


def test_the_gpu_check_refuses_an_item_that_it_does_not_have(tmp_path):
    done = python(tmp_path, str(FOLDER / "gpu_check.py"), "devise")
    assert "there is no item 'devise'; allowed: device, switches" in done.stderr
    assert done.returncode == 2
