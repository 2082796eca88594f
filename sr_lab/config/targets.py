"""Builds objects from their descriptions in a configuration or a checkpoint.

A description is plain data: ``{_target_: <dotted name>, <argument>: <value>, ...}``. `_read` checks it: its
class must be listed in `allowed` for the slot, or come from a package that the user trusts. Nothing in it is
resolved, and only what `_read` returns is built.
"""

import functools
import importlib
import inspect
import json
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import SchemaError

from sr_lab.config import suggestions
from sr_lab.config.allowed import INSTEAD, KEYWORDS, SLOTS, Slot
from sr_lab.errors import ConfigError, SRLabError, did_you_mean

Node: typing.TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class _Described:
    """A description that has passed the checks."""

    target: Callable[..., object]
    arguments: dict[str, object]
    partial: bool
    slot: Slot

    def build(self, **more: object) -> object:
        """The object, or a factory; descriptions inside its arguments are built first."""
        make = functools.partial(self._make, **more)
        return make if self.partial else make()

    def _make(self, *values: object, **more: object) -> object:
        """Build the object; descriptions of the same slot in its arguments get what our code passes to it.

        For example, the schedules inside a SequentialLR get the same optimizer.
        """

        def built(value: object) -> object:
            if isinstance(value, _Described):
                shares = value.slot is self.slot and bool(self.slot.supplied)
                return value._make(*values, **more) if shares else value.build()
            if isinstance(value, dict):
                return {key: built(child) for key, child in value.items()}
            return [built(child) for child in value] if isinstance(value, list) else value

        return _call(self.target, *values, **{name: built(v) for name, v in self.arguments.items()} | more)


def _call(target: Callable[..., object], /, *values: object, **arguments: object) -> object:
    try:
        return target(*values, **arguments)
    except SRLabError:
        raise
    except Exception as error:
        # Lightning's own error is matched by name, so that building a network does not import Lightning.
        refusals = ("TypeError", "ValueError", "RuntimeError", "MisconfigurationException")
        if not {kind.__name__ for kind in type(error).__mro__} & set(refusals):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        name = f"{target.__module__}.{target.__qualname__}"
        raise ConfigError(f"{name}: cannot be built: {reason}; change its settings") from error


def check(slot: str, node: object, allow: Iterable[str] = (), *, place: str = "") -> None:
    """Refuse a description that `build` would refuse; ``place`` is its position, for error messages.

    Raises:
        ConfigError: The name is not allowed, an argument is unknown or missing, or a value has a wrong type.
    """
    place, accepts = place or SLOTS[slot].place, SLOTS[slot]
    described = _read(place, node, (slot,), trusted_packages(allow))
    if accepts.factory and not described.partial:
        raise ConfigError(
            f"{place}: gets {', '.join(accepts.supplied)} later, when it is used; add _partial_: true to it"
        )


def build(slot: str, node: object, allow: Iterable[str] = (), /, **arguments: object) -> typing.Any:
    """Build the object that a description names, or a factory for it if ``_partial_`` is true.

    Args:
        slot: Key of `allowed.SLOTS`.
        node: The description.
        allow: Packages that the user trusts, in addition to those in ``SR_LAB_ALLOW``.
        **arguments: Further arguments, which our code passes.

    Raises:
        ConfigError: See `check`; or the constructor rejects the settings.
    """
    return _read(SLOTS[slot].place, node, (slot,), trusted_packages(allow)).build(**arguments)


def trusted_packages(allow: Iterable[str] = ()) -> tuple[str, ...]:
    """The packages that the user allowed on the command line or in ``SR_LAB_ALLOW`` (comma-separated)."""
    environment = [name.strip() for name in os.environ.get("SR_LAB_ALLOW", "").split(",")]
    return tuple(dict.fromkeys(filter(None, [*environment, *allow])))


def locate(path: str) -> typing.Any:
    """The class or function at a dotted path, which consists of a module and a name in it.

    Raises:
        ImportError: The module does not exist, or a module that it imports is missing.
        AttributeError: The module has no such attribute.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module or name), name)


def _read(place: str, node: object, slots: tuple[str, ...], packages: tuple[str, ...]) -> _Described:
    """Check that one of the slots allows a description, and check everything inside it."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        group = place.partition(".")[0]
        choose = f"; choose an option that sets {place}: {group}=<name>" if place != group else ""
        choose = suggestions.instead(place, ()) or choose
        raise ConfigError(f"{place}: must be a group of settings with a _target_, got {node!r}{choose}")
    target, slot = _resolve(f"{place}._target_", node["_target_"], slots, packages)
    partial = node.get("_partial_", False)
    if not isinstance(partial, bool):
        raise ConfigError(f"{place}._partial_: must be true or false, got {partial!r}")
    parameters = _parameters(target, str(node["_target_"]))
    own = KEYWORDS.get(str(node["_target_"]), ())
    known = [name for name in parameters if name not in slot.supplied or name in own]
    hints = _type_hints(target)
    arguments = {}
    for key in (key for key in node if key not in ("_target_", "_partial_")):
        if key not in known:
            raise ConfigError(
                f"{place}.{key}: {target.__name__} has no such setting; allowed: {', '.join(sorted(known))}"
                f"{suggestions.instead(f'{place}.{key}', known)}"
            )
        value = arguments[key] = _argument(f"{place}.{key}", node[key], slot.nested, packages)
        if key in hints and not _holds_description(value):
            _check_type(f"{place}.{key}", value, hints[key])
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in arguments]
    if missing and not partial:
        raise ConfigError(
            f"{place}: {target.__name__} needs {', '.join(missing)}; set {place}.{missing[0]}=..."
        )
    return _Described(target, arguments, partial, slot)


def _argument(place: str, value: object, nested: tuple[str, ...], packages: tuple[str, ...]) -> object:
    """Check the value of an argument; descriptions in it must fit one of the nested slots."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _read(place, value, nested, packages)
        return {
            _plain(place, key): _argument(f"{place}.{key}", child, nested, packages)
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [_argument(f"{place}[{index}]", child, nested, packages) for index, child in enumerate(value)]
    return _plain(place, value)


def _plain(place: str, value: object) -> object:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(f"{place}: must be a plain value, got {type(value).__name__}")
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{place}: still contains ${{ after interpolation, got {value!r}; remove it")
    return value


def _resolve(
    place: str, path: object, slots: tuple[str, ...], packages: tuple[str, ...]
) -> tuple[type, Slot]:
    """The class that a description names, and the slot that allows it."""
    # Importing a module runs it, so the name is checked first.
    wrong = None
    for slot in (SLOTS[name] for name in slots if isinstance(path, str)):
        places = [name for name in (slot.room, *packages) if name and str(path).startswith(f"{name}.")]
        if path not in slot.classes and not places:
            continue
        try:
            found = locate(str(path))
        except Exception as error:  # the user's module runs, and may fail in any way
            raise ConfigError(
                f"{place}: cannot import '{path}': {suggestions.not_found(str(path), error)}"
            ) from error
        wrong = None if path in slot.classes else _why_not(found, slot, places, str(path))
        if wrong is None:
            return found, slot
    if (why := INSTEAD.get(str(path).rpartition(".")[2])) and str(path).startswith(_LIGHTNING):
        raise ConfigError(f"{place}: {path!r} may not be named here, since {why}")
    if wrong is not None:
        raise ConfigError(f"{place}: {path!r} {wrong}")
    allowed = "; or ".join(str(SLOTS[name]) for name in slots) or "plain values only"
    near = did_you_mean(str(path), [name for slot in slots for name in SLOTS[slot].classes])
    raise ConfigError(
        f"{place}: {path!r} may not be named here; allowed: {allowed}{near}"
        f"{suggestions.to_trust(path, packages)}"
    )


_LIGHTNING = ("lightning.", "pytorch_lightning.")


def refuse_callback(place: str, callback: object) -> None:
    """Refuse a callback that derives from one that is not allowed (`allowed.INSTEAD`).

    Raises:
        ConfigError: The message says what to use instead.
    """
    for kind in type(callback).__mro__:
        if kind.__module__.startswith(_LIGHTNING) and (why := INSTEAD.get(kind.__name__)):
            own = type(callback).__name__
            named = f"{own} is" if own == kind.__name__ else f"{own} is a {kind.__name__}, which is"
            raise ConfigError(f"{place}: {named} not supported, since {why}")


def _why_not(found: object, slot: Slot, places: Sequence[str], path: str) -> str | None:
    """Why the slot does not allow something in one of the packages; ``None`` if it does."""
    module = getattr(found, "__module__", "")
    if not any(f"{module}.".startswith(f"{name}.") for name in places):
        return f"may not be named here, since another package defines it; allowed: {slot}"
    if not slot.base:
        return None if path == f"{module}.apply" else f"may not be named here; allowed: {slot}"
    ours = slot.room and f"{module}.".startswith(f"{slot.room}.")
    base = slot.base if ours or not slot.own_base else slot.own_base
    if not inspect.isclass(found):
        return f"is a {type(found).__name__}; name a class that derives from {base}"
    return (
        None if issubclass(found, locate(base)) else f"does not derive from {base}; derive it from that class"
    )


@functools.cache
def _parameters(target: type, path: str) -> dict[str, inspect.Parameter]:
    """The parameters of a class; for ``**kwargs``, only the names in `allowed.KEYWORDS`."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target).parameters
    more = KEYWORDS.get(path, ())
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in named} | {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in more
    }


@functools.cache
def _type_hints(target: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # annotations that only a type checker can evaluate
        return {}


def _holds_description(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_description, value.values()))
    return isinstance(value, _Described) or (isinstance(value, list) and any(map(_holds_description, value)))


@functools.cache
def _adapter(annotation: object) -> TypeAdapter[object]:
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))  # type: ignore[arg-type]


def _check_type(place: str, value: object, annotation: object) -> None:
    """Check a plain value against its annotation; the class itself checks other values."""
    try:
        adapter, text = _adapter(annotation), json.dumps(value)
    except (PydanticSchemaGenerationError, PydanticUserError, SchemaError, TypeError, NameError):
        return
    try:
        # In JSON mode a list passes as a tuple and an int as a float, but "3" does not pass as an int.
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{place}: {problem[0].lower()}{problem[1:]}, got {value!r}") from error
