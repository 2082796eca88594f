"""A setting that the chosen task does not use is refused, not silently ignored."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from sr_lab.config.schema import SCHEMAS, Config, EvaluateConfig
from sr_lab.config.task_settings import USED_BY, refuse_unused, unused
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir
from tests.composing import compose

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "task")
NETWORK = {"experiment", "model", "upsampler", "strategy", "trainer"}
# The groups whose settings each task uses.
USED = {
    "train": set(GROUPS),
    "plan": set(GROUPS),
    "evaluate": NETWORK | {"benchmark"},
    "upscale": NETWORK,
    "compare": {"experiment", "trainer", "benchmark"},
    "analyze": {"experiment", "trainer", "benchmark"},
    "export": {"model", "upsampler", "strategy"},
    "demo": {"trainer"},
    "complexity": NETWORK,
    "prepare": {"experiment", "dataset", "degradation", "benchmark"},
    "shard": {"experiment", "dataset"},
}


def refused(task: str, override: str) -> str:
    """The message that refuses an override; empty if the task accepts it."""
    try:
        refuse_unused(task, [override])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("task", SCHEMAS)
def test_a_task_refuses_the_groups_that_it_does_not_use_and_names_a_task_that_does(task: str):
    for group in GROUPS:
        said = refused(task, f"{group}=any")
        if group in USED.get(task, ()):
            assert said == ""
        else:
            assert said.startswith(f"{group}: is used only by task=train")
            assert f"this is task={task}; " in said


@pytest.mark.parametrize("task", sorted(SCHEMAS.keys() - {"train", "plan"}))
@pytest.mark.parametrize(
    "override",
    [
        *(
            "batch_size=8",
            "+optimizer.lr=1e-3",
            "~callbacks.early_stopping",
            "validation={count: 1}",
            "seed=1",
        ),
        *("trainer.precision=bf16-mixed", "trainer.compile=true", "sweep.jobs=2", "num_workers=0"),
    ],
)
def test_only_training_accepts_a_setting_of_the_recipe(task: str, override: str):
    assert "is used only by task=train, and" in refused(task, override)
    assert refused("train", override) == ""


@pytest.mark.parametrize(
    ("task", "override"),
    [
        *(("complexity", word) for word in ("scale=2", "trainer.accelerator=cpu", "psnr_set=Set5", "row=1")),
        *(("evaluate", word) for word in ("benchmark.lr=given", "trainer.devices=2", "run_name=mine")),
        *(("analyze", word) for word in ("steps=400", "steps_per_epoch=10", "learning_rate=1e-3")),
        *(("measure", "scale=2"), ("upscale", "trainer=cpu"), ("shard", "dataset.hr_dir=photos")),
        *(
            (task, word)
            for task in SCHEMAS
            for word in ("paths.data_dir=x", "allow=[own]", "hydra.verbose=1")
        ),
    ],
)
def test_a_task_accepts_the_settings_that_it_uses(task: str, override: str):
    assert refused(task, override) == ""


@pytest.mark.parametrize(
    "overrides",
    [
        ("task=complexity", "model=imdn", "steps=400"),
        ("task=evaluate", "model=bicubic", "optimizer.lr=1e-3"),
        ("task=report", "runs=outputs", "scale=2"),
    ],
)
def test_an_unused_setting_is_refused_when_a_command_is_read(overrides: tuple[str, ...]):
    with pytest.raises(ConfigError, match=r"is used only by .*; leave .* out"):
        compose(*overrides)


def test_settings_of_an_experiment_or_its_row_may_be_for_training_only():
    config = compose("experiment=two_strategies/table1_attention", "task=complexity", "row=1")
    assert config.row_label is not None


def test_every_setting_is_listed_with_the_tasks_that_use_it():
    assert Config.model_fields.keys() - USED_BY.keys() == {"task", "paths", "allow"}


@pytest.mark.parametrize("task", SCHEMAS)
def test_a_task_reads_no_setting_that_it_refuses(task: str):
    spec = find_spec(f"sr_lab.tasks.{task}")
    assert spec is not None
    tree = ast.parse(Path(str(spec.origin)).read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config"
    }
    assert read & unused(task) == set()


def test_an_evaluation_has_a_default_for_each_setting_that_its_configuration_leaves_out():
    needed = {key for key, field in EvaluateConfig.model_fields.items() if field.is_required()}
    assert needed & unused("evaluate") == set()
