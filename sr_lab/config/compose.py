"""Checks composed YAML and turns it into typed values; applies rows and budgets.

Hydra composes, `load` validates, and only typed values are passed on: the layers below ``tasks/`` never see
a DictConfig.
"""

import contextlib
import functools
import json
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sr_lab.config import untrusted
from sr_lab.config.hydra_guard import guarded
from sr_lab.config.messages import explain, unknown_setting
from sr_lab.config.overrides import is_set, key_of
from sr_lab.config.run_name import run_name
from sr_lab.config.schema import (
    SCHEMAS,
    Config,
    EvaluateConfig,
    Node,
    TrainConfig,
    UnbuiltConfig,
)
from sr_lab.config.shorthand import understood
from sr_lab.config.task_settings import refuse_unused, unused
from sr_lab.errors import ConfigError, did_you_mean
from sr_lab.files import conf_dir


@dataclass(frozen=True)
class _Composition:
    """What Hydra composed; two compositions with the same text and command line are equal."""

    text: str
    overrides: tuple[str, ...]
    choices: tuple[tuple[str, str], ...]
    composed: DictConfig = field(compare=False)


def load(
    composed: DictConfig, overrides: Sequence[str] = (), choices: Mapping[str, str] | None = None
) -> Config:
    """Validate a composed configuration before anything is built.

    Hydra asks for the run folder before it starts the job. Both steps need the configuration, so a second
    call with the same composition returns the same object.

    Args:
        composed: The configuration that Hydra composed; its ``hydra`` node is ignored.
        overrides: The overrides of the command line; they name the run, and some keys may be set only here.
        choices: The chosen option of each group (``hydra.runtime.choices``).

    Raises:
        ConfigError: A setting is invalid; the message gives its value, what is allowed and the nearest match.
    """
    settings = typing.cast(Node, OmegaConf.to_container(composed))
    settings.pop("hydra", None)
    return _load(_Composition(repr(settings), tuple(overrides), tuple((choices or {}).items()), composed))


@functools.lru_cache(maxsize=1)
def _load(composition: _Composition) -> Config:
    overrides = composition.overrides
    composed, choices, row_overrides = _with_row(composition.composed, overrides, dict(composition.choices))
    for override in [*row_overrides, *overrides]:
        group, _, options = override.lstrip("+").partition("=")
        if options.startswith("[") and (conf_dir() / group).is_dir() and group not in _NAMED:
            raise ConfigError(
                f"{group}: takes one option, got {options}; for a sweep write -m {group}={options[1:-1]}"
            )
    node = _without_hydra(composed)
    OmegaConf.set_struct(node, False)
    schema = SCHEMAS.get(str(node.get("task")))
    if schema is None:
        raise ConfigError(f"task: there is no task {node.get('task')!r}; allowed: {', '.join(SCHEMAS)}")
    typed = _typed(composition.composed, overrides)
    refuse_unused(str(node.task), typed)
    builds = not issubclass(schema, UnbuiltConfig)  # checking unused classes would load torch
    if builds and not (schema is EvaluateConfig and "budget" not in node):
        if _is_typed_row(str(composed.get("row_label")), overrides):
            typed += row_overrides
        _apply_budget(node, typed)
    if node.get("run_name", None) is None:
        node.run_name = run_name(node, overrides, choices)
    try:
        values = typing.cast(Node, OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key}: has no value and needs one; set {key}=...") from error
    values = untrusted.settled(values, own_paths(), overrides)
    try:
        config = schema.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error, schema, str(node.task))) from error
    if config.hparams_search is not None and not isinstance(config, TrainConfig):
        raise ConfigError(
            f"hparams_search: searches training runs only, got task={config.task}; leave hparams_search out"
        )
    for group in ("model", "dataset", "degradation"):
        own = getattr(config, group).get("scale", config.scale)
        if own != config.scale:
            raise ConfigError(
                f"{group}.scale: must equal scale, which is {config.scale}, got {own}; "
                f"set scale={own} instead"
            )
    if builds:
        untrusted.check_targets(config)
    return config


# Groups of which several options may be chosen, since the objects in them have names. Hydra would also accept
# several options of any other group, and merge them into one.
_NAMED = ("logger", "callbacks")


def own_paths(*, resolve: bool = True) -> Node:
    """Our own ``paths``, resolved for this environment or as they are written."""
    return typing.cast(Node, OmegaConf.to_container(_own_settings().paths, resolve=resolve))


@functools.cache
def _own_settings() -> DictConfig:
    return typing.cast(DictConfig, OmegaConf.load(conf_dir() / "config.yaml"))


def _without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


def compose(words: Sequence[str], config_dir: Path | None = None) -> Config:
    """Compose and validate a configuration in Python; `sr_lab.compose` documents the arguments."""
    given = understood(words)
    places = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        with guarded(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = hydra.compose("config", [*places, *given], return_hydra_config=True)
            return load(composed, given, composed.hydra.runtime.choices)
    except HydraException as error:
        raise ConfigError(str(explain(error))) from error


def load_trial(
    composed: DictConfig, overrides: Sequence[str], trial: Sequence[str], experiment_name: str
) -> TrainConfig:
    """One training run of a search, composed again with the overrides of a trial, which take precedence.

    Raises:
        ConfigError: The values do not give a valid configuration.
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
    """A command line without the search's own settings, the experiment name and the run name."""
    own = ("hparams_search", "experiment_name", "run_name")
    return [override for override in overrides if key_of(override).partition(".")[0] not in own]


# Settings that a row must not change: they choose the row, act before a run is checked, or grant trust.
NOT_OF_A_ROW = {
    *("row", "rows", "row_label", "table", "experiment", "experiment_name", "sweep", "hydra", "allow"),
    "hparams_search",
}


def _with_row(
    composed: DictConfig, overrides: Sequence[str], choices: Mapping[str, str]
) -> tuple[DictConfig, Mapping[str, str], list[str]]:
    """Compose the job again with the overrides of its row in ``rows``, if it has one.

    The row's overrides are applied before those of the command line, which therefore win.

    Returns:
        The composition, with ``row_label`` in place of ``row`` and ``rows``; the chosen option of each group;
        and the overrides of the row.
    """
    position = composed.get("row")
    if position is None:
        return composed, choices, []
    rows = OmegaConf.to_container(composed.rows, resolve=False) if composed.get("rows") else {}
    if not isinstance(rows, dict) or not all(isinstance(row, list) for row in rows.values()):
        raise ConfigError("rows: must be {label: [overrides]}, got something else")
    if not rows:
        raise ConfigError(f"row: got {position!r}, but there are no rows; choose an experiment that has some")
    if not isinstance(position, int) or not 0 <= position < len(rows):
        labels = ", ".join(f"{number} ({label})" for number, label in enumerate(rows))
        raise ConfigError(f"row: must be a position in rows, got {position!r}; allowed: {labels}")
    label, row = list(rows.items())[position]
    given = {key_of(override) for override in overrides}
    for override in row:
        if not isinstance(override, str) or re.split(r"[./]", key_of(override))[0] in NOT_OF_A_ROW:
            raise ConfigError(f"rows.{label}: {override!r} is not a setting that a row may change; remove it")
    kept = [override for override in row if key_of(override) not in given]
    own = [override for override in overrides if key_of(override) != "row"]
    try:
        again = _compose_again(composed, [*kept, *own])
    except HydraException as error:
        raise ConfigError(f"rows.{label}: {explain(error)}") from error
    again.row, again.rows, again.row_label = None, {}, str(label)
    return again, again.hydra.runtime.choices, kept


def _typed(composed: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that the user typed, without the axes that Hydra adds from a file in a multirun."""
    if "hydra" not in composed and not HydraConfig.initialized():
        return list(overrides)
    node = composed.hydra if "hydra" in composed else HydraConfig.get()
    if node.mode != RunMode.MULTIRUN:
        return list(overrides)
    words, added = [*sys.argv[1:], *node.overrides.hydra], set()
    given = {key_of(override) for override in overrides}.difference(["row"], map(key_of, words))
    params = node.sweeper.get("params") or {}
    for key in params:
        if key_of(key) in given and not is_set(f"hydra.sweeper.params.{key}", words):
            axis = OverridesParser.create().parse_override(f"{key}={params[key]}")
            one = not axis.is_sweep_override()
            values = [axis.get_value_element_as_str()] if one else axis.sweep_string_iterator()
            added |= {f"{axis.get_key_element()}={value}" for value in values}
    return [override for override in overrides if override not in added]


def _is_typed_row(label: str, overrides: Sequence[str]) -> bool:
    """Whether the command line gives the overrides of a row: ``rows.X=[...]`` or ``rows={X: [...]}``."""
    for override in overrides:
        key = key_of(override)
        if key == "rows":
            value = OverridesParser.create().parse_override(override).value()
            if isinstance(value, dict) and label in map(str, value):
                return True
        elif key == f"rows.{label}":
            return True
    return False


def _compose_again(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose again with other overrides from the same search path; includes the ``hydra`` node."""
    hydra_node = composed.hydra if "hydra" in composed else HydraConfig.get()
    words = [*_search_path(hydra_node), *overrides]
    again = hydra.compose(hydra_node.job.config_name, words, return_hydra_config=True)
    OmegaConf.set_struct(again, False)
    return again


def _search_path(hydra_node: DictConfig | HydraConf) -> list[str]:
    """The overrides of the command line that add places to search for options."""
    return [override for override in hydra_node.overrides.hydra if key_of(override) == "hydra.searchpath"]


def option(group: str, name: str) -> object:
    """The unresolved content of an option of a group, found as Hydra finds it for the command line.

    Raises:
        HydraException: The group has no option with that name.
    """
    with contextlib.ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            stack.enter_context(hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"))
        config_name, places = "config", []
        if HydraConfig.initialized():
            node = HydraConfig.get()
            config_name, places = node.job.config_name or "config", _search_path(node)
        found = hydra.compose(config_name, [*places, f"{group}={name}"])[group.partition("/")[0]]
    return OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found


def _sentence(error: ValidationError, schema: type[BaseModel], task: str) -> str:
    """The first problem in a pydantic error, as one of our messages."""
    problem = error.errors()[0]
    place = _place(problem)
    if problem["type"] == "extra_forbidden":
        owner: type[BaseModel] = schema
        for part in problem["loc"][:-1]:
            owner = typing.cast(type[BaseModel], owner.model_fields[str(part)].annotation)
        known, last = list(owner.model_fields), str(problem["loc"][-1])
        if owner is schema:
            return unknown_setting(place, task, known)
        inner = [
            name
            for name, field in owner.model_fields.items()
            if Node in (field.annotation, *typing.get_args(field.annotation))
        ]
        near = (
            f"; did you mean '{place.removesuffix(last)}{inner[0]}.{last}'?"
            if inner
            else did_you_mean(last, known)
        )
        return f"{place}: there is no such setting; allowed: {', '.join(sorted(known))}{near}"
    if problem["type"] == "missing":
        group = place.partition(".")[0]
        choose = f"choose an option with {group}=<name>, or " if (conf_dir() / group).is_dir() else ""
        return f"{place}: is missing; {choose}set {place}=..."
    if problem["type"] == "value_error":  # raised by the schema itself
        return f"{place}: {problem['ctx']['error']}"
    if problem["type"] == "list_type":
        return f"{place}: must be a list, got {problem['input']!r}; write {place}=[{problem['input']}]"
    says = [each["msg"][0].lower() + each["msg"][1:] for each in error.errors() if _place(each) == place]
    message = " or ".join([says[0], *(other.removeprefix("input should be ") for other in says[1:])])
    more = "; the command that began a run resumes it" if place == "resume" else ""
    return f"{place}: {message}, got {problem['input']!r}{more}"


def _place(problem: ErrorDetails) -> str:
    """The setting, without the parts of its type that pydantic also names: format.literal['onnx',...]."""
    kinds = r"int|float|str|bool|constrained-\w+|.*[\[\](),].*"
    return ".".join(part for part in map(str, problem["loc"]) if not re.fullmatch(kinds, part))


_LIMITS = {
    "max_steps": "steps",
    "max_batch_size": "batch_size",
    "max_lr_patch_size": "dataset.lr_patch_size",
    "max_validation_interval": "validation.interval",
    "max_validation_count": "validation.count",
}


def _apply_budget(node: DictConfig, typed: Sequence[str]) -> None:
    """Apply the budget's limits to the recipe, in place; doing it twice changes nothing.

    A typed value wins: it removes the limit. The recipe's value is kept in ``recipe``, so that the
    change can be reported. A shortened run still goes through its whole schedule.

    Raises:
        ConfigError: ``budget`` has no settings, or the command line sets both a limit and a value above it.
    """
    budget = node.get("budget")
    if not isinstance(budget, DictConfig):
        raise ConfigError(
            f"budget: must be a group of settings, got {budget!r}; choose an option with budget=<name>"
        )
    if budget.get("name") == "auto":
        from sr_lab.system.devices import has_gpu  # imports torch, which only a run needs

        name = "paper" if has_gpu(str(OmegaConf.select(node, "trainer.accelerator"))) else "short"
        chosen = OmegaConf.load(conf_dir() / "budget" / f"{name}.yaml")
        given = {limit: budget.get(limit) for limit in _LIMITS if is_set(f"budget.{limit}", typed)}
        node.budget = OmegaConf.merge(chosen, given, {"name": f"{name} (auto)"})
        budget = node.budget
    recipe, node.recipe = dict(node.get("recipe") or {}), {}  # a stored configuration has one
    for limit, place in _LIMITS.items():
        before = recipe.get(limit.removeprefix("max_"))
        if before is not None and not is_set(place, typed):
            OmegaConf.update(node, place, before)
        value, most = OmegaConf.select(node, place), budget.get(limit)
        if not isinstance(value, int) or not isinstance(most, int) or value <= most:
            continue
        if not is_set(place, typed):
            node.recipe[limit.removeprefix("max_")] = value
            if place == "steps" and (is_set("steps_per_epoch", typed) or "steps_per_epoch" in recipe):
                node.recipe.steps_per_epoch = node.steps_per_epoch
            OmegaConf.update(node, place, most)
        elif is_set(f"budget.{limit}", typed):
            raise ConfigError(
                f"{place}: is set to {value}, and budget.{limit} to {most}; leave one of them out"
            )
        else:
            budget[limit] = None


def to_yaml(config: Config) -> str:
    """The resolved configuration, from which the run can be started again."""
    left_out = {"allow", *(unused(config.task) if isinstance(config, EvaluateConfig) else ())}
    values = config.model_dump(exclude=left_out) | {"allow": []}
    own = own_paths(resolve=False)  # where to write depends on the machine, and a file may not set it
    values["paths"] |= {name: own[name] for name in ("output_dir", "cache_dir")}
    if "cache_dir" in values.get("dataset", {}):
        values["dataset"]["cache_dir"] = "${paths.cache_dir}"
    return OmegaConf.to_yaml(OmegaConf.create(values))
