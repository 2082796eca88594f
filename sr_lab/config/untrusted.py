"""What a configuration or a checkpoint may not say, since a stranger may have written it.

Secrets are not stored, classes come from packages that the user trusts, and paths stay inside the run folder.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import Config, Node, StoredNetwork
from sr_lab.errors import ConfigError

# Arguments that the code passes to a target itself, by slot; a configuration may not set them.
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
                # a training is shortened by its budget, which the table shows
                "fast_dev_run", "limit_train_batches", "limit_val_batches", "limit_test_batches",
                "overfit_batches", "max_time", "min_steps", "min_epochs", "barebones"),
}  # fmt: skip

_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|passphrase|credentials?|jwt)$", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@|[?&](\w*key|token|\w+_token|sig|signature|password)=", re.I)
_INSTEAD = "put keys and passwords in the environment (WANDB_API_KEY) or in ~/.netrc"


def refuse_secrets(value: object, place: str = "") -> None:
    """Refuse secrets: what is composed goes into ``config.yaml``, reports and W&B, which others see.

    Raises:
        ConfigError: A key is named like a secret, or a value holds one or a secret of the environment.
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
            raise ConfigError(f"{place[:-1]}: holds a secret, which would be stored; {_INSTEAD}")


def check_targets(config: Config, overrides: Sequence[str]) -> None:
    """Refuse what may not be built; only the command line can trust a package or lead a path elsewhere.

    Raises:
        ConfigError: A file trusts a package, a path leads out of the run folder, or a target is refused by
            `targets.check`.
    """
    if config.allow and not any(override.lstrip("+").startswith("allow=") for override in overrides):
        raise ConfigError(
            f"allow: is set in a file, got {config.allow}; "
            "packages are trusted only on the command line (allow=[...]) or in SR_LAB_ALLOW"
        )
    for group in ("callbacks", "logger"):
        _refuse_outside_paths(group, getattr(config, group), overrides)
    trusted = targets.trusted_packages(config.allow)
    values = config.model_dump() | {"trainer": config.trainer.arguments()}
    for slot, kind in targets.KINDS.items():
        for name, node in _slot_nodes(values, slot):
            targets.check(name, node, trusted=trusted, supplied=_SUPPLIED.get(slot, ()), kind=kind)


def stored_network(record: Mapping[str, object], source: str, allow: Sequence[str] = ()) -> StoredNetwork:
    """The network that a checkpoint names, checked like what a user names.

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
    packages = targets.trusted_packages(allow)
    trusted = tuple(name for name in packages if name == "sr_lab" or name not in targets.TRUSTED)
    for slot in ("model", "upsampler.factory", "strategy.apply"):
        for name, node in _slot_nodes(stored.model_dump(), slot):
            targets.check(name, node, trusted=trusted, supplied=_SUPPLIED[slot], kind=targets.KINDS[slot])
    return stored


def _refuse_outside_paths(place: str, value: object, overrides: Sequence[str]) -> None:
    """Refuse paths with which a stranger's callback or logger would overwrite files elsewhere."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            _refuse_outside_paths(f"{place}.{key}", child, overrides)
    elif isinstance(value, list):
        for child in value:
            _refuse_outside_paths(place, child, overrides)
    elif isinstance(value, str):
        leads_out = value[:1] in ("/", "~") or ".." in Path(value).parts
        if leads_out and not is_set(place, overrides):
            raise ConfigError(
                f"{place}: leads out of the run folder, which a file may not do, got {value!r}; "
                "set it on the command line"
            )


def _slot_nodes(values: Node, slot: str) -> list[tuple[str, object]]:
    """The configured nodes of a slot with their places; empty slots (``factory: null``) are left out."""
    group, _, rest = slot.partition(".")
    node = values[group]
    if not rest:
        return [(slot, node)]
    assert isinstance(node, Mapping)  # the schema says so
    if rest == "*":
        return [(f"{group}.{name}", child) for name, child in node.items()]
    return [(slot, node[rest])] if node.get(rest) is not None else []
