"""The networks of ``conf/model`` by name, and which of them a checkpoint fits."""

import functools
from dataclasses import dataclass

import torch
from omegaconf import OmegaConf
from torch import nn

from sr_lab.checkpoints.reading import Checkpoint, fits, load_weights, shared_names
from sr_lab.config import targets
from sr_lab.config.hydra_guard import conf_dir
from sr_lab.config.schema import Node
from sr_lab.errors import CheckpointError, ConfigError

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
            elif shared_names(network, checkpoint) < 0.5:  # nor will it at another scale
                break
    return found


def nearest(checkpoint: Checkpoint) -> Entry | None:
    """The network that a checkpoint has most names of, to say what keeps it from fitting."""
    entries = [Entry(option, scale) for option in options() for scale in SCALES]
    likeness = {entry: shared_names(_on_meta(entry), checkpoint) for entry in entries}
    best = max(entries, key=lambda entry: likeness[entry])
    return best if likeness[best] > 0 else None


def recognised(checkpoint: Checkpoint, scale: int | None, *, key: str) -> Entry:
    """The one network whose weights a checkpoint holds.

    Args:
        checkpoint: A file that does not say itself what it holds.
        scale: The scale that the user wants, ``None`` for that of the file.
        key: The setting that names the file, for error messages.

    Raises:
        CheckpointError: It fits none, and what is missing or too much; or it fits several.
    """
    fitting_any = fitting(checkpoint)
    entries = [entry for entry in fitting_any if scale in (None, entry.scale)]
    if len(entries) == 1:
        return entries[0]
    names = " or ".join(map(str, fitting_any))
    if len(entries) > 1:
        raise CheckpointError(f"{key}: '{checkpoint.path}' fits more than one network; choose {names}")
    if fitting_any:
        raise CheckpointError(f"{key}: '{checkpoint.path}' does not fit scale={scale}; choose {names}")
    close = nearest(checkpoint)
    if close is None:
        raise CheckpointError(
            f"{key}: '{checkpoint.path}' fits no network of conf/model, and none has a weight of these names "
            f"({', '.join(list(checkpoint.state)[:3])}, ...); build the network and load them yourself"
        )
    try:
        load_weights(close.build(), checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (the nearest is {close}; no network fits)") from error
    raise AssertionError("a checkpoint that loads fits")
