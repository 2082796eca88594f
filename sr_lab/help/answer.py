"""The answer to ``--help``: the groups and examples, or the pages of the options on the command line."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_lab.config.overrides import given_to, key_of
from sr_lab.files import printable
from sr_lab.help import experiment, layout, option, page
from sr_lab.help.page import Composed

_MAX_DEPTH = 20  # an interpolation can lead back to what contains it


def answer(job: DictConfig, hydra_node: HydraConf) -> str:
    """The text that ``--help`` prints.

    Args:
        job: The composed configuration without Hydra's node.
        hydra_node: Hydra's node.
    """
    found = pages(job, hydra_node)
    if not found:
        return overview(job, hydra_node, _places(hydra_node))
    return "\n\n\n".join("\n".join(lines) for _, lines in found)


def pages(job: DictConfig, hydra_node: HydraConf) -> list[tuple[str, list[str]]]:
    """``group=option`` and the lines of the page of each option on the command line; see `answer`."""
    places = _places(hydra_node)
    choices = {
        str(group): str(name) for group, name in hydra_node.runtime.choices.items() if name is not None
    }
    typed = dict.fromkeys(key_of(override) for override in given_to(hydra_node))
    sweeper = cast("dict[str, Any]", OmegaConf.to_container(hydra_node.sweeper, resolve=False))
    composed = Composed(
        values=cast("dict[str, object]", _plain(job)),
        raw=cast("dict[str, object]", OmegaConf.to_container(job, resolve=False)),
        choices=choices,
        places=places,
        params=sweeper.get("params") or {},
        typed=list(typed),
    )
    return [
        (
            f"{group}={choices[group]}",
            (experiment.of if group == "experiment" else page.of)(composed, group, choices[group]),
        )
        for group in typed
        if group in choices
    ]


def _places(hydra_node: HydraConf) -> list[Path]:
    return option.folders((each.schema, each.path) for each in hydra_node.runtime.config_sources)


def overview(job: DictConfig, hydra_node: HydraConf, places: Sequence[Path]) -> str:
    """Every group with its options, and the examples of ``conf/config.yaml``."""
    lines: list[str] = []
    for group, names in option.groups(places).items():
        lines += layout.wrapped(f"{group}: {', '.join(names)}", hanging=2)
    template = string.Template(str(hydra_node.help.template))
    text = template.safe_substitute(APP_CONFIG_GROUPS="\n".join([*lines, ""]), CONFIG=OmegaConf.to_yaml(job))
    return printable(text)


def _plain(node: object, depth: int = 0) -> object:
    """The node as plain values; an interpolation that cannot be resolved stays as it is written."""
    if isinstance(node, DictConfig) and depth < _MAX_DEPTH:
        return {str(key): _plain(_value(node, key), depth + 1) for key in node}
    if isinstance(node, ListConfig) and depth < _MAX_DEPTH:
        return [_plain(_value(node, index), depth + 1) for index in range(len(node))]
    return node


def _value(node: DictConfig | ListConfig, key: Any) -> object:
    try:
        return node[key]
    except OmegaConfBaseException:
        raw = OmegaConf.to_container(node, resolve=False)
        return raw[key] if isinstance(raw, (dict, list)) else None
