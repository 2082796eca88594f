"""``make`` finds a Python that is new enough, or says which version is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
WORKS = '#!/bin/sh\ncase "$1" in -c) exit 0;; esac\necho "$0 $*" > made-by\n'
TOO_OLD = "#!/bin/sh\nexit 1\n"
SHIM = '#!/bin/sh\necho "$0: command not found" >&2\nexit 127\n'  # pyenv's shim for an inactive version


def make(folder: Path, pythons: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make for the environment, with only these commands as Python interpreters."""
    commands = folder / "commands"
    commands.mkdir()
    for name, script in pythons.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    for tool in ("make", "sh"):
        path = shutil.which(tool)
        if path is None:
            pytest.skip(f"{tool} is not installed")
        (commands / tool).symlink_to(path)
    return subprocess.run(
        ["make", "--file", str(MAKEFILE), *arguments, ".venv/bin/python"],
        cwd=folder,
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3": WORKS, "python3.12": WORKS}, "python3"),
        ({"python3.12": WORKS}, "python3.12"),
        ({"python3": TOO_OLD, "python3.13": WORKS}, "python3.13"),
        ({"python3": TOO_OLD, "python3.13": SHIM, "python3.11": WORKS}, "python3.11"),
    ],
    ids=["python3", "one version alone", "an old python3", "a shim that does not run"],
)
def test_make_uses_a_python_that_is_new_enough(pythons, taken, tmp_path):
    done = make(tmp_path, pythons)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made-by").read_text() == f"{tmp_path}/commands/{taken} -m venv .venv\n"


@pytest.mark.parametrize("pythons", [{}, {"python3": TOO_OLD}], ids=["no python", "an old python3"])
def test_make_says_which_python_is_missing(pythons, tmp_path):
    done = make(tmp_path, pythons)
    assert done.returncode == 2
    assert "3.11" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_make_uses_the_python_named_on_the_command_line(tmp_path):
    done = make(tmp_path, {"python3": WORKS, "mine": WORKS}, "PYTHON=mine")
    assert done.returncode == 0, done.stderr
    assert "commands/mine" in (tmp_path / "made-by").read_text()
