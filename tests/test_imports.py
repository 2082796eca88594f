"""The walls between the rooms (who may import whom) and what each command leaves unloaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sr_lab

PACKAGE = Path(sr_lab.__file__).parent

# Room -> floor; a module may import modules of lower floors, of its own room, and of no other.
FLOORS = {
    "errors": 0,
    "interrupts": 0,
    "types": 0,
    "files": 0,
    "digest": 0,
    "untrusted": 0,
    "devices": 1,
    "faults": 1,
    "autotune": 1,
    "ops": 1,
    "layers": 1,
    "schedules": 1,
    "losses": 1,
    "upsamplers": 2,
    "datasets": 2,
    "degradations": 2,
    "protocol": 2,
    "models": 3,
    "strategies": 4,
    "checkpoints": 5,
    "backends": 5,
    "inference": 5,
    "analysis": 5,
    "metrics": 5,
    "ranks": 5,
    "lit_module": 6,
    "data_module": 6,
    "callbacks": 6,
    "durable": 6,
    "judge": 6,
    "nan_policy": 6,
    "signals": 6,
    "catalogue": 6,
    "tasks": 7,
    "speed": 7,
    "sweep": 7,
    "search": 7,
    "api": 7,
    "__main__": 8,
}
# Beside the tower: what configures a run, and what reads run folders.
CONFIGURATION = ("config", "hydra_settings", "hydra_errors", "targets", "identity", "loggers")
FILES = ("run_folder", "reporting")
# Who may know what configures a run.
CONFIGURED = {"catalogue", "tasks", "sweep", "search", "api", "__main__"}
# Rooms of one floor, the first of which uses the second.
NEIGHBOURS = {
    ("untrusted", "files"),
    ("autotune", "devices"),
    ("datasets", "protocol"),
    ("callbacks", "lit_module"),
    ("judge", "durable"),
    ("judge", "lit_module"),
    ("nan_policy", "lit_module"),
    ("lit_module", "data_module"),
    ("tasks", "sweep"),
    ("tasks", "api"),
    ("tasks", "speed"),
    ("search", "sweep"),
}
HYDRA = {
    "__main__",
    "config",
    "hydra_settings",
    "hydra_errors",
    "targets",
    "identity",
    "catalogue",
    "tasks",
    "sweep",
    "search",
}


def modules() -> dict[str, ast.Module]:
    """Name below ``sr_lab`` -> parsed source."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that a module imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {name: imported(tree) for name, tree in modules().items()}


def room(name: str) -> str:
    return name.split(".")[0]


def rooms_used(name: str) -> set[str]:
    """Rooms of ours that a module imports from."""
    return {found.split(".")[1] for found in IMPORTS[name] if found.startswith("sr_lab.")}


def packages_used(name: str) -> set[str]:
    """Top-level packages that a module imports."""
    return {found.split(".")[0] for found in IMPORTS[name]}


@pytest.mark.parametrize("name", sorted(n for n in IMPORTS if room(n) not in CONFIGURATION + FILES))
def test_a_module_imports_only_from_the_floors_below(name):
    here = room(name)
    assert here in FLOORS, f"give the new room '{here}' a floor"
    for other in rooms_used(name) - {here}:
        if other in FILES or (other in CONFIGURATION and here in CONFIGURED):
            continue
        if (here, other) in NEIGHBOURS:
            continue
        assert other in FLOORS, f"{name} may not import {other}"
        assert FLOORS[other] < FLOORS[here], f"{name} may not import {other}"


@pytest.mark.parametrize("name", sorted(name for name in IMPORTS if room(name) in FILES))
def test_what_reads_run_folders_stands_by_itself(name):
    assert rooms_used(name) <= {"errors", "files", "untrusted", *FILES}


@pytest.mark.parametrize("name", sorted(name for name in IMPORTS if room(name) in CONFIGURATION))
def test_what_configures_a_run_imports_no_network_and_no_task(name):
    # identity asks checkpoints which file ckpt= means, since its content is part of a run's hash
    assert rooms_used(name) <= {"errors", "types", "files", "untrusted", "devices", "checkpoints"} | {
        *(*CONFIGURATION, *FILES)
    }


@pytest.mark.parametrize("name", sorted(name for name in IMPORTS if room(name) not in HYDRA))
def test_hydra_stays_above(name):
    assert not packages_used(name) & {"hydra", "omegaconf"}


# Between a network and its numbers stands nothing but torch.
PURE = ("ops", "layers", "losses", "schedules", "upsamplers", "models", "strategies", "protocol")


@pytest.mark.parametrize("name", sorted(name for name in IMPORTS if room(name) in PURE))
def test_networks_know_torch_and_no_framework(name):
    assert not packages_used(name) & {"lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "pydantic"}
    assert "datasets" not in rooms_used(name)


@pytest.mark.parametrize("name", sorted(name for name in IMPORTS if room(name) == "models"))
def test_a_model_imports_no_other_model(name):
    assert not {found for found in IMPORTS[name] if found.startswith("sr_lab.models")}


@pytest.mark.parametrize(
    "name",
    ["run_folder", "files", "reporting.runs", "reporting.table", "reporting.published", "reporting.tradeoff"],
)
def test_what_reads_run_folders_needs_neither_torch_nor_lightning(name):
    assert not packages_used(name) & {"torch", "lightning", "wandb", "hydra", "omegaconf"}


def test_every_wall_is_held_up_by_some_import():
    """Guards the tests above: a parser that finds nothing would find no fault."""
    assert "models" not in rooms_used("lit_module")
    assert {"ops", "errors"} <= rooms_used("protocol")
    assert "hydra" in packages_used("__main__")
    assert "torch" in packages_used("models.imdn")
    assert len(IMPORTS) > 30


def loaded(*arguments: str) -> set[str]:
    """Top-level packages that a command imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--cfg", "job"), ("--info", "defaults")], ids=lambda given: given[0]
)
def test_an_answer_about_the_configuration_comes_without_torch(arguments, tmp_path):
    packages = loaded("-m", "sr_lab", *arguments)
    assert "hydra" in packages
    assert not packages & {"torch", "lightning", "wandb", "torchmetrics", "kornia", "skimage"}


def test_the_package_itself_imports_no_torch():
    assert not loaded("-c", "import sr_lab") & {"torch", "lightning", "hydra", "numpy"}
