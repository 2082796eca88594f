"""Which package of sr_lab may import which, and which libraries each command must not load."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import sr_lab

PACKAGE = Path(sr_lab.__file__).parent

# A module imports from its own level and the levels before it, never from a later level.
LEVELS = (
    {"errors", "types"},
    {"system"},
    {"files", "zoo"},
    {"run_folder", "ops", "layers", "losses"},
    {"upsamplers", "datasets", "degradations", "protocol", "metrics"},
    {"models"},
    {"strategies", "analysis"},
    {"checkpoints", "inference"},
    {"training"},
    {"runs"},
    {"tasks", "api", "hub", "speed", "help"},
    {"__main__"},
)
# Two packages are outside the levels. These lists say what the two may import, and who may import the two.
OUTSIDE = {
    "config": {"errors", "types", "files", "zoo", "system", "run_folder"},
    "reporting": {"errors", "types", "files", "run_folder"},
}
BUILDS_FROM_CONFIG = {
    *("checkpoints.opening", "checkpoints.catalogue", "training.build", "training.cost", "training.loggers")
}
MAY_IMPORT = {
    "config": {"runs", "tasks", "api", "hub", "speed", "help", "__main__"},
    "reporting": {"training", "runs", "tasks", "speed", "help"},
}
# Packages for networks, which need only torch.
PURE = {"ops", "layers", "losses", "upsamplers", "models", "strategies", "protocol"}


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere, including inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): imported(path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def package_of(name: str) -> str:
    return name.split(".")[0]


def packages_used(name: str) -> set[str]:
    """The other packages of sr_lab that a module imports from."""
    return {found.split(".")[1] for found in imports()[name] if found.startswith("sr_lab.")} - {
        package_of(name)
    }


def libraries_used(name: str) -> set[str]:
    """Top-level libraries that a module imports."""
    return {found.split(".")[0] for found in imports()[name]}


def may_import(name: str) -> set[str]:
    """The packages of sr_lab that a module may import from."""
    here = package_of(name)
    if here in OUTSIDE:
        return OUTSIDE[here]
    number = next((number for number, level in enumerate(LEVELS) if here in level), None)
    assert number is not None, f"assign the new package '{here}' to a level"
    outside = {other for other, users in MAY_IMPORT.items() if here in users}
    return set().union(*LEVELS[: number + 1], outside, {"config"} if name in BUILDS_FROM_CONFIG else ())


def test_a_module_imports_only_from_its_own_level_and_earlier_levels():
    wrong = {name: found for name in imports() if (found := packages_used(name) - may_import(name))}
    assert wrong == {}


def test_the_packages_have_no_import_cycle():
    arrows: dict[str, set[str]] = {}
    for name in imports():
        arrows.setdefault(package_of(name), set()).update(packages_used(name))
    graphlib.TopologicalSorter(arrows).prepare()  # raises a CycleError that names the cycle


def test_the_modules_have_no_import_cycle():
    modules = set(imports())
    arrows = {
        name: {
            found
            for given in imports()[name]
            for found in (given.removeprefix("sr_lab."), given.removeprefix("sr_lab.").rpartition(".")[0])
            if given.startswith("sr_lab.") and found in modules and found != name
        }
        for name in imports()
    }
    graphlib.TopologicalSorter(arrows).prepare()


def test_only_the_upper_levels_import_hydra():
    users = {package_of(name) for name in imports() if libraries_used(name) & {"hydra", "omegaconf"}}
    assert users <= {"__main__", "config", "tasks", "runs", "help"}


def test_networks_import_no_framework_other_than_torch():
    frameworks = {"lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "pydantic"}
    assert [
        name for name in imports() if package_of(name) in PURE and libraries_used(name) & frameworks
    ] == []
    assert [
        name for name in imports() if package_of(name) in PURE and "datasets" in packages_used(name)
    ] == []


def test_a_model_imports_no_other_model():
    others = {
        name: found
        for name in imports()
        if package_of(name) == "models"
        and (found := {each for each in imports()[name] if each.startswith("sr_lab.models")})
    }
    assert others == {}


def test_readers_of_run_folders_need_neither_torch_nor_lightning():
    heavy = {"torch", "lightning", "wandb", "hydra", "omegaconf"}
    readers = [name for name in imports() if package_of(name) in ("reporting", "run_folder", "files")]
    assert [name for name in readers if libraries_used(name) & heavy] == []


def test_the_parser_finds_imports():
    """Otherwise the tests above would pass because the parser finds nothing."""
    assert {"ops", "errors"} <= packages_used("protocol")
    assert "hydra" in libraries_used("__main__")
    assert "torch" in libraries_used("models.imdn")
    assert len(imports()) > 100
    assert {package_of(name) for name in imports()} == set().union(*LEVELS, OUTSIDE)


def loaded(*arguments: str) -> set[str]:
    """Top-level libraries that a command imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("model=imfm", "optimizer=adam", "dataset=div2k", "--help"),
        ("experiment=osffnet/table2_osff", "--help"),
        ("--cfg", "job"),
        ("--info", "defaults"),
    ],
    ids=" ".join,
)
def test_commands_that_only_show_the_configuration_do_not_import_torch(arguments, tmp_path):
    packages = loaded("-m", "sr_lab", *arguments)
    assert "hydra" in packages
    assert not packages & {"torch", "lightning", "wandb", "torchmetrics", "kornia", "skimage"}


def test_completion_in_a_shell_imports_neither_torch_nor_hydra():
    packages = loaded("-m", "sr_lab", "--shell-completion", "query=bash")
    assert not packages & {"torch", "lightning", "hydra", "omegaconf", "numpy", "pydantic", "rich"}


def test_importing_sr_lab_does_not_import_torch():
    assert not loaded("-c", "import sr_lab") & {"torch", "lightning", "hydra", "numpy"}
