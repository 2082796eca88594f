"""The identity of a run: a hash of everything that changes its results, by which a command finds the run."""

import atexit
import contextlib
import functools
import hashlib
import json
import re
import shutil
import tempfile
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_lab import files
from sr_lab.config import code, compose, targets, untrusted
from sr_lab.config.allowed import SLOTS
from sr_lab.config.identity_record import (
    CHANGING,
    MEASURING,
    NETWORK,
    NEUTRAL_TRAINER,
    TRAINING,
    RunIdentity,
    comparable_settings,
    hash8,
    with_other_code,
    without_code,
)
from sr_lab.config.overrides import given_to
from sr_lab.config.schema import (
    EXPERIMENT_NAME,
    BenchmarkConfig,
    ComplexityConfig,
    Config,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    MeasureConfig,
    NewConfig,
    Node,
    PicturedConfig,
    PlanConfig,
    PrepareConfig,
    ReadingConfig,
    ShardConfig,
    TrainConfig,
    UpscaleConfig,
    ZooConfig,
)
from sr_lab.config.task_settings import unused
from sr_lab.errors import ConfigError, DataError
from sr_lab.run_folder import checkpoint_file
from sr_lab.zoo import published

# Callbacks from these packages change no result, except those in ``CHANGING``.
WATCHING = ("lightning.", "sr_lab.")


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
    if isinstance(config, UpscaleConfig):
        values = config.model_dump(include={"task", *NETWORK, "input", "tile", "backend"})
        return values | {"ckpt": _content("ckpt", config.ckpt)}
    if isinstance(config, PicturedConfig):
        own = type(config).model_fields.keys() - Config.model_fields.keys() - {"output", "overwrite"}
        return config.model_dump(include={"task", "scale", *own}) | {"protocol": config.benchmark.protocol}
    if not has_run_folder(config):  # its identity only tells the jobs of a multirun apart
        return config.model_dump(exclude=unused(config.task))
    if isinstance(config, BenchmarkConfig):
        return {"task": config.task, "only": sorted(config.only)}
    if isinstance(config, MeasureConfig):
        folders = {"sr": _images("sr_dir", config.sr_dir), "hr": _images("hr_dir", config.hr_dir)}
        # The paths of the folders count too: two programs that give the same images still get a row each.
        typed = {"task", "scale", "crop", "colour", "sr_dir", "hr_dir"}
        return config.model_dump(include=typed) | folders
    values = {"task": config.task} | config.model_dump(include=set(MEASURING))
    values["benchmark"] = config.benchmark.model_dump(exclude={"lr", "lr_dir"})
    if config.benchmark.lr == "given":  # left out by default, to keep older hashes valid
        values["given_lr"] = [_images("benchmark.lr_dir", folder) for folder in _given_lr(config)]
    if isinstance(config, EvaluateConfig):
        values["ckpt"] = _content("ckpt", config.ckpt)
        values["images"] = config.images
        if config.tile != "none":  # the default is left out, to keep older hashes valid
            values["tile"] = config.tile
        if config.backend != "eager":
            values["backend"] = config.backend
        if config.perceptual:
            values["perceptual"] = sorted(config.perceptual)
    if isinstance(config, ComplexityConfig):
        values |= _machine(config)
    return values | {"code": code_of(config).digests}


def _machine(config: ComplexityConfig) -> Node:
    """The devices that time and memory are measured on: always a CPU, and a GPU if the run uses one."""
    # Only this task's results depend on the machine. Time and memory are always measured in eager mode and in
    # float32.
    import torch

    from sr_lab.system.devices import device_name, has_gpu, processor

    trainer = config.trainer
    gpu = device_name(trainer.accelerator, trainer.devices) if has_gpu(trainer.accelerator) else None
    return {"gpu": gpu, "cpu": f"{processor()}, {torch.get_num_threads()} threads"}


def code_of(config: Config) -> code.Code:
    """The code of the classes that a run names; for a training run, also of the user's own callbacks."""
    network = [config.model, config.upsampler.factory, config.strategy.apply]
    recipe = [config.schedule.scheduler, config.dataset, config.degradation, config.loss, config.optimizer]
    training = [*recipe, *filter(_is_own, config.callbacks.values())]
    return code.needed([*network, *(training if isinstance(config, TrainConfig) else ())], config.allow)


def _of_training(config: TrainConfig) -> Node:
    # Only a training run needs torch and the dataset's class.
    from sr_lab.system.devices import has_gpu, resolve_precision

    values = config.model_dump(include=set(TRAINING)) | {"steps_per_epoch": config.steps_of_an_epoch}
    values["schedule"] = config.schedule.model_dump(exclude_none=True)  # older configurations have no monitor
    values["budget"] = config.budget.model_dump(exclude={"name"})  # `auto` equals the budget it chooses
    values |= _data(config)
    values["trainer"] = {k: v for k, v in config.trainer.arguments().items() if k not in NEUTRAL_TRAINER}
    # On a GPU, use the requested precision: a run may resume on a GPU with a different native precision.
    asked, accelerator = config.trainer.precision, config.trainer.accelerator
    values["precision"] = asked if has_gpu(accelerator) else resolve_precision(asked, accelerator)
    if config.trainer.float32_matmul_precision != "high":  # left out by default, to keep older hashes valid
        values["float32_matmul_precision"] = config.trainer.float32_matmul_precision
    # Which checkpoint is the best depends on the protocol and on the validation images.
    if config.benchmark.protocol != "rgb_uint8":
        given = " on given LR" if config.benchmark.lr == "given" else ""
        values["protocol"] = config.benchmark.protocol + given
    if config.validation_images is not None:
        values["validation_images"] = config.validation_images
    values["init_ckpt"] = _content("init_ckpt", config.init_ckpt)
    if config.freeze:
        values["freeze"] = sorted(config.freeze)
    if config.overfit_batches is not None:
        values["overfit_batches"] = config.overfit_batches
    nodes = config.callbacks.values()
    values |= _callbacks(node for node in nodes if _is_own(node) or _changes_training(node))
    return values | {"code": code_of(config).digests}


def _data(config: TrainConfig) -> Node:
    """The training data: its settings, with its folders only if nothing else identifies the images."""
    dataset, settings = training_set(config), config.dataset
    if not hasattr(dataset, "manifest"):  # a plain torch Dataset
        return {
            "dataset": settings,
            "manifest": f"{len(dataset)} pairs" if hasattr(dataset, "__len__") else "",
        }
    kept = {key: value for key, value in settings.items() if not key.endswith(("_dir", "_gb"))}
    return {"dataset": kept, "manifest": dataset.manifest()}


def _callbacks(nodes: Iterable[object]) -> Node:
    """Callbacks that belong to the identity, without their names."""
    distinct = {json.dumps(node, sort_keys=True): node for node in nodes}
    return {"callbacks": [distinct[text] for text in sorted(distinct)]} if distinct else {}


def _bases(node: object) -> list[type]:
    path = node.get("_target_") if isinstance(node, Mapping) else None
    return list(targets.locate(path).__mro__) if isinstance(path, str) else []


def _is_own(node: object) -> bool:
    """Whether a callback is the user's own, and so may change the training in any way."""
    return any(not f"{base.__module__}.".startswith(WATCHING) for base in _bases(node)[:1])


def _changes_training(node: object) -> bool:
    """Whether the class of a callback, or one of its base classes, is in ``CHANGING``."""
    return any(
        base.__name__ in CHANGING and base.__module__.startswith("lightning.") for base in _bases(node)
    )


def run_identity(config: Config) -> RunIdentity:
    """What identifies a run or a search; see `identity` for errors."""
    values = identity(config)
    earlier = without_code(values)
    if isinstance(config, TrainConfig):
        for key in ("callbacks", "protocol", "validation_images"):
            earlier.pop(key, None)
        earlier |= _callbacks(node for node in config.callbacks.values() if _changes_training(node))
    if config.hparams_search is not None:  # a search stays the same with more trials or another pruner
        space = config.hparams_search.space
        needed = code_of(config).digests | _of_choices(config)
        values = {"training": without_code(values), "space": space, "code": needed}
        earlier = {"training": earlier, "space": space}
    any_code = isinstance(config, TrainConfig) and config.code == "any"
    return RunIdentity(values, earlier, comparable_settings(config.model_dump()), any_code)


@functools.lru_cache(maxsize=1)
def _of_choices(config: Config) -> dict[str, str]:
    """The code of the classes among which a search chooses; `runs.search` reports invalid choices."""
    found: dict[str, str] = {}
    rooms = [*filter(None, (slot.room for slot in SLOTS.values())), *targets.trusted_packages(config.allow)]
    space = {} if config.hparams_search is None else config.hparams_search.space
    for key, choices in space.items():
        for choice in choices if isinstance(choices, list) else ():
            described = {"_target_": choice} if key.endswith("._target_") else choice
            with contextlib.suppress(HydraException, OmegaConfBaseException, ConfigError):
                if isinstance(choice, str) and "." not in key:
                    described = compose.option(key, choice)
            for name in code.named(described):
                # Importing a module runs it, so only modules of packages that may be named are imported.
                if any(name.startswith(f"{room}.") for room in rooms):
                    with contextlib.suppress(ImportError, AttributeError, ConfigError):
                        found |= code.digests({"_target_": name}, config.allow)
    return found


def _content(key: str, path: str | None) -> str | None:
    """SHA-256 of a checkpoint, since its name does not identify its weights."""
    if path is None:
        return None
    if (weights := published.named(path, key)) is not None:
        return weights.sha256  # known before they are downloaded
    with checkpoint_file(path, key).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given_lr(config: Config) -> list[str]:
    """The folders of the given LR images; a set's own folder has a sub-folder for each scale."""
    folders = config.benchmark.lr_dir
    if folders is None and isinstance(config, EvaluateConfig) and config.lr_folders:
        return config.lr_folders
    if folders is None:
        return [f"{config.paths.data_dir}/benchmarks/{name}/LR" for name in config.benchmark.sets]
    return [folders] if isinstance(folders, str) else folders


def _images(setting: str, path: str) -> str:
    """SHA-256 of the names and contents of the files in a folder and its sub-folders; its path is ignored."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{setting}: there is no folder {folder}; put the images there or set {setting} to their folder"
        )
    digest = hashlib.sha256()
    for file in sorted(file for file in files.below(folder) if file.is_file()):
        with file.open("rb") as content:
            digest.update(
                f"{file.relative_to(folder)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()


def folder_name(config: Config, parent: Path) -> str:
    """``<run_name>-<hash8>``; a run or search whose folder has another name keeps that folder."""
    run = run_identity(config)
    digest = hash8(run.values)
    if existing := sorted(parent.glob(f"*-{digest}")):
        return existing[0].name
    if run.any_code and (others := with_other_code(run, parent)):
        return others[0][0].path.name
    return f"{config.run_name}{'_search' if config.hparams_search is not None else ''}-{digest}"


Complete = Callable[[Config, tuple[str, ...]], Config]
_complete: list[Complete] = []  # given to `register_resolvers`


def _load(root: DictConfig) -> Config:
    """Load the configuration from the root node that a resolver gets, which includes Hydra's own node."""
    overrides = given_to(root.hydra)
    config = compose.load(root, overrides, root.hydra.runtime.choices)
    return _complete[0](config, tuple(overrides)) if _complete else config


def _named_folder(config: Config) -> str | None:
    """The folder that a task's settings name; ``None`` for a task that writes a run folder."""
    if isinstance(config, ReadingConfig):
        return config.runs
    if isinstance(config, UpscaleConfig):
        return _nowhere() if config.dry_run else config.folder
    if isinstance(config, PicturedConfig):
        return config.folder
    if isinstance(config, (ExportConfig, ShardConfig)):
        return config.output
    here = (PlanConfig, PrepareConfig, DoctorConfig, NewConfig, ZooConfig)
    return "." if isinstance(config, here) else None


def has_run_folder(config: Config) -> bool:
    """Whether a task writes a run folder, which belongs to one run."""
    return _named_folder(config) is None


def writes_own_folder(config: Config) -> bool:
    """Whether different jobs of a multirun need different folders to write into."""
    return has_run_folder(config) or isinstance(config, (UpscaleConfig, PicturedConfig, ShardConfig))


def run_dir(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.run.dir``: the same folder for Hydra, every process and a resumed run."""
    config = _load(_root_)
    if (named := _named_folder(config)) is not None:
        return named
    parent = Path(sweep_dir(_root_=_root_))
    return str(parent / folder_name(config, parent))


def sweep_dir(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.sweep.dir``: the jobs of an experiment share one folder.

    Raises:
        ConfigError: A file sets where to write, which only the command line may do. This is checked here,
            since Hydra writes into the folder before the configuration is loaded.
    """
    if _root_.task == "plan":  # Hydra writes into this folder, and a plan must leave no files behind
        return _nowhere()
    paths = typing.cast(Node, OmegaConf.to_container(_root_.paths, resolve=True))
    untrusted.settled({"paths": paths}, compose.own_paths(), given_to(_root_.hydra))
    # The default name belongs to the default task; other tasks get their own folder.
    key = "task" if _root_.experiment_name == "train" else "experiment_name"
    name = str(_root_[key])
    if not re.fullmatch(EXPERIMENT_NAME, name):
        raise ConfigError(f"{key}: names a folder, so it must match {EXPERIMENT_NAME}, got {name!r}")
    return str(Path(str(paths["output_dir"])).expanduser() / name)


@functools.cache
def _nowhere() -> str:
    """A folder that is removed when the process exits."""
    folder = tempfile.mkdtemp(prefix="sr_lab-plan-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def planned_folder(config: PlanConfig) -> Path:
    """The run folder of a planned training run.

    Raises:
        DataError: The training images are missing.
    """
    parent = Path(config.paths.output_dir).expanduser() / config.experiment_name
    return parent / folder_name(config, parent)


def run_folder(*, _root_: DictConfig) -> str:
    """Resolver of ``hydra.sweep.subdir``; each job that writes its own images has a folder in ``output``."""
    if _root_.task == "plan":  # the images that identify a run may be missing
        return "."
    config = _load(_root_)
    if (named := _named_folder(config)) is None:
        return folder_name(config, Path(sweep_dir(_root_=_root_)))
    folder = Path(named).absolute()  # an absolute path replaces hydra.sweep.dir
    has_own = isinstance(config, (UpscaleConfig, PicturedConfig))
    return str(folder / folder_name(config, folder) if has_own else folder)


def rows(*, _root_: DictConfig) -> str:
    """Resolver for a sweep over all rows: their positions, ``0,1,2``.

    Raises:
        ConfigError: There are no rows.
    """
    if not _root_.rows:
        raise ConfigError("rows: there are no rows to sweep over; give {label: [overrides]}")
    return ",".join(str(position) for position in range(len(_root_.rows)))


def lr_side(hr_side: int, scale: int) -> int:
    """Resolver that gives the side of an LR patch, for recipes that state the side of the HR patch."""
    if hr_side % scale:
        raise ConfigError(
            f"dataset.lr_patch_size: the recipe's HR patch of {hr_side} is not divisible by scale={scale}; "
            "set dataset.lr_patch_size"
        )
    return hr_side // scale


def share(steps: int, part: float) -> int:
    """Resolver that turns a share of the run into steps, at least 1; a budget thus shortens this part too."""
    return max(1, round(steps * part))


def rest(steps: int, begin: int) -> int:
    """Resolver that gives the number of steps after the first ``begin`` steps.

    Raises:
        ConfigError: The training run has no steps after the first ``begin``.
    """
    if begin >= steps:
        raise ConfigError(
            f"schedule: the warm-up takes {begin} steps, but the training run has only {steps}; "
            "set fewer with schedule.scheduler.milestones=[...], or leave that setting out"
        )
    return steps - begin


def register_resolvers(complete: Complete | None = None) -> None:
    """Register these resolvers, which ``conf/`` uses.

    Args:
        complete: Adds to a configuration those parts of its identity that only higher packages can determine:
            an evaluation's network and images, and the images that a training run validates on.
    """
    _complete[:] = [] if complete is None else [complete]
    for resolver in (run_dir, sweep_dir, run_folder, rows, lr_side, share, rest):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
