"""What the command line says: the keys of its overrides."""

from collections.abc import Sequence


def key_of(override: str) -> str:
    """``model.num_feat`` of ``+model.num_feat=8``; for the override of a group, the group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def is_set(key: str, overrides: Sequence[str]) -> bool:
    """Whether the command line itself sets a key or part of it."""
    return any(f"{key_of(override)}.".startswith(f"{key}.") for override in overrides)


def by_group(overrides: Sequence[str]) -> dict[str, str]:
    """The groups and top-level settings that the command line names, each with its last override."""
    return {key_of(override).partition(".")[0]: override for override in overrides}
