"""The overrides of the command line: the keys that they set, and those that no file may set."""

import typing
from collections.abc import Sequence

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

# LIMIT, and the settings that say where files are written; those of callbacks, loggers and the profiler are
# not listed. Only the command line may change the defaults of these settings. The same holds for
# paths.data_dir with task=prepare, which writes there.
LIMIT = "max_pixels"  # protects against untrusted images
WRITTEN = (
    *("paths.output_dir", "paths.cache_dir", "dataset.cache_dir"),
    *("output", "overwrite", "runs", "write_results", "store", "at", LIMIT),
)


def given_to(hydra_node: DictConfig | HydraConf) -> list[str]:
    """The overrides as they were typed, with their interpolations left unresolved."""
    task = OmegaConf.to_container(typing.cast(DictConfig, hydra_node.overrides.task), resolve=False)
    return typing.cast("list[str]", task)


def typed_again(overrides: Sequence[str]) -> list[str]:
    """The overrides that must be typed again to start a job from its ``config.yaml``.

    These are the overrides that no file may contain, and those whose value is a server's address. The choice
    of a group's option, ``allow`` and ``hydra`` are passed on in other ways.
    """
    elsewhere = ("~", "hydra")
    typed = [given for given in overrides if not given.lstrip("+").startswith(elsewhere)]
    kept = [
        given
        for given in typed
        if is_address(given) or (only_typed(given) and ("." in key_of(given) or "={" in given))
    ]
    return [f"++{given.lstrip('+')}" for given in kept]


def only_typed(override: str) -> bool:
    """Whether only the command line may set this, e.g. which packages are trusted or where files go."""
    key = key_of(override).strip().replace("/", ".")
    profiles = key == "trainer" or key.startswith("trainer.profiler")
    top = key.partition(".")[0]
    return profiles or key in WRITTEN or top in ("allow", "hydra", "paths", "callbacks", "logger", *WRITTEN)


def is_address(value: object) -> bool:
    """Whether a value is the address of a server (``https://``, ``s3://``)."""
    return isinstance(value, str) and "://" in value


def key_of(override: str) -> str:
    """The key of an override, e.g. ``model.num_feat`` of ``+model.num_feat=8``; for an option, its group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def is_set(key: str, overrides: Sequence[str]) -> bool:
    """Whether the command line sets a key, a key inside it, or a dictionary around it (``a={b: 1}``)."""
    return any(
        f"{key_of(override)}.".startswith(f"{key}.")
        or ("={" in override and f"{key}.".startswith(f"{key_of(override)}."))
        for override in overrides
    )


def by_group(overrides: Sequence[str]) -> dict[str, str]:
    """The groups and top-level settings that the command line names, each with its last override."""
    return {key_of(override).partition(".")[0]: override for override in overrides}
