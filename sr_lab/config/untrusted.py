"""What a configuration or a checkpoint may not contain, since a stranger may have written it.

Secrets are not stored, classes come from packages that the user trusts, and paths stay inside the run folder.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.allowed import SLOTS, Slot
from sr_lab.config.overrides import LIMIT, WRITTEN, is_address, is_set
from sr_lab.config.schema import PATH_NAME, Config, EvaluateConfig, Node, StoredNetwork
from sr_lab.errors import ConfigError

_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|passphrase|credentials?|jwt)$", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@|[?&](\w*key|token|\w+_token|sig|signature|password)=", re.I)
_INSTEAD = "put keys and passwords in the environment (WANDB_API_KEY) or in ~/.netrc"


def refuse_secrets(value: object, place: str = "") -> None:
    """Refuse secrets, since what is composed goes into ``config.yaml``, reports and W&B, which others see.

    Raises:
        ConfigError: A key is named like a secret, or a value contains one, perhaps from the environment.
    """
    if isinstance(value, Mapping):
        for key, child in value.items():
            if _SECRET.search(str(key)) and isinstance(child, str):
                raise ConfigError(f"{place}{key}: is a secret and would be stored; {_INSTEAD}")
            refuse_secrets(child, f"{place}{key}.")
    elif isinstance(value, list):
        for child in value:
            refuse_secrets(child, place)
    elif isinstance(value, str):
        # At least eight characters: TOKENIZERS_PARALLELISM=false and the like are not secrets.
        known = (text for name, text in os.environ.items() if _SECRET.search(name) and len(text) >= 8)
        if _SECRET_URL.search(value) or any(text in value for text in known):
            raise ConfigError(f"{place[:-1]}: contains a secret, which would be stored; {_INSTEAD}")


def check_targets(config: Config, overrides: Sequence[str]) -> None:
    """Refuse what may not be built; only the command line can trust a package or point a path elsewhere.

    Raises:
        ConfigError: A file trusts a package, a path leads out of the run folder, or a target is refused by
            `targets.check`.
    """
    if config.allow and not any(override.lstrip("+").startswith("allow=") for override in overrides):
        raise ConfigError(
            f"allow: is set in a file, got {config.allow}; "
            "packages are trusted only on the command line (allow=[...]) or in SR_LAB_ALLOW"
        )
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
        ConfigError: The record is incomplete, or the network may not be built.
    """
    own = {name: record.get(name) for name in StoredNetwork.model_fields}
    try:
        if not files.is_small(own):
            raise ValueError("it has too many values")
        stored = StoredNetwork.model_validate_json(json.dumps(own), strict=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"'{source}' does not say which network it holds; give its state dict") from error
    for name, slot in SLOTS.items():
        for place, node in _nodes(stored.model_dump(), slot) if slot.stored else ():
            targets.check(name, node, allow, place=place)
    return stored


# What a path in a file may not contain: a way out of the run folder, another file system, an environment
# variable, or a format that reads attributes ({step].__class__...}).
_LEADS_OUT = re.compile(r"^[/~]|(^|/)\.\.(/|$)|::|://|\$|[{}]")
_METRIC = re.compile(r"\{[A-Za-z][\w/]*(:[\w.]*)?\}")  # {val/psnr_y:.2f}


def settle_paths(values: dict[str, object], overrides: Sequence[str]) -> None:
    """Check the paths of callbacks, loggers and the profiler, and replace the command line's paths in place.

    A path on the command line becomes absolute and may point anywhere. A path in a file must stay below the
    run folder, where `below` puts it.

    Raises:
        ConfigError: A path in a file leads out of the run folder.
    """

    def settled(place: str, value: object) -> object:
        if isinstance(value, dict):
            return {key: settled(f"{place}.{key}", child) for key, child in value.items()}
        if isinstance(value, list):
            return [settled(place, child) for child in value]
        if not isinstance(value, str):
            return value
        name = place.rpartition(".")[2]
        if is_set(place, overrides):
            return str(Path(value).expanduser().absolute()) if PATH_NAME.search(name) else value
        if name == "entity" or (name != "_target_" and _LEADS_OUT.search(_METRIC.sub("", value))):
            what = "decides who gets the runs" if name == "entity" else "leads out of the run folder"
            raise ConfigError(
                f"{place}: {what}, which a file may not do, got {value!r}; set it on the command line"
            )
        return value

    for group in ("callbacks", "logger"):
        values[group] = settled(group, values.get(group, {}))
    if isinstance(trainer := values.get("trainer"), dict) and "profiler" in trainer:
        trainer["profiler"] = settled("trainer.profiler", trainer["profiler"])


def refuse_places(values: Mapping[str, object], own: Mapping[str, object], overrides: Sequence[str]) -> None:
    """Refuse a file that says where files are written (`WRITTEN`).

    Args:
        values: The settings, or those of them that are known already.
        own: The folders in our own ``paths``, which a file may repeat.
        overrides: The command line.

    Raises:
        ConfigError: A setting is neither on the command line nor our own.
    """
    paths = values.get("paths")
    paths = paths if isinstance(paths, Mapping) else {}
    ours = {f"paths.{name}": folder for name, folder in own.items()}
    ours["dataset.cache_dir"] = paths.get("cache_dir")
    for key in (*WRITTEN, *(("paths.data_dir",) if values.get("task") == "prepare" else ())):
        group, _, name = key.rpartition(".")
        place = values.get(group) if group else values
        value = place.get(name) if isinstance(place, Mapping) else None
        if value and value != ours.get(key) and not is_set(key, overrides):
            what = "raise this limit" if key == LIMIT else "say where files are written"
            raise ConfigError(f"{key}: a file may not {what}, got {value!r}; set it on the command line")


def refuse_addresses(value: object, overrides: Sequence[str], place: str = "") -> None:
    """Refuse the address of a server in a file; only the command line may open a connection.

    Raises:
        ConfigError: A value is an address that the command line does not set.
    """
    if isinstance(value, Mapping):
        for key, child in value.items():
            refuse_addresses(child, overrides, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for child in value:
            refuse_addresses(child, overrides, place)
    elif is_address(value) and not is_set(place, overrides):
        raise ConfigError(f"{place}: a file may not name a server, got {value!r}; set it on the command line")


def below(folder: Path, value: object) -> object:
    """The same description, with its relative paths placed below a folder."""
    if isinstance(value, Mapping):
        return {
            key: str(folder / child)
            if isinstance(child, str) and PATH_NAME.search(key)
            else below(folder, child)
            for key, child in value.items()
        }
    return [below(folder, child) for child in value] if isinstance(value, list) else value


def _nodes(values: Node, slot: Slot) -> list[tuple[str, object]]:
    """The descriptions in a slot, each with its key; a slot may be empty (``factory: null``)."""
    group, _, rest = slot.place.partition(".")
    node = values.get(group)
    if not rest:
        return [(group, node)] if group else []
    assert isinstance(node, Mapping)  # the schema says so
    if rest == "*":
        if isinstance(node.get("_target_"), str):
            raise ConfigError(
                f"{group}: each of them needs a name; write {{<name>: {{_target_: {node['_target_']}, ...}}}}"
            )
        return [(f"{group}.{name}", child) for name, child in node.items()]
    return [(slot.place, node[rest])] if node.get(rest) is not None else []
