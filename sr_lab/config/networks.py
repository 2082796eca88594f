"""The networks of ``conf/model``: the options of ``model=`` and their settings."""

import functools
import typing

from omegaconf import OmegaConf

from sr_lab.config.hydra_guard import check_file, check_size
from sr_lab.config.schema import Node
from sr_lab.errors import ConfigError, did_you_mean
from sr_lab.files import conf_dir


def model_options() -> list[str]:
    """Every network that ``model=`` accepts, sorted."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def model_node(option: str, scale: int) -> Node:
    """The resolved configuration of a network in ``conf/model``, with its own tail.

    Raises:
        ConfigError: No network has that name, or its file does not pass `check_size` or `check_file`.
    """
    options = model_options()
    if option not in options:
        near = did_you_mean(option, options)
        raise ConfigError(f"model: there is no option '{option}'; allowed: {', '.join(options)}{near}")
    path = conf_dir() / "model" / f"{option}.yaml"
    check_size(path)
    loaded = OmegaConf.load(path)
    check_file(path, loaded)
    composed = OmegaConf.create({"model": loaded, "scale": scale, "upsampler": {"factory": None}})
    resolved = typing.cast("dict[str, Node]", OmegaConf.to_container(composed, resolve=True))
    return resolved["model"]


def option_of(model: Node, scale: int) -> str:
    """The option of ``model=`` that has a network's settings apart from the tail, or the network's class."""
    return listed_option(model, scale) or str(model["_target_"]).rpartition(".")[2].lower()


def listed_option(model: Node, scale: int) -> str | None:
    """The option of ``model=`` that has a network's settings apart from the tail; ``None`` without one."""
    own = {key: value for key, value in model.items() if key != "upsampler"}
    for option, listed in _model_nodes(scale).items():
        if {key: value for key, value in listed.items() if key != "upsampler"} == own:
            return option
    return None


@functools.cache
def _model_nodes(scale: int) -> dict[str, Node]:
    return {option: model_node(option, scale) for option in model_options()}
