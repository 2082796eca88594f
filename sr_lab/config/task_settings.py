"""Which task uses which setting: a setting on the command line is used or refused."""

from collections.abc import Sequence

from sr_lab.config.overrides import key_of
from sr_lab.config.schema import SCHEMAS, Config
from sr_lab.errors import ConfigError

_RUN = ("train", "evaluate", "upscale", "complexity")  # tasks that run a network
_NETWORK = (*_RUN, "export")  # tasks that build a network
_IN_RUN_FOLDER = ("train", "evaluate", "complexity", "measure", "benchmark")  # tasks that write a run folder
_PICTURES = ("compare", "analyze")  # tasks that draw several networks
_RECIPE = (*_RUN, *_PICTURES, "prepare", "shard")  # tasks for which an experiment may have settings

# The tasks that use each setting; if two names match a key, the longer one decides. A task also uses the
# fields of its own schema, and every task uses the settings that are not listed (paths, allow, hydra).
USED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "upsampler", "strategy"), _NETWORK),
    "scale": (*_NETWORK, *_PICTURES, "measure", "prepare"),
    "dataset": ("train", "prepare", "shard"),
    "dataset.lr_patch_size": ("train", "prepare"),
    "degradation": ("train", "prepare"),
    "benchmark": ("train", "evaluate", "prepare"),
    "benchmark.protocol": ("train", "evaluate", "prepare", *_PICTURES),
    "examples": ("train", "evaluate"),
    **dict.fromkeys(("schedule", "loss", "optimizer", "budget", "recipe", "callbacks", "logger"), ("train",)),
    **dict.fromkeys(("hparams_search", "debug", "sweep", "seed"), ("train",)),
    **dict.fromkeys(("steps", "steps_per_epoch", "learning_rate"), ("train", "analyze")),
    **dict.fromkeys(("batch_size", "ema_decay", "nan_policy", "num_workers"), ("train",)),
    "validation": ("train",),
    "columns": ("train", "evaluate", "complexity", "measure", "report"),
    "trainer": ("train",),
    **dict.fromkeys(("trainer.accelerator", "trainer.devices"), (*_RUN, *_PICTURES, "demo")),
    **dict.fromkeys(
        (
            *("trainer.num_nodes", "trainer.strategy", "trainer.timeout", "trainer.benchmark"),
            *("trainer.deterministic", "trainer.inference_mode", "trainer.profiler"),
        ),
        ("train", "evaluate"),
    ),
    **dict.fromkeys(("experiment", "rows", "row", "row_label", "table"), _RECIPE),
    "experiment_name": (*_IN_RUN_FOLDER, *_PICTURES),
    "run_name": _IN_RUN_FOLDER,
}


def unused(task: str) -> set[str]:
    """The fields common to all tasks that a task does not use."""
    return {key for key in Config.model_fields if not _uses(task, key)}


def refuse_unused(task: str, overrides: Sequence[str]) -> None:
    """Refuse an override of a setting that the task does not use.

    Args:
        task: The chosen task.
        overrides: What the user typed; an experiment's file may also have settings for other tasks.

    Raises:
        ConfigError: The message names the tasks that use the setting.
    """
    for key in map(key_of, overrides):
        if not _uses(task, key):
            users = [f"task={name}" for name in SCHEMAS if name != "plan" and _uses(name, key)]
            raise ConfigError(
                f"{key}: is used only by {', '.join(users)}, and this is task={task}; leave {key} out"
            )


def _uses(task: str, key: str) -> bool:
    """Whether a task uses a setting, or a setting within it (``trainer=cpu`` sets the accelerator)."""
    if task == "plan":  # plans a training run, with all of its settings
        task = "train"
    within = any(name.startswith(f"{key}.") and task in users for name, users in USED_BY.items())
    around = [name for name in USED_BY if f"{key}.".startswith(f"{name}.")]
    return within or not around or task in USED_BY[max(around, key=len)]
