"""The attributes that describe a network, and their defaults."""

from collections.abc import Iterable

from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.types import NetworkColour, Rule


class SRNetwork(nn.Module):
    """Base class of the networks in `sr_lab.models`, with four attributes that the rest of the program reads.

    Your own network can be any ``nn.Module``. The functions below read these attributes from any network, and
    use this class's default for a missing one.

    Args:
        scale: Upscaling factor r.
    """

    colour: NetworkColour = "rgb"
    min_size: int = 1  # smallest height and width of an LR image, in pixels
    multi_adds_rule: Rule = "all"  # how the network's paper counts multiply-adds
    scale: int

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale


def colour_of(network: nn.Module) -> NetworkColour:
    """The colours that a network upscales: ``rgb``, ``y`` (luma) or ``any``."""
    colour: NetworkColour = getattr(network, "colour", SRNetwork.colour)
    return colour


def num_image_ch(network: nn.Module) -> int:
    """Number of image channels that a network takes: 1 for luma, else 3."""
    return 1 if colour_of(network) == "y" else 3


def min_size_of(network: nn.Module) -> int:
    """Smallest height and width of an LR image that a network takes, in pixels."""
    return int(getattr(network, "min_size", SRNetwork.min_size))


def multi_adds_rule_of(network: nn.Module) -> Rule:
    """How a network's paper counts multiply-adds."""
    rule: Rule = getattr(network, "multi_adds_rule", SRNetwork.multi_adds_rule)
    return rule


def scale_of(network: nn.Module) -> int | None:
    """Upscaling factor of a network, or ``None`` if it has no ``scale``."""
    scale: int | None = getattr(network, "scale", None)
    return scale if isinstance(scale, int) else None


def check_choice(owner: str, setting: str, value: object, *allowed: str) -> None:
    """Refuse a network setting whose value is not allowed.

    Raises:
        ConfigError: If the value is not allowed; the message names the setting, its value and the allowed
            values.
    """
    if value not in allowed:
        raise ConfigError(f"{owner}: got {setting}={value}; allowed: {', '.join(allowed)}")


def through(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The output of a chain of blocks."""
    for block in blocks:
        x = block(x)
    return x


def stages_of(blocks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """The output of each block of a chain."""
    stages = []
    for block in blocks:
        x = block(x)
        stages.append(x)
    return stages
