"""Run every command in the README."""

import re
import shlex
from pathlib import Path

import pytest

from tests.command_line import sr_lab

README = (Path(__file__).parents[1] / "README.md").read_text()


def _commands() -> list[str]:
    (block,) = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return block.strip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("command", _commands())
def test_a_command_in_the_readme_runs(command: str, folder: Path, request: pytest.FixtureRequest) -> None:
    environment = {}
    python, module, package, *arguments = shlex.split(command)
    assert (python, module, package) == ("python", "-m", "sr_lab")
    if "ckpt=IMDN_x4.pth" in arguments:
        environment["SR_LAB_DATA"] = str(request.getfixturevalue("data_dir"))
        weights = request.getfixturevalue("weights_dir") / "IMDN" / "IMDN_x4.pth"
        arguments[arguments.index("ckpt=IMDN_x4.pth")] = f"ckpt={weights}"
    elif "--help" not in command and "task=" not in command:
        # A full training run would take too long.
        arguments += ["budget=smoke", "trainer=cpu", "+model.num_block=1"]
    # One small network is enough to test a sweep.
    small = {"model=glob(*)": "model=glob(imdn_r*)", "model=imdn,osffnet": "model=imdn"}
    arguments = [small.get(argument, argument) for argument in arguments]
    if "task=report" in command and not (folder / "outputs").exists():
        pytest.skip("needs the runs of the commands above")
    done = sr_lab(folder, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    if "--help" not in command:
        assert "params" in done.stdout


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200
