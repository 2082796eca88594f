"""Feature maps and attention as images."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from sr_lab.analysis.stages import record
from sr_lab.errors import ConfigError

# Modules that return their input times an attention, and modules that return the attention itself. A user's
# own module is found if its class has one of these names.
GAINS = ("CA", "CCA", "SA", "ESA", "PA", "WSILBV", "CAM")
WEIGHTS = ("CC", "GAB", "MSWA", "DRACB")


@dataclass(frozen=True)
class Attention:
    """The attention of one module.

    Args:
        name: The module's name in the network.
        kind: Its class, e.g. ``ESA``.
        map: ``(H, W)``: the factor by which each pixel is multiplied, over all channels.
    """

    name: str
    kind: str
    map: Tensor


def mean_map(features: Tensor) -> Tensor:
    """Mean magnitude over the channels of the first image, ``(N, C, H, W)`` -> ``(H, W)``."""
    return features[0].abs().mean(0)


def strongest(features: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """The highest-variance channels of the first image: their numbers and maps ``(H, W)``."""
    energy = features[0].flatten(1).var(1, unbiased=False)
    numbers = energy.argsort(descending=True)[:count].tolist()
    return [(number, features[0, number]) for number in numbers]


def attention(network: nn.Module, lr: Tensor, *, only: Collection[str] = ()) -> list[Attention]:
    """What each attention module of a network does to each pixel.

    The attention of a module that multiplies is found from its input and output, by least squares over the
    channels: ``sum(in * out) / sum(in * in)``, so a module needs no extra code for it. The attention of a
    module that returns weights is their mean over the channels.

    Args:
        network: Any network with modules of the classes in `GAINS` and `WEIGHTS`.
        lr: ``(1, C, h, w)`` in [0, 1].
        only: Classes to show; all of them if empty.

    Raises:
        ConfigError: The network has no module of these classes.
    """
    wanted = set(only) or {*GAINS, *WEIGHTS}
    named = {
        name: module
        for name, module in network.named_modules()
        if type(module).__name__ in wanted and type(module).__name__ in (*GAINS, *WEIGHTS)
    }
    if not named:
        present = {type(module).__name__ for module in network.modules()} & {*GAINS, *WEIGHTS}
        has = f"it has {', '.join(sorted(present))}" if present else "it has no attention of these kinds"
        raise ConfigError(f"analyze: {type(network).__name__} has none of {', '.join(sorted(wanted))}; {has}")
    found = []
    for stage in record(network, lr, named):
        kind, output = type(named[stage.module]).__name__, stage.output[0]
        if kind in GAINS and stage.output.shape == stage.input.shape:
            own = stage.input[0].double()
            map_ = ((own * output).sum(0) / own.square().sum(0).clamp_min(1e-20)).float()
        else:
            map_ = output.abs().mean(0)
        found.append(Attention(stage.name, kind, map_.expand(stage.output.shape[-2:])))
    return found
