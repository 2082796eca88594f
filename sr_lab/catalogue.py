"""The networks of ``conf/model`` by name, and which of them a checkpoint fits."""

import functools
from dataclasses import dataclass

import torch
from omegaconf import OmegaConf
from torch import nn

from sr_lab import targets
from sr_lab.checkpoints import Checkpoint, fits, shares_names
from sr_lab.config import Node, conf_dir
from sr_lab.errors import ConfigError

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class Entry:
    """A network at one scale.

    Args:
        option: What ``model=`` takes.
        scale: Upscaling factor.
    """

    option: str
    scale: int

    def __str__(self) -> str:
        return f"model={self.option} scale={self.scale}"

    def node(self) -> Node:
        """Its resolved configuration, with the network's own tail."""
        path = conf_dir() / "model" / f"{self.option}.yaml"
        if not path.is_file():
            near = targets.did_you_mean(self.option, options())
            raise ConfigError(
                f"model: there is no option '{self.option}'; allowed: {', '.join(options())}{near}"
            )
        composed = OmegaConf.create(
            {"model": OmegaConf.load(path), "scale": self.scale, "upsampler": {"factory": None}}
        )
        resolved = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(resolved, dict)
        node: Node = resolved["model"]
        return node

    def build(self, **settings: object) -> nn.Module:
        """The network with fresh weights.

        Args:
            settings: Arguments of its class instead of those of the option.

        Raises:
            ConfigError: There is no such option, or the network refuses the scale or a setting.
        """
        network: nn.Module = targets.build({**self.node(), **settings})
        return network


def options() -> list[str]:
    """Every network that ``model=`` takes, sorted."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


@functools.cache
def _on_meta(entry: Entry) -> nn.Module:
    """A network whose weights have names and shapes but no values."""
    with torch.device("meta"):
        return entry.build()


def fitting(checkpoint: Checkpoint) -> list[Entry]:
    """Networks whose names and shapes of weights are those of a checkpoint, official names included."""
    found = []
    for option in options():
        for entry in (Entry(option, scale) for scale in SCALES):
            network = _on_meta(entry)
            if fits(network, checkpoint):
                found.append(entry)
            elif not shares_names(network, checkpoint):  # nor will it at another scale
                break
    return found
