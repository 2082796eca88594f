"""From composed YAML to checked, typed values.

Hydra composes, this file validates, and only typed values go further: below ``tasks/`` nothing sees a
DictConfig.
"""

import json
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.hydra_guard import conf_dir, is_said, key_of
from sr_lab.config.messages import explain
from sr_lab.errors import ConfigError

Node: TypeAlias = dict[str, object]

# Values of a run that the code passes to a target itself.
_SUPPLIED = {
    "model": (),
    "optimizer": ("params",),
    "schedule.scheduler": ("optimizer",),
    "upsampler.factory": ("num_feat", "num_out_ch", "scale"),
    "strategy.apply": ("model",),
    "logger.*": ("save_dir", "name", "id", "group", "job_type", "resume", "config"),
    "trainer": ("max_steps", "max_epochs", "callbacks", "logger", "plugins", "default_root_dir", "precision",
                "val_check_interval", "check_val_every_n_epoch", "use_distributed_sampler",
                "num_sanity_val_steps", "enable_model_summary",
                # a training is shortened by its budget, which the table tells
                "fast_dev_run", "limit_train_batches", "limit_val_batches", "limit_test_batches",
                "overfit_batches", "max_time", "min_steps", "min_epochs", "barebones"),
}  # fmt: skip


class _Strict(BaseModel):
    """Unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(_Strict):
    """Where things lie; never part of a run's identity."""

    data_dir: str
    output_dir: str
    cache_dir: str


class Validation(_Strict):
    """How often, and on what, a training is validated."""

    interval: int = Field(gt=0)
    count: int = Field(gt=0)
    sets: list[str]


class Budget(_Strict):
    """Upper limits that a budget puts on the recipe; ``null`` leaves the recipe alone."""

    name: str
    max_steps: int | None = Field(gt=0)
    max_batch_size: int | None = Field(gt=0)
    max_lr_patch_size: int | None = Field(gt=0)
    max_validation_interval: int | None = Field(gt=0)
    max_validation_count: int | None = Field(gt=0)


class Upsampler(_Strict):
    """``factory`` is null for the network's own tail."""

    name: str
    factory: Node | None


class Strategy(_Strict):
    """``apply`` is null for the network as it is."""

    name: str
    apply: Node | None


class Schedule(_Strict):
    """Learning-rate schedule; ``interval`` says what its numbers count."""

    interval: Literal["step", "epoch"]
    scheduler: Node


class Benchmark(_Strict):
    """Test sets and the protocol that measures them."""

    sets: list[str] = Field(min_length=1)
    protocol: str


class Table(_Strict):
    """The table of a paper, as ``experiments/<paper>/expected.csv`` calls it."""

    paper: str
    name: str


class Sweep(_Strict):
    """How the jobs of a multirun are run; never part of a run's identity."""

    jobs: int = Field(gt=0)
    retry_failed: bool


class HparamsSearch(_Strict):
    """A search for the recipe with the best ``val/psnr_y``; ``search.py`` reads its space."""

    space: Node = Field(min_length=1)
    trials: int = Field(gt=0)
    # Names, not targets: Optuna's CMA-ES keeps pickles in its storage, which somebody may have downloaded.
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "halving", "none"]
    startup_trials: int = Field(ge=0)
    warmup_steps: int = Field(ge=0)


# Of trainer: not Lightning's, or not as they are.
_OURS = {"timeout", "precision", "float32_matmul_precision", "channels_last", "compile", "autotune"}


class Trainer(BaseModel):
    """Our own options; every other key is an argument of ``lightning.Trainer``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    accelerator: str
    timeout: float = Field(default=1800.0, gt=0)  # seconds; config.yaml of old runs have none
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
    accumulate_grad_batches: int = Field(gt=0)
    gradient_clip_val: float | None = Field(gt=0)
    float32_matmul_precision: Literal["highest", "high"]
    channels_last: bool
    compile: bool
    autotune: bool

    def arguments(self) -> Node:
        """What goes to ``lightning.Trainer``; precision is resolved first."""
        return self.model_dump(exclude=_OURS)


class Config(_Strict):
    """What every task is given; the fields are the groups and keys of ``conf/config.yaml``."""

    task: str
    model: Node
    upsampler: Upsampler
    strategy: Strategy
    schedule: Schedule
    dataset: Node
    benchmark: Benchmark
    degradation: Node
    loss: Node
    optimizer: Node
    budget: Budget
    trainer: Trainer
    callbacks: Node = {}
    logger: Node = {}

    scale: int = Field(ge=2, le=64)
    seed: int = Field(ge=0)
    experiment_name: str = Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    run_name: str = Field(pattern=r"^\w[\w.-]*$", max_length=100)
    rows: dict[str, list[str]] = {}
    row: int | None = None
    row_label: str | None = None  # of a job: the row that it is, whose overrides it has already
    table: Table | None = None
    sweep: Sweep = Sweep(jobs=1, retry_failed=False)
    hparams_search: HparamsSearch | None = None
    steps: int = Field(gt=0)
    steps_per_epoch: float = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    ema_decay: float | None = Field(gt=0, lt=1)
    nan_policy: Literal["stop", "skip"] = "stop"  # config.yaml of old runs have none
    num_workers: int = Field(ge=0)
    validation: Validation
    paths: Paths
    allow: list[str]


class TrainConfig(Config):
    """``task=train``."""

    init_ckpt: str | None
    resume: Literal["auto", "never"]


class CheckpointConfig(Config):
    """A task that runs a network as it is."""

    ckpt: str | None
    tile: Annotated[int, Field(gt=0)] | Literal["auto", "none"]
    backend: Literal["eager", "onnxruntime", "openvino", "auto"]

    def with_network(self, stored: Mapping[str, object], source: str) -> Self:
        """The same with the network of a checkpoint, which is judged like one that a user names.

        Args:
            stored: ``model``, ``upsampler``, ``strategy`` and ``scale``.
            source: The checkpoint, for error messages.

        Raises:
            ConfigError: The stored network may not be built.
        """
        network = StoredNetwork.read(stored, source, self.allow)
        return self.model_copy(update={name: getattr(network, name) for name in StoredNetwork.model_fields})


class EvaluateConfig(CheckpointConfig):
    """``task=evaluate``."""

    explain: bool


class UpscaleConfig(CheckpointConfig):
    """``task=upscale``."""

    input: str | Annotated[list[str], Field(min_length=1)]
    output: str
    overwrite: bool


class StoredNetwork(_Strict):
    """What a checkpoint of ours says of its network; judged like what a user names."""

    model: Node
    upsampler: Upsampler
    strategy: Strategy
    scale: int = Field(ge=2, le=64)

    @classmethod
    def read(cls, record: Mapping[str, object], source: str, allow: Sequence[str] = ()) -> "StoredNetwork":
        """The part of a record that names a network.

        Args:
            record: What the checkpoint stores.
            source: The checkpoint, for error messages.
            allow: Packages that the command line trusts, beside ours.

        Raises:
            ConfigError: The record is not whole, or the network may not be built.
        """
        own = {name: record.get(name) for name in cls.model_fields}
        try:
            if not files.is_small(own):
                raise ValueError("it has too many values")
            stored = cls.model_validate_json(json.dumps(own), strict=True)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"'{source}' does not say which network it holds; give its state dict"
            ) from error
        packages = targets.trusted_packages(allow)
        trusted = tuple(name for name in packages if name == "sr_lab" or name not in targets.TRUSTED)
        for slot in ("model", "upsampler.factory", "strategy.apply"):
            for name, node in _slot_nodes(stored.model_dump(), slot):
                targets.check(name, node, trusted=trusted, supplied=_SUPPLIED[slot], kind=targets.KINDS[slot])
        return stored


class ComplexityConfig(Config):
    """``task=complexity``."""

    psnr_set: str
    runs: str | None


class PrepareConfig(Config):
    """``task=prepare``."""

    mirror: str | None
    decode: bool


class ShardConfig(Config):
    """``task=shard``."""

    output: str
    images_per_shard: int = Field(gt=0)
    lr_scales: list[Annotated[int, Field(ge=2)]]


class _UnbuiltConfig(Config):
    """A task that builds nothing of what is composed."""


class BenchmarkConfig(_UnbuiltConfig):
    """``task=benchmark``."""

    rounds: int = Field(gt=0)
    only: list[str]
    store: bool


class DoctorConfig(_UnbuiltConfig):
    """``task=doctor``."""

    folder: str


class ReadingConfig(_UnbuiltConfig):
    """A task that reads run folders and builds nothing."""

    runs: str


class ReportConfig(ReadingConfig):
    """``task=report``."""

    baseline: str | None = None
    write_results: bool = False


class StatusConfig(ReadingConfig):
    """``task=status``."""


class DashboardConfig(ReadingConfig):
    """``task=dashboard``."""


class LogConfig(ReadingConfig):
    """``task=log``."""


SCHEMAS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "upscale": UpscaleConfig,
    "complexity": ComplexityConfig,
    "prepare": PrepareConfig,
    "doctor": DoctorConfig,
    "shard": ShardConfig,
    "benchmark": BenchmarkConfig,
    "report": ReportConfig,
    "status": StatusConfig,
    "dashboard": DashboardConfig,
    "log": LogConfig,
}


def load(
    composed: DictConfig, overrides: Sequence[str] = (), choices: Mapping[str, str] | None = None
) -> Config:
    """Validate a composed configuration before anything is built.

    Args:
        composed: What Hydra composed; its ``hydra`` node is ignored.
        overrides: The overrides of the command line, which name the run and may trust packages.
        choices: Option taken of each group (``hydra.runtime.choices``).

    Raises:
        ConfigError: One sentence that names the place, the value, what is allowed and the nearest match.
    """
    composed, choices, row_overrides = _with_row(composed, overrides, choices or {})
    for override in [*row_overrides, *overrides]:
        group, _, options = override.lstrip("+").partition("=")
        if options.startswith("[") and (conf_dir() / group).is_dir():  # Hydra would merge them
            raise ConfigError(f"{group}: takes one option, got {options}; for a sweep write -m {group}=a,b")
    node = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.set_struct(node, False)
    schema = SCHEMAS.get(str(node.get("task")))
    if schema is None:
        raise ConfigError(f"task: there is no task {node.get('task')!r}; allowed: {', '.join(SCHEMAS)}")
    builds = not issubclass(schema, _UnbuiltConfig)  # judging what is never built would load torch
    if builds:
        _apply_budget(node)
    if node.get("run_name", None) is None:
        node.run_name = run_name(node, overrides, choices)
    try:
        values = typing.cast(Node, OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key}: has no value and needs one; set {key}=...") from error
    _refuse_secrets("", values)
    try:
        config = schema.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error, schema)) from error
    if config.hparams_search is not None and not isinstance(config, TrainConfig):
        raise ConfigError(f"hparams_search: searches among trainings, got task={config.task}; leave it out")
    if builds:
        _check_targets(config, overrides)
    return config


_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|passphrase|credentials?|jwt)$", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@|[?&](\w*key|token|\w+_token|sig|signature|password)=", re.I)


def _refuse_secrets(place: str, value: object) -> None:
    """What is composed goes into ``config.yaml``, reports and W&B, which are shown to others."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            if _SECRET.search(str(key)) and isinstance(child, str):
                raise ConfigError(f"{place}{key}: is a secret, which would be stored; {_INSTEAD}")
            _refuse_secrets(f"{place}{key}.", child)
    elif isinstance(value, list):
        for child in value:
            _refuse_secrets(place, child)
    elif isinstance(value, str):
        # Eight: TOKENIZERS_PARALLELISM=false and the like are no secrets.
        known = (text for name, text in os.environ.items() if _SECRET.search(name) and len(text) >= 8)
        if _SECRET_URL.search(value) or any(text in value for text in known):
            raise ConfigError(f"{place[:-1]}: holds a secret, which would be stored; {_INSTEAD}")


_INSTEAD = "give keys and passwords in the environment (WANDB_API_KEY) or in ~/.netrc"


def load_trial(
    composed: DictConfig, overrides: Sequence[str], trial: Sequence[str], experiment_name: str
) -> TrainConfig:
    """A training of a search: composed again with the values of a trial, which win.

    Args:
        composed: What Hydra composed of the search's own command line.
        overrides: The overrides of that.
        trial: The trial's overrides.
        experiment_name: The search, of which the training is a part.

    Raises:
        ConfigError: The values are no recipe.
    """
    words = [*without_search(overrides), *trial, f"experiment_name={experiment_name}", "run_name=null"]
    try:
        again = _compose_again(composed, words)
    except HydraException as error:
        raise ConfigError(str(explain(error))) from error
    config = load(again, words, again.hydra.runtime.choices)
    assert isinstance(config, TrainConfig)
    return config.model_copy(update={"hparams_search": None})


def without_search(overrides: Sequence[str]) -> list[str]:
    """A command line without what it says of the search, and of the name of the whole."""
    own = ("hparams_search", "experiment_name", "run_name")
    return [override for override in overrides if key_of(override).partition(".")[0] not in own]


# Settings that a row may not change: they choose the row, act before a run is checked, or say whom we trust.
NOT_OF_A_ROW = {
    *("row", "rows", "row_label", "table", "experiment", "experiment_name", "sweep", "hydra", "allow"),
    "hparams_search",
}


def _with_row(
    composed: DictConfig, overrides: Sequence[str], choices: Mapping[str, str]
) -> tuple[DictConfig, Mapping[str, str], list[str]]:
    """The composition of a job that is a row of ``rows``: composed again with the overrides of its row.

    They stand before those of the command line, which therefore wins.

    Returns:
        The composition, in which ``row_label`` has taken the place of ``row`` and ``rows``; the option taken
        of each group; the overrides of the row.
    """
    position = composed.get("row")
    if position is None:
        return composed, choices, []
    rows = OmegaConf.to_container(composed.rows, resolve=False) if composed.get("rows") else {}
    if not isinstance(rows, dict) or not all(isinstance(row, list) for row in rows.values()):
        raise ConfigError("rows: must be lists of overrides, each under its label, got something else")
    if not rows:
        raise ConfigError(f"row: got {position!r}, and there are no rows; choose an experiment that has some")
    if not isinstance(position, int) or not 0 <= position < len(rows):
        labels = ", ".join(f"{number} ({label})" for number, label in enumerate(rows))
        raise ConfigError(f"row: must be a position in rows, got {position!r}; allowed: {labels}")
    label, row = list(rows.items())[position]
    given = {key_of(override) for override in overrides}
    for override in row:
        if not isinstance(override, str) or re.split(r"[./]", key_of(override))[0] in NOT_OF_A_ROW:
            raise ConfigError(f"rows.{label}: {override!r} is no setting of a row; remove it")
    kept = [override for override in row if key_of(override) not in given]
    own = [override for override in overrides if key_of(override) != "row"]
    try:
        again = _compose_again(composed, [*kept, *own])
    except HydraException as error:
        raise ConfigError(f"rows.{label}: {explain(error)}") from error
    again.row, again.rows, again.row_label = None, {}, str(label)
    return again, again.hydra.runtime.choices, kept


def _compose_again(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose with other overrides what Hydra composed, found in the same places, with its ``hydra`` node."""
    hydra_node = composed.hydra if "hydra" in composed else HydraConfig.get()
    places = [override for override in hydra_node.overrides.hydra if key_of(override) == "hydra.searchpath"]
    again = hydra.compose(hydra_node.job.config_name, [*places, *overrides], return_hydra_config=True)
    OmegaConf.set_struct(again, False)
    return again


def _sentence(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem of a pydantic error, in our form."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        owner: type[BaseModel] = schema
        for part in problem["loc"][:-1]:
            owner = typing.cast(type[BaseModel], owner.model_fields[str(part)].annotation)
        known = list(owner.model_fields)
        near = targets.did_you_mean(str(problem["loc"][-1]), known)
        return f"{place}: there is no such setting; allowed: {', '.join(sorted(known))}{near}"
    if problem["type"] == "missing":
        return f"{place}: is missing; set {place}=..."
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place}: {message}, got {problem['input']!r}"


def _check_targets(config: Config, overrides: Sequence[str]) -> None:
    # A file cannot widen what is trusted: only the command line and the environment can.
    if config.allow and not any(override.lstrip("+").startswith("allow=") for override in overrides):
        raise ConfigError(
            f"allow: is set in a file, got {config.allow}; "
            "packages are trusted on the command line (allow=[...]) or in SR_LAB_ALLOW only"
        )
    for group in ("callbacks", "logger"):
        _refuse_ways_out(group, getattr(config, group), overrides)
    trusted = targets.trusted_packages(config.allow)
    values = config.model_dump() | {"trainer": config.trainer.arguments()}
    for slot, kind in targets.KINDS.items():
        for name, node in _slot_nodes(values, slot):
            targets.check(name, node, trusted=trusted, supplied=_SUPPLIED.get(slot, ()), kind=kind)


def _refuse_ways_out(place: str, value: object, overrides: Sequence[str]) -> None:
    """Callbacks and loggers of a stranger may not overwrite files outside of the run folder."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            _refuse_ways_out(f"{place}.{key}", child, overrides)
    elif isinstance(value, list):
        for child in value:
            _refuse_ways_out(place, child, overrides)
    elif isinstance(value, str):
        leads_out = value[:1] in ("/", "~") or ".." in Path(value).parts
        if leads_out and not is_said(place, overrides):
            raise ConfigError(
                f"{place}: leads out of the run folder, which is not allowed in a file, got {value!r}; "
                "say it on the command line"
            )


def _slot_nodes(values: Node, slot: str) -> list[tuple[str, object]]:
    """Configured nodes of a slot with their places; empty slots (``factory: null``) are left out."""
    group, _, rest = slot.partition(".")
    node = values[group]
    if not rest:
        return [(slot, node)]
    assert isinstance(node, Mapping)  # the schema says so
    if rest == "*":
        return [(f"{group}.{name}", child) for name, child in node.items()]
    return [(slot, node[rest])] if node.get(rest) is not None else []


def _apply_budget(node: DictConfig) -> None:
    """Put the budget's limits on the recipe, in place; doing it twice changes nothing.

    A shortened training runs its whole schedule: an epoch is shortened with it.
    """
    budget = node.get("budget")
    if not isinstance(budget, DictConfig):
        raise ConfigError(
            f"budget: must be a group of settings, got {budget!r}; choose an option with budget=<name>"
        )
    if budget.get("name") == "auto":
        from sr_lab.system.devices import has_gpu  # imports torch: only a run needs it

        name = "paper" if has_gpu(str(OmegaConf.select(node, "trainer.accelerator"))) else "short"
        chosen = OmegaConf.load(conf_dir() / "budget" / f"{name}.yaml")
        node.budget = OmegaConf.merge(chosen, {"name": f"{name} (auto)"})
        budget = node.budget
    limits = {
        "max_batch_size": "batch_size",
        "max_lr_patch_size": "dataset.lr_patch_size",
        "max_validation_interval": "validation.interval",
        "max_validation_count": "validation.count",
    }
    for limit, place in limits.items():
        value, most = OmegaConf.select(node, place), budget.get(limit)
        if isinstance(value, int) and isinstance(most, int):
            OmegaConf.update(node, place, min(value, most))
    steps, most = node.get("steps"), budget.get("max_steps")
    if isinstance(steps, int) and isinstance(most, int) and most < steps:
        node.steps = most
        node.steps_per_epoch = float(node.steps_per_epoch) * most / steps


# Overrides that change no number, or that stand elsewhere in the folder's path.
_NEVER_NAMED = {
    *("task", "experiment", "experiment_name", "run_name", "paths", "logger", "callbacks", "debug"),
    *("row", "rows", "table", "sweep", "hparams_search", "folder", "mirror", "decode"),
    *("num_workers", "validation", "benchmark", "allow", "resume", "ckpt", "runs", "explain", "hydra"),
}


def run_name(node: DictConfig, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """``<model>_x<scale>`` and whatever else the command line varied, e.g. ``imdn_x4_deconv_seed-1``.

    A measured checkpoint goes by its own name, that of its run folder or file.
    """
    if node.get("ckpt") is not None:
        path = Path(str(node.ckpt))
        run = path.parents[1] if path.parent.name == "checkpoints" else path
        name = re.sub(
            r"-[0-9a-f]{8}$",
            "",
            run.name if run.suffix not in (".ckpt", ".pth", ".pt", ".mat", ".safetensors") else run.stem,
        )
        return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or "checkpoint"
    model = choices.get("model") or str(OmegaConf.select(node, "model._target_")).rpartition(".")[2]
    parts = [model, f"x{node.get('scale')}"]
    if node.get("row_label") is not None:
        parts.append(re.sub(r"[^\w.-]+", "-", node.row_label).strip("-") or "row")
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        top = key.split(".")[0].split("@")[0]
        if (
            key in ("model", "scale")
            or top in _NEVER_NAMED
            or (top == "trainer" and key != "trainer.precision")
        ):
            continue
        if key.endswith(("_dir", "_ckpt")):
            value = Path(value).name
        parts.append(value if key in choices else f"{key.rpartition('.')[2]}-{value}")
    # Nothing that Hydra's grammar would take apart in ckpt=<run folder>.
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)).strip("-")[:100]


def to_yaml(config: Config) -> str:
    """The resolved configuration, from which the run can be started again."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(exclude={"allow"}) | {"allow": []}))
