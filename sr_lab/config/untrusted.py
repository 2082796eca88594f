"""What a configuration or a checkpoint must not contain, since it may be untrusted.

Secrets are not stored, a file may not set what only the command line may set (`settled`), and classes must be
listed in `allowed` or come from packages that the user trusts.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.allowed import SLOTS, Slot
from sr_lab.config.overrides import LIMIT, WRITTEN, is_address, is_set
from sr_lab.config.schema import PATH_NAME, Config, EvaluateConfig, Node, StoredNetwork
from sr_lab.errors import ConfigError

_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|passphrase|credentials?|jwt)$", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@|[?&](\w*key|token|\w+_token|sig|signature|password)=", re.I)

# What a path in a file must not contain: a way out of the run folder, another file system, an environment
# variable, or a format that reads attributes ({step].__class__...}).
_LEADS_OUT = re.compile(r"^[/~]|(^|/)\.\.(/|$)|::|://|\$|[{}]")
_METRIC = re.compile(r"\{[A-Za-z][\w/]*(:[\w.]*)?\}")  # {val/psnr_y:.2f}
_IN_RUN_FOLDER = ("callbacks.", "logger.", "trainer.profiler.")


def settled(values: Node, own: Mapping[str, object], overrides: Sequence[str]) -> Node:
    """The same settings, with the typed paths of callbacks, loggers and the profiler made absolute.

    Such a path in a file stays below the run folder, where `below` puts it.

    Args:
        values: The resolved settings, or part of them.
        own: The folders in our own ``paths``, which a file may repeat.
        overrides: The command line.

    Raises:
        ConfigError: A setting is a secret, or a file sets what only the command line may set.
    """
    paths = values.get("paths")
    written = (*WRITTEN, *(("paths.data_dir",) if values.get("task") == "prepare" else ()))
    ours = {f"paths.{name}": folder for name, folder in own.items()}
    ours["dataset.cache_dir"] = paths.get("cache_dir") if isinstance(paths, Mapping) else None

    # Values of fewer than eight characters are not secrets, as in USE_TOKEN=false.
    secrets = [text for name, text in os.environ.items() if _SECRET.search(name) and len(text) >= 8]

    def leaf(place: str, value: object) -> object:
        _refuse_secret(place, value, secrets)
        name = place.rpartition(".")[2]
        inside = isinstance(value, str) and place.startswith(_IN_RUN_FOLDER) and name != "_target_"
        if is_set(place, overrides):
            is_path = inside and PATH_NAME.search(name)
            return str(Path(str(value)).expanduser().absolute()) if is_path else value
        for what, says in (
            ("allow a package", place == "allow"),
            ("raise this limit", place == LIMIT and value),
            ("set where files are written", place in written and value and value != ours.get(place)),
            ("name a server", is_address(value)),
            ("choose the owner of the runs", inside and name == "entity"),
            ("lead out of the run folder", inside and _LEADS_OUT.search(_METRIC.sub("", str(value)))),
        ):
            if says:
                raise ConfigError(
                    f"{place}: a file may not {what}, got {value!r}; set it on the command line"
                )
        return value

    return {key: _replaced(key, value, leaf) for key, value in values.items()}


def below(folder: Path, value: object) -> object:
    """The same description, with its relative paths placed below a folder."""

    def leaf(place: str, value: object) -> object:
        is_path = isinstance(value, str) and PATH_NAME.search(place.rpartition(".")[2])
        return str(folder / str(value)) if is_path else value

    return _replaced("", value, leaf)


def _replaced(place: str, value: object, leaf: Callable[[str, object], object]) -> object:
    """The same value, with each plain value in it replaced by what ``leaf`` returns for it and its key."""
    if isinstance(value, Mapping):
        return {key: _replaced(f"{place}.{key}", child, leaf) for key, child in value.items()}
    return (
        [_replaced(place, child, leaf) for child in value] if isinstance(value, list) else leaf(place, value)
    )


def _refuse_secret(place: str, value: object, known: Sequence[str]) -> None:
    """Refuse a secret: settings are stored in ``config.yaml``, reports and W&B, which other people read."""
    if not isinstance(value, str):
        return
    is_named = _SECRET.search(place.rpartition(".")[2])
    if is_named or _SECRET_URL.search(value) or any(text in value for text in known):
        what = "is" if is_named else "contains"
        raise ConfigError(
            f"{place}: {what} a secret, which would be stored; put keys and passwords in the environment "
            "(WANDB_API_KEY) or in ~/.netrc"
        )


def check_targets(config: Config) -> None:
    """Refuse descriptions of objects that are not allowed.

    Raises:
        ConfigError: See `targets.check`.
    """
    values = config.model_dump() | {"trainer": config.trainer.arguments()}
    for name, slot in SLOTS.items():
        for place, node in _nodes(values, slot):
            if node == {} and isinstance(config, EvaluateConfig):  # left out of its config.yaml
                continue
            targets.check(name, node, config.allow, place=place)


def stored_network(record: Mapping[str, object], source: str, allow: Sequence[str] = ()) -> StoredNetwork:
    """The network that a checkpoint names, checked like one that the user names.

    Args:
        record: What the checkpoint stores.
        source: The checkpoint, for error messages.
        allow: Packages that the command line trusts in addition to ours.

    Raises:
        ConfigError: The record is incomplete, or the network is not allowed.
    """
    own = {name: record.get(name) for name in StoredNetwork.model_fields}
    try:
        if not files.is_small(own):
            raise ValueError("it has too many values")
        stored = StoredNetwork.model_validate_json(json.dumps(own))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"'{source}' has no complete description of its network; give its state dict"
        ) from error
    for name, slot in SLOTS.items():
        for place, node in _nodes(stored.model_dump(), slot) if slot.stored else ():
            targets.check(name, node, allow, place=place)
    return stored


def _nodes(values: Node, slot: Slot) -> list[tuple[str, object]]:
    """The descriptions in a slot, each with its key; a slot may be empty (``factory: null``)."""
    group, _, rest = slot.place.partition(".")
    node = values.get(group)
    if not rest:
        return [(group, node)] if group else []
    assert isinstance(node, Mapping)  # the schema requires it
    if rest == "*":
        if isinstance(node.get("_target_"), str):
            raise ConfigError(
                f"{group}: each object needs a name; write {{<name>: {{_target_: {node['_target_']}, ...}}}}"
            )
        return [(f"{group}.{name}", child) for name, child in node.items()]
    return [(slot.place, node[rest])] if node.get(rest) is not None else []
