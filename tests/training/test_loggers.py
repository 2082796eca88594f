"""W&B without a key, with one, and disabled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_lab.run_folder import RunFolder
from sr_lab.training.loggers import build_loggers
from tests.conftest import compose


def test_a_disabled_wandb_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = RunFolder(tmp_path / "run")
    assert build_loggers(compose("trainer=cpu", "budget=smoke", "logger=wandb"), folder) == []
    assert list(tmp_path.iterdir()) == []


KEY = "0123456789" * 4
ASK = "from sr_lab.training.loggers import has_wandb_key; print(has_wandb_key())"
HOST = "import wandb; print(wandb.Settings().base_url)"


def printed(program: str, home: Path, **environment: str) -> str:
    """Runs in a process of its own, since W&B remembers the first key that it finds."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_key_in_the_environment_counts_unless_wandb_is_switched_off(tmp_path, mode):
    found = printed(ASK, tmp_path, WANDB_API_KEY=KEY, WANDB_MODE=mode)
    assert found == str(mode == "online")


def test_a_key_is_looked_for_where_wandb_looks(tmp_path):
    assert printed(ASK, tmp_path) == "False"
    host = printed(HOST, tmp_path).removeprefix("https://")
    (tmp_path / ".netrc").write_text(f"machine {host}\nlogin user\npassword {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert printed(ASK, tmp_path) == "True"
