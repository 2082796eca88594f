"""The identity of a run: a hash of all that changes its results, so that the same command resumes it."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sr_lab.config import compose, targets
from sr_lab.config.overrides import given_to
from sr_lab.config.schema import (
    BenchmarkConfig,
    Config,
    DoctorConfig,
    EvaluateConfig,
    MeasureConfig,
    Node,
    PrepareConfig,
    ReadingConfig,
    ShardConfig,
    TrainConfig,
    UpscaleConfig,
)
from sr_lab.errors import ConfigError, DataError
from sr_lab.run_folder import checkpoint_file

# Only what changes the results: paths, loggers, devices, workers and benchmarks do not.
_TRAINING = (
    *("model", "upsampler", "strategy", "schedule", "dataset", "degradation", "loss", "optimizer", "scale"),
    *("seed", "steps", "steps_per_epoch", "batch_size", "learning_rate", "ema_decay"),
    "validation",  # chooses the best checkpoint
)
_NEUTRAL_TRAINER = {"accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "benchmark"} | {
    "accumulate_grad_batches", "detect_anomaly", "profiler", "log_every_n_steps", "enable_progress_bar"
}  # fmt: skip
_MEASURING = ("model", "upsampler", "strategy", "scale", "benchmark")


@functools.lru_cache(maxsize=1)
def identity(config: Config) -> Node:
    """Everything that changes the results of a run, as plain values; computed once per configuration.

    Raises:
        ConfigError: ``init_ckpt`` or ``ckpt`` does not name a file.
        DataError: The training images are missing.
    """
    return _of_training(config) if isinstance(config, TrainConfig) else _of_task(config)


@functools.lru_cache(maxsize=1)
def training_set(config: Config) -> Any:
    """The dataset of a configuration, built once.

    Raises:
        DataError: The training images are missing.
    """
    return targets.build("dataset", config.dataset, config.allow)


def _of_task(config: Config) -> Node:
    if isinstance(config, BenchmarkConfig):
        return {"task": config.task, "only": sorted(config.only)}
    if isinstance(config, MeasureConfig):
        folders = {"sr": _images("sr_dir", config.sr_dir), "hr": _images("hr_dir", config.hr_dir)}
        return config.model_dump(include={"task", "scale", "crop", "colour"}) | folders
    values = {"task": config.task} | config.model_dump(include=set(_MEASURING))
    values["benchmark"] = config.benchmark.model_dump(exclude={"lr", "lr_dir"})
    if config.benchmark.lr == "given":  # left out by default, to keep older hashes
        values["given_lr"] = [_images("benchmark.lr_dir", folder) for folder in _given_lr(config)]
    if isinstance(config, EvaluateConfig):
        values["ckpt"] = _content("ckpt", config.ckpt)
        if config.tile != "none":  # the default is left out, to keep older hashes
            values["tile"] = config.tile
        if config.backend != "eager":
            values["backend"] = config.backend
    return values


def _of_training(config: TrainConfig) -> Node:
    # Only a training needs torch and the dataset's class.
    from sr_lab.system.devices import has_gpu, resolve_precision

    values = config.model_dump(include=set(_TRAINING)) | {"steps_per_epoch": config.steps_of_an_epoch}
    values["dataset"] = {
        key: value for key, value in config.dataset.items() if not key.endswith(("_dir", "_gb"))
    }
    values["budget"] = config.budget.model_dump(exclude={"name"})  # `auto` equals the budget it chooses
    values["manifest"] = training_set(config).manifest()
    values["trainer"] = {k: v for k, v in config.trainer.arguments().items() if k not in _NEUTRAL_TRAINER}
    # On a GPU, the requested precision: a run may resume on a GPU with another native precision.
    asked, accelerator = config.trainer.precision, config.trainer.accelerator
    values["precision"] = asked if has_gpu(accelerator) else resolve_precision(asked, accelerator)
    if config.trainer.float32_matmul_precision != "high":  # left out like the default tile
        values["float32_matmul_precision"] = config.trainer.float32_matmul_precision
    values["init_ckpt"] = _content("init_ckpt", config.init_ckpt)
    if changing := [node for node in config.callbacks.values() if _changes_training(node)]:
        values["callbacks"] = sorted(changing, key=lambda node: json.dumps(node, sort_keys=True))
    return values


# Lightning's callbacks that stop a training or change what it learns, excluding those that only watch.
_CHANGING = {
    *("EarlyStopping", "Timer", "SpikeDetection", "WeightAveraging", "StochasticWeightAveraging"),
    *("GradientAccumulationScheduler", "BaseFinetuning", "ModelPruning", "BatchSizeFinder"),
    "LearningRateFinder",
}


def _changes_training(node: object) -> bool:
    """Whether the class of a callback, or one of its base classes, is in ``_CHANGING``."""
    path = node.get("_target_") if isinstance(node, Mapping) else None
    bases = targets.locate(path).__mro__ if isinstance(path, str) else ()
    return any(base.__name__ in _CHANGING and base.__module__.startswith("lightning.") for base in bases)


def hash8(values: Node) -> str:
    """The hash of a plain dictionary in eight hex digits; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def settings(values: Mapping[str, object]) -> dict[str, object]:
    """The settings that identify a training run, by their dotted names.

    Args:
        values: A configuration as plain values, e.g. the content of ``config.yaml``.
    """
    found: dict[str, object] = {}

    def add(key: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                add(f"{key}.{name}", inner)
        elif value is not None:  # an unset setting equals a missing one
            found[key] = value

    for key in (*_TRAINING, "budget", "trainer", "callbacks", "init_ckpt"):
        add(key, values.get(key))
    form = {"compile", "channels_last", "autotune", "timeout"}  # these change how it trains, not what
    neutral = {f"trainer.{key}" for key in _NEUTRAL_TRAINER | form} | {"budget.name"}
    return {key: found[key] for key in found if key not in neutral and not key.endswith(("_dir", "_gb"))}


def _content(key: str, path: str | None) -> str | None:
    """SHA-256 of a checkpoint: its name says nothing about its weights."""
    if path is None:
        return None
    with checkpoint_file(path, key).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given_lr(config: Config) -> list[str]:
    """The folders of the given LR images; a set's own has a sub-folder for each scale."""
    folders = config.benchmark.lr_dir
    if folders is None:
        return [f"{config.paths.data_dir}/benchmarks/{name}/LR" for name in config.benchmark.sets]
    return [folders] if isinstance(folders, str) else folders


def _images(setting: str, path: str) -> str:
    """SHA-256 of the names and contents of the files in a folder and its sub-folders, wherever it is."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{setting}: there is no folder {folder}; put the images there or set {setting} to their folder"
        )
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as content:
            digest.update(
                f"{file.relative_to(folder)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()


def folder_name(config: Config, parent: Path) -> str:
    """``<run_name>-<hash8>``; the same run or search keeps its folder under another name."""
    name, values = config.run_name, identity(config)
    if config.hparams_search is not None:  # a search stays the same with more trials or another pruner
        name, values = f"{name}_search", {"training": values, "space": config.hparams_search.space}
    digest = hash8(values)
    existing = sorted(parent.glob(f"*-{digest}"))
    return existing[0].name if existing else f"{name}-{digest}"


def _load(root: DictConfig) -> Config:
    """Load the configuration from the root that a resolver sees, which includes Hydra's own node."""
    return compose.load(root, given_to(root.hydra), root.hydra.runtime.choices)


def run_dir(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.run.dir``: the same folder for Hydra, every process and a resumed run."""
    config = _load(_root_)
    if isinstance(config, ReadingConfig):
        return config.runs
    if isinstance(config, (UpscaleConfig, ShardConfig)):
        return config.output
    if isinstance(config, (PrepareConfig, DoctorConfig)):
        return "."  # they write no run folder
    parent = Path(sweep_dir(_root_=_root_))
    return str(parent / folder_name(config, parent))


def sweep_dir(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.sweep.dir``: the jobs of an experiment share one folder."""
    name = str(_root_.experiment_name)
    # The default name is that of the default task; other tasks get a folder of their own.
    task = str(_root_.task)
    if name == "train" and task != "train":
        name = task
    return str(Path(_root_.paths.output_dir).expanduser() / name)


def run_folder(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.sweep.subdir``."""
    return folder_name(_load(_root_), Path(sweep_dir(_root_=_root_)))


def rows(*, _root_: DictConfig) -> str:
    """Resolver for a sweep over all rows: their positions, ``0,1,2``.

    Raises:
        ConfigError: There are no rows.
    """
    if not _root_.rows:
        raise ConfigError("rows: there are no rows to sweep over; give {label: [overrides]}")
    return ",".join(str(position) for position in range(len(_root_.rows)))


def lr_side(hr_side: int, scale: int) -> int:
    """Resolver for recipes that state the side of the HR patch: that side in LR pixels."""
    if hr_side % scale:
        raise ConfigError(
            f"dataset.lr_patch_size: the recipe's HR patch of {hr_side} is not divisible by scale={scale}; "
            "set dataset.lr_patch_size"
        )
    return hr_side // scale


def register_resolvers() -> None:
    """Register these resolvers, which ``conf/`` uses."""
    for resolver in (run_dir, sweep_dir, run_folder, rows, lr_side):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
