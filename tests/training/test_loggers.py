"""W&B without a key, with one, and disabled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from sr_lab.run_folder import RunFolder
from sr_lab.training import loggers
from sr_lab.training.loggers import build_loggers, has_wandb_key, names
from tests import prepared
from tests.command_line import environment_in
from tests.composing import compose


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


def ask(has_key: bool) -> None:
    """Print whether W&B's key is found, with or without a key in the user's ``.netrc``."""
    if has_key:
        netrc = Path.home() / ".netrc"
        netrc.touch(0o600)
        host = wandb.Settings().base_url.removeprefix("https://")
        netrc.write_text(f"machine {host} login user password {'0123456789' * 4}")
    sys.stdout.write(f"{has_wandb_key()}\n")


@pytest.mark.parametrize("has_key", [False, True])
def test_a_key_is_looked_for_where_wandb_looks(tmp_path, has_key):
    """This runs in its own process, since W&B remembers what it found."""
    environment = environment_in(tmp_path)
    done = prepared.run("tests.training.test_loggers:ask", has_key, folder=tmp_path, environment=environment)
    assert (done.stdout, done.stderr) == (f"{has_key}\n", "")


FILE = """
import json, sys
from pathlib import Path
from sr_lab.run_folder import RunFolder
from sr_lab.training.loggers import build_loggers
from tests.composing import compose
import wandb
for name, *overrides in json.loads(sys.argv[1]):
    config = compose("trainer=cpu", "budget=smoke", "scale=2", "run_name=mine", *overrides)
    (logger,) = build_loggers(config, RunFolder(Path(name)))
    logger.experiment
    wandb.finish()
"""
TYPED = (
    *("logger.wandb.project=p", "logger.wandb.entity=e", "logger.wandb.group=g", "logger.wandb.name=n"),
    *("logger.wandb.tags=[t,u]", "logger.wandb.notes=some words"),
)
VARIABLES = {
    "WANDB_PROJECT": "P",
    "WANDB_ENTITY": "E",
    "WANDB_RUN_GROUP": "G",
    "WANDB_NAME": "N",
    "WANDB_TAGS": "T, U",
    "WANDB_NOTES": "other words",
}


def filed(folder: Path) -> tuple[object, ...]:
    """Project, entity, group, name, tags, notes and id of the run in the file of an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder / "wandb")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    records = (json.loads(line) for line in done.stdout.splitlines())
    run = next(record["run"] for record in records if "run" in record)
    keys = ("project", "entity", "run_group", "display_name", "tags", "notes", "run_id")
    return tuple(run.get(key) for key in keys)


@pytest.mark.slow
def test_settings_name_a_wandb_run_or_else_its_variables_or_else_our_defaults(tmp_path):
    def files(runs: list[list[str]], **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", FILE, json.dumps(runs)],
            env=environment_in(tmp_path)
            | {"PYTHONPATH": str(Path.cwd()), "WANDB_MODE": "offline"}
            | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr

    own = ["x2", "smoke"]
    assert "W&B:" not in files([["typed", *TYPED], ["default"]])
    assert filed(tmp_path / "typed") == ("p", "e", "g", "n", ["t", "u", *own], "some words", "typed")
    assert filed(tmp_path / "default") == ("sr_lab", None, "train", "mine", own, None, "default")
    said = files([["both", *TYPED], ["variables"]], WANDB_DIR="elsewhere", **VARIABLES)
    assert said.count("W&B: WANDB_DIR: not used, ") == 2
    assert filed(tmp_path / "both") == ("p", "e", "g", "n", ["t", "u", *own], "some words", "both")
    expected = ("P", "E", "G", "N", ["T", "U", *own], "other words", "variables")
    assert filed(tmp_path / "variables") == expected


def test_the_mode_online_without_a_key_says_why_the_run_is_offline(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loggers, "has_wandb_key", lambda: False)
    monkeypatch.setenv("WANDB_MODE", "online")
    config = compose("trainer=cpu", "budget=smoke", "logger=wandb")
    assert build_loggers(config, RunFolder(tmp_path / "run"))
    assert "W&B: offline, since WANDB_MODE is online but there is no API key" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "tags"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])])
def test_one_tag_may_be_written_without_a_list(given, tags):
    assert names({"tags": given})["tags"] == tags
