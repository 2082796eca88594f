"""What a run is called: by what changes its numbers, so that repeating a run resumes it."""

import contextlib
import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from sr_lab import files
from sr_lab.config import schema as configuration
from sr_lab.config import targets
from sr_lab.config.schema import (
    BenchmarkConfig,
    Config,
    DoctorConfig,
    EvaluateConfig,
    Node,
    PrepareConfig,
    ReadingConfig,
    ShardConfig,
    TrainConfig,
    UpscaleConfig,
)
from sr_lab.errors import ConfigError, DataError
from sr_lab.run_folder import RunFolder, whole_rows

# What changes the numbers, and nothing else: paths, loggers, devices, workers and benchmarks do not.
_TRAINING = (
    *("model", "upsampler", "strategy", "schedule", "dataset", "degradation", "loss", "optimizer", "scale"),
    *("seed", "steps", "steps_per_epoch", "batch_size", "learning_rate", "ema_decay"),
    "validation",  # chooses the best checkpoint
)
_NEUTRAL_TRAINER = {"accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "benchmark"} | {
    "accumulate_grad_batches", "detect_anomaly", "profiler", "log_every_n_steps", "enable_progress_bar"
}  # fmt: skip
_FORM = {"compile", "channels_last", "autotune", "timeout"}  # of the trainer: how, not what
_MEASURING = ("model", "upsampler", "strategy", "scale", "benchmark")


def identity(config: Config) -> Node:
    """Everything that changes the numbers of a run, as plain values.

    Raises:
        ConfigError: ``init_ckpt`` or ``ckpt`` names no file.
        DataError: The training images are not there.
    """
    if isinstance(config, BenchmarkConfig):
        return {"task": config.task, "only": sorted(config.only)}
    if not isinstance(config, TrainConfig):
        values = {"task": config.task} | config.model_dump(include=set(_MEASURING))
        if isinstance(config, EvaluateConfig):
            values["ckpt"] = _content("ckpt", config.ckpt)
            if config.tile != "none":  # the default leaves the hash as it was
                values["tile"] = config.tile
            if config.backend != "eager":
                values["backend"] = config.backend
        return values
    # Torch and the dataset's class are needed from here on, and only for a training.
    from sr_lab.system.devices import has_gpu, resolve_precision

    dataset = targets.build(config.dataset)
    values = config.model_dump(include=set(_TRAINING))
    values["dataset"] = {
        key: value for key, value in config.dataset.items() if not key.endswith(("_dir", "_gb"))
    }
    values["budget"] = config.budget.model_dump(exclude={"name"})  # `auto` and what it stands for are one run
    values["manifest"] = dataset.manifest()
    values["trainer"] = {k: v for k, v in config.trainer.arguments().items() if k not in _NEUTRAL_TRAINER}
    # On a GPU what was asked: a run may go on on one that computes another precision natively.
    asked, accelerator = config.trainer.precision, config.trainer.accelerator
    values["precision"] = asked if has_gpu(accelerator) else resolve_precision(asked, accelerator)
    if config.trainer.float32_matmul_precision != "high":  # the default leaves the hash as it was
        values["float32_matmul_precision"] = config.trainer.float32_matmul_precision
    values["init_ckpt"] = _content("init_ckpt", config.init_ckpt)
    if changing := [node for node in config.callbacks.values() if _changes_training(node)]:
        values["callbacks"] = sorted(changing, key=lambda node: json.dumps(node, sort_keys=True))
    return values


# Lightning's callbacks that end a training or change what it learns; who watches leaves the hash as it is.
_CHANGING = {
    *("EarlyStopping", "Timer", "SpikeDetection", "WeightAveraging", "StochasticWeightAveraging"),
    *("GradientAccumulationScheduler", "BaseFinetuning", "ModelPruning", "BatchSizeFinder"),
    "LearningRateFinder",
}


def _changes_training(node: object) -> bool:
    """Whether a callback is one of these or made from one; of a user's own nobody knows."""
    path = node.get("_target_") if isinstance(node, Mapping) else None
    bases = hydra.utils.get_class(path).__mro__ if isinstance(path, str) else ()
    return any(base.__name__ in _CHANGING and base.__module__.startswith("lightning.") for base in bases)


def hash8(values: Node) -> str:
    """Eight hex digits of a plain dictionary, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def note_images(config: Config, folder: RunFolder, images: Sequence[str], *, resumed: bool) -> str | None:
    """Write down which images a run is trained on, and compare them with those of before.

    The hash of a run covers names and sizes of its files, so that a folder of images that has changed makes
    another run; images replaced by others of the same size show in their pixels alone.

    Args:
        config: Configuration of the training.
        folder: Its run folder.
        images: A line for each, its name and the SHA-256 of its pixels.
        resumed: Whether the run goes on.

    Returns:
        What to tell the user of a new run, where one beside it has learnt the same from other images.

    Raises:
        DataError: The run goes on, and not all images are those that it began with.
    """
    values = identity(config)
    training = hash8({key: value for key, value in values.items() if key != "manifest"})
    lines = [str(files.plain(image)) for image in images]
    note = _Note(run=hash8(values), training=training, images=lines)
    before = _noted(folder) if resumed else None
    if before is not None:
        if before.images != lines:
            raise DataError(
                f"dataset: {_difference(before, note)} since '{folder.path}' was begun; put the images back, "
                f"begin anew with resume=never, or remove {folder.trained_on} to go on with these"
            )
        return None
    files.write(folder.trained_on, note.model_dump_json(indent=1) + "\n")
    name = folder.path.name.rpartition("-")[0]
    for path in folder.path.parent.glob(f"{glob.escape(name)}-*"):
        before = None if resumed else _noted(RunFolder(path))
        if before is not None and before.training == training and before.run != note.run:
            return f"dataset: {_difference(before, note)} since '{path}' was trained; this is a new run"
    return None


class _Note(BaseModel):
    """Hash of a run, the same without its images, and a line for each of these."""

    run: str
    training: str
    images: list[str]


def _noted(folder: RunFolder) -> _Note | None:
    """What `note_images` has written, ``None`` if that cannot be read."""
    try:
        return _Note.model_validate(files.read_json(folder.trained_on))
    except (OSError, ValueError):
        return None


def _difference(before: _Note, now: _Note) -> str:
    """How many images are others, and the names of the first."""
    names = sorted({line.rpartition(" ")[0] for line in set(before.images) ^ set(now.images)})
    if not names:
        return "validation images have changed"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} training image(s) have changed ({', '.join(names[:3])}{more})"


_NEAREST = 20  # runs that are looked at, the newest
_FEW = 3  # settings: a run that differs in more is another experiment


def unfinished_beside(config: TrainConfig, folder: RunFolder) -> str | None:
    """What to tell the user of a new run, where one beside it that nearly is the same came to no end.

    Args:
        config: Configuration of the training.
        folder: Its run folder.
    """
    saved = [
        path
        for path in folder.path.parent.glob("*/checkpoints/last.ckpt")
        if path.parents[1] != folder.path and path.is_file()
    ]
    found: list[tuple[dict[str, tuple[object, object]], RunFolder]] = []
    own = _settings(config.model_dump())
    for path in sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)[:_NEAREST]:
        other = RunFolder(path.parents[1])
        with contextlib.suppress(OSError, ValueError):
            theirs = files.read_yaml(other.config)
            if isinstance(theirs, dict) and other.state() in ("interrupted", "failed"):
                found.append((_changed(_settings(theirs), own), other))
    found = [(differing, other) for differing, other in found if 0 < len(differing) <= _FEW]
    if not found:
        return None
    differing, other = min(found, key=lambda pair: len(pair[0]))
    step = max((int(row["step"]) for row in whole_rows(other.record)), default=0)
    what = ", ".join(f"{key} ({before} there, {now} here)" for key, (before, now) in differing.items())
    return (
        f"resume: '{other.path}' beside this run came to no end, at step {step}; it differs in {what}, "
        "so this is a new run"
    )


def _settings(values: Mapping[str, object]) -> dict[str, object]:
    """Settings of a configuration that decide which run it is, by their dotted names."""
    found: dict[str, object] = {}

    def add(key: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                add(f"{key}.{name}", inner)
        elif value is not None:  # what is not set need not be there
            found[key] = value

    for key in (*_TRAINING, "budget", "trainer", "callbacks", "init_ckpt"):
        add(key, values.get(key))
    neutral = {f"trainer.{key}" for key in _NEUTRAL_TRAINER | _FORM} | {"budget.name"}
    return {key: found[key] for key in found if key not in neutral and not key.endswith(("_dir", "_gb"))}


def _changed(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Before and now of what differs; what follows another setting (``optimizer.lr``) is told by that one."""
    pairs = {key: (before.get(key), now.get(key)) for key in (*before, *now)}
    pairs = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    told = [pair for key, pair in pairs.items() if "." not in key]
    return {key: pair for key, pair in pairs.items() if "." not in key or pair not in told}


def _content(key: str, path: str | None) -> str | None:
    """SHA-256 of a checkpoint: its name says nothing about its weights."""
    if path is None:
        return None
    from sr_lab.checkpoints.reading import resolve  # imports torch

    file = resolve(path, key)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def folder_name(config: Config, parent: Path) -> str:
    """``<run_name>-<hash8>``; the same run, or search, under another name keeps the folder that it has."""
    name, values = config.run_name, identity(config)
    if config.hparams_search is not None:  # known by what it varies: more trials, or a pruner, are no other
        name, values = f"{name}_search", {"training": values, "space": config.hparams_search.space}
    digest = hash8(values)
    existing = sorted(parent.glob(f"*-{digest}"))
    return existing[0].name if existing else f"{name}-{digest}"


def _load(root: DictConfig) -> Config:
    """The configuration inside Hydra's own, which is the root that a resolver sees."""
    return configuration.load(root, list(root.hydra.overrides.task), root.hydra.runtime.choices)


def run_dir(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.run.dir``: one folder for Hydra, every rank and a resumed run."""
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
    """Resolver of ``hydra.sweep.dir``: the jobs of an experiment lie side by side."""
    name = str(_root_.experiment_name)
    # The default name is the default task's; other tasks write beside it, not into it.
    task = str(_root_.task)
    if name == "train" and task != "train":
        name = task
    return str(Path(_root_.paths.output_dir).expanduser() / name)


def run_folder(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.sweep.subdir``."""
    return folder_name(_load(_root_), Path(sweep_dir(_root_=_root_)))


def rows(*, _root_: DictConfig) -> str:
    """Resolver for the axis of a sweep over all rows: their positions, ``0,1,2``.

    Raises:
        ConfigError: There are no rows.
    """
    if not _root_.rows:
        raise ConfigError("rows: there are none to sweep over; give {label: [overrides]}")
    return ",".join(str(position) for position in range(len(_root_.rows)))


def lr_side(hr_side: int, scale: int) -> int:
    """Resolver for recipes that state the HR patch: its side in LR pixels."""
    if hr_side % scale:
        raise ConfigError(
            f"dataset.lr_patch_size: the recipe's HR patch of {hr_side} does not divide by scale={scale}; "
            "set dataset.lr_patch_size"
        )
    return hr_side // scale


def register_resolvers() -> None:
    """Make the names known to ``conf/``."""
    for resolver in (run_dir, sweep_dir, run_folder, rows, lr_side):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
