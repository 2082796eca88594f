"""The networks of ``conf/model`` by name, and which of them a checkpoint fits."""

import functools
from dataclasses import dataclass

import torch
from torch import nn

from sr_lab.checkpoints.reading import Checkpoint
from sr_lab.checkpoints.weights import Forms, fit, forms_of, load_weights
from sr_lab.config import targets
from sr_lab.config.compose import model_node, model_options
from sr_lab.errors import CheckpointError

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class Entry:
    """A network at one scale."""

    option: str  # value of model=
    scale: int

    def __str__(self) -> str:
        return f"model={self.option} scale={self.scale}"

    def build(self, **settings: object) -> nn.Module:
        """The network with fresh weights; ``settings`` replace those of the option.

        Raises:
            ConfigError: There is no such option, or the network refuses the scale or a setting.
        """
        network: nn.Module = targets.build("model", {**model_node(self.option, self.scale), **settings})
        return network


@functools.cache
def _on_meta(entry: Entry) -> tuple[nn.Module, Forms]:
    """A network whose weights have names and shapes but no values."""
    with torch.device("meta"):
        network = entry.build()
    return network, forms_of(network)


def fitting(checkpoint: Checkpoint) -> list[Entry]:
    """The networks whose weights match a checkpoint's in name and shape; official names match too."""
    found = []
    for option in model_options():
        for entry in (Entry(option, scale) for scale in SCALES):
            fits, share = fit(*_on_meta(entry), checkpoint)
            if fits:
                found.append(entry)
            elif share < 0.5:  # it will not fit at another scale either
                break
    return found


def nearest(checkpoint: Checkpoint) -> Entry | None:
    """The network that shares the most names with a checkpoint, to explain why it does not fit."""
    entries = [Entry(option, scale) for option in model_options() for scale in SCALES]
    likeness = {entry: fit(*_on_meta(entry), checkpoint)[1] for entry in entries}
    best = max(entries, key=lambda entry: likeness[entry])
    return best if likeness[best] > 0 else None


def recognised(checkpoint: Checkpoint, scale: int | None, *, key: str) -> Entry:
    """The one network whose weights a checkpoint contains.

    Args:
        checkpoint: A file that does not describe its network.
        scale: The scale that the user asked for, ``None`` for the file's own scale.
        key: The setting that names the file, for error messages.

    Raises:
        CheckpointError: The checkpoint fits no network (the message lists what is missing), or several.
    """
    any_scale = fitting(checkpoint)
    entries = [entry for entry in any_scale if scale in (None, entry.scale)]
    if len(entries) == 1:
        return entries[0]
    names = " or ".join(map(str, any_scale))
    if len(entries) > 1:
        raise CheckpointError(f"{key}: '{checkpoint.path}' fits more than one network; choose {names}")
    if any_scale:
        raise CheckpointError(f"{key}: '{checkpoint.path}' does not fit scale={scale}; choose {names}")
    close = nearest(checkpoint)
    if close is None:
        raise CheckpointError(
            f"{key}: '{checkpoint.path}' fits no network of conf/model, and its weights have unknown names "
            f"({', '.join(list(checkpoint.state)[:3])}, ...); build the network and load the weights yourself"
        )
    try:
        load_weights(close.build(), checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (the nearest is {close}; no network fits)") from error
    raise AssertionError("a checkpoint was loaded into a network that it does not fit")
