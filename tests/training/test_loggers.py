"""W&B without a key, with one, and disabled."""

import subprocess
import sys

import pytest

from sr_lab.run_folder import RunFolder
from sr_lab.training.loggers import build_loggers, has_wandb_key
from tests.command_line import environment_in
from tests.conftest import compose


def test_a_disabled_wandb_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = RunFolder(tmp_path / "run")
    assert build_loggers(compose("trainer=cpu", "budget=smoke", "logger=wandb"), folder) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_key_is_not_used_where_wandb_is_switched_off(monkeypatch, mode):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert not has_wandb_key()


ASK = """
import pathlib, sys, wandb
from sr_lab.training.loggers import has_wandb_key
if sys.argv[1] == "True":
    netrc = pathlib.Path.home() / ".netrc"
    netrc.touch(0o600)
    host = wandb.Settings().base_url.removeprefix("https://")
    netrc.write_text(f"machine {host} login user password {'0123456789' * 4}")
print(has_wandb_key())
"""


@pytest.mark.parametrize("has_key", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_key_is_looked_for_where_wandb_looks(tmp_path, has_key):
    """This runs in its own process, since W&B remembers what it found."""
    command, environment = [sys.executable, "-c", ASK, str(has_key)], environment_in(tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{has_key}\n", "")
