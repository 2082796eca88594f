"""What a ``_target_`` may name, and how it is built.

A configuration can come from a stranger, so a target is checked by what it resolves to, never by its
spelling: it must be a class of the kind that its slot takes, defined in a trusted package. A list of allowed
prefixes would admit ``torch.utils.collect_env.run``, which is a shell.
"""

import difflib
import functools
import importlib
import inspect
import json
import os
import typing
from collections.abc import Iterable, Mapping

import hydra
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import SchemaError

from sr_lab.errors import ConfigError, SRLabError

Node: typing.TypeAlias = Mapping[str, object]

TRUSTED = ("sr_lab", "torch", "lightning", "torchmetrics", "kornia")

# Slot -> the class that its target must be or derive from. "*" stands for a name of the user's choice.
KINDS = {
    "model": "torch.nn.Module",
    "upsampler.factory": "torch.nn.Module",
    "strategy.apply": "sr_lab.strategies.*.apply",  # the only function that may be named: see _resolve
    "schedule.scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "dataset": "torch.utils.data.Dataset",
    "degradation": "torch.nn.Module",
    "loss": "torch.nn.Module",
    "optimizer": "torch.optim.Optimizer",
    "trainer": "lightning.Trainer",
    "callbacks.*": "lightning.Callback",
    "logger.*": "lightning.pytorch.loggers.Logger",
}
# What a target inside another target's arguments may be.
NESTED_KINDS = (*dict.fromkeys(k for k in KINDS.values() if "*" not in k), "torchmetrics.Metric")

# Classes that take **kwargs, and the function that receives them.
_FORWARDS_TO = {"lightning.pytorch.loggers.wandb.WandbLogger": "wandb.init"}


def trusted_packages(allowed: Iterable[str] = ()) -> tuple[str, ...]:
    """Ours and those that the user allowed, on the command line or in ``SR_LAB_ALLOW`` (comma-separated)."""
    environment = [name.strip() for name in os.environ.get("SR_LAB_ALLOW", "").split(",") if name.strip()]
    return (*TRUSTED, *environment, *allowed)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the nearest known name, or an empty text."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def locate(path: str) -> typing.Any:
    """The object that a dotted path names: the longest importable module, then attributes."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ImportError(f"'{path}' is not a dotted name")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            found: typing.Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not (name + ".").startswith(error.name + "."):
                raise ImportError(
                    f"'{name}' needs the package '{error.name}', which is not installed"
                ) from error
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"there is no module '{parts[0]}'")


def _resolve(slot: str, path: object, kinds: tuple[str, ...], trusted: tuple[str, ...]) -> type:
    """The class that ``path`` names, if it is allowed in the slot."""
    if not isinstance(path, str):
        raise ConfigError(f"{slot}._target_: must be a dotted name, got {path!r}")
    wanted = " or ".join(kinds)
    # Importing a module runs it, so the package is checked before anything is imported.
    if path.split(".")[0] not in trusted:
        raise ConfigError(
            f"{slot}._target_: '{path}' is not in a trusted package; allowed: {', '.join(trusted)}; "
            "if you trust it, name the package in allow=[...] on the command line"
        )
    try:
        found = locate(path)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{slot}._target_: cannot find '{path}': {error}; give the dotted name of a {wanted}"
        ) from error
    if not inspect.isclass(found):
        if kinds == (KINDS["strategy.apply"],) and _is_strategy(found, path):
            return typing.cast(type, found)
        raise ConfigError(f"{slot}._target_: '{path}' is not a class; allowed: a {wanted}")
    if found.__module__.split(".")[0] not in trusted:
        raise ConfigError(
            f"{slot}._target_: '{path}' is defined in '{found.__module__}', which is not trusted; "
            f"allowed: {', '.join(trusted)}"
        )
    bases = tuple(locate(kind) for kind in kinds if "*" not in kind)
    if not issubclass(found, bases):
        raise ConfigError(f"{slot}._target_: '{path}' is not a {wanted}")
    return found


def _is_strategy(found: object, path: str) -> bool:
    """Whether it is ``sr_lab.strategies.<name>.apply``, the only kind of function that may be named."""
    module = getattr(found, "__module__", "")
    return inspect.isfunction(found) and module.startswith("sr_lab.strategies.") and path == f"{module}.apply"


def _parameters(target: type) -> dict[str, inspect.Parameter]:
    """The names that the target's constructor accepts, or the function that it forwards to."""
    parameters = dict(inspect.signature(target).parameters)
    forwards_to = _FORWARDS_TO.get(f"{target.__module__}.{target.__qualname__}")
    if forwards_to is not None:
        behind = inspect.signature(locate(forwards_to))
        parameters = {**behind.parameters, **parameters}
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _check_type(slot: str, value: object, annotation: object) -> None:
    """Compare a plain value with its annotation; other types are left to the class."""
    try:
        adapter: TypeAdapter[object] = TypeAdapter(
            annotation,  # type: ignore[arg-type]
            config=ConfigDict(arbitrary_types_allowed=True),
        )
        text = json.dumps(value)
    except (PydanticSchemaGenerationError, PydanticUserError, SchemaError, TypeError, NameError):
        return
    try:
        # In JSON mode a list passes as a tuple and an int as a float, but "3" not as an int.
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{slot}: {problem[0].lower()}{problem[1:]}, got {value!r}") from error


def check(
    slot: str, node: object, *, trusted: tuple[str, ...], supplied: Iterable[str] = (), kind: str = ""
) -> None:
    """Refuse a target that is not allowed in its slot, or arguments that it does not have.

    Args:
        slot: The place of the node, e.g. ``model`` or ``callbacks.early_stopping``.
        node: The plain configuration of the slot.
        trusted: Packages whose classes may be named.
        supplied: Arguments that the code passes itself; a configuration may not set them.
        kind: The class that the slot takes; empty for any kind, inside another target's arguments.

    Raises:
        ConfigError: Untrusted package, wrong kind, unknown argument, wrong type, missing argument.
    """
    if kind and not isinstance(node, Mapping):
        raise ConfigError(f"{slot}: must be a group of settings with a _target_, got {node!r}")
    if isinstance(node, list):
        for index, item in enumerate(node):
            check(f"{slot}[{index}]", item, trusted=trusted)
        return
    if not isinstance(node, Mapping):
        return
    if "_target_" not in node:
        if kind:
            raise ConfigError(f"{slot}: has no _target_; give the dotted name of a {kind}")
        for key, value in node.items():
            check(f"{slot}.{key}", value, trusted=trusted)
        return
    target = _resolve(slot, node["_target_"], (kind,) if kind else NESTED_KINDS, trusted)
    parameters = _parameters(target)
    supplied = set(supplied)
    allowed = [name for name in parameters if name not in supplied and name != "self"]
    hints = _type_hints(target)
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        if key not in allowed:
            raise ConfigError(
                f"{slot}.{key}: {target.__name__} has no such setting; allowed: {', '.join(sorted(allowed))}"
                f"{did_you_mean(str(key), allowed)}"
            )
        check(f"{slot}.{key}", value, trusted=trusted)
        if key in hints and not holds_target(value):
            _check_type(f"{slot}.{key}", value, hints[key])
    if not node.get("_partial_", False):
        missing = [n for n in allowed if parameters[n].default is inspect.Parameter.empty and n not in node]
        if missing:
            raise ConfigError(
                f"{slot}: {target.__name__} needs {', '.join(missing)}; set {slot}.{missing[0]}=..."
            )


def _type_hints(target: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # annotations that only a type checker can evaluate
        return {}


def holds_target(value: object) -> bool:
    """Whether there is a ``_target_`` at any depth of a plain value."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(holds_target, value.values()))
    return isinstance(value, list) and any(map(holds_target, value))


def _make(
    name: str, factory: typing.Callable[..., object], /, *values: object, **arguments: object
) -> object:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return factory(*values, **arguments)
    except SRLabError:
        raise
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{name}: cannot be built: {reason}; change its settings") from error


def build(node: Node, **arguments: object) -> typing.Any:
    """Build a node that has passed `check`; a ``_partial_`` node gives a factory.

    Raises:
        ConfigError: The constructor refuses the settings.
    """
    # A factory first: instantiate() would take an argument named `config` for its own.
    factory = hydra.utils.instantiate({**node, "_partial_": True}, _convert_="all")
    make = functools.partial(_make, str(node["_target_"]), factory, **arguments)
    return make if node.get("_partial_", False) else make()
