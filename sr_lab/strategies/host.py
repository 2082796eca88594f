"""What a strategy needs from its host, and where the strategy's parameters are stored."""

from collections.abc import Iterable
from typing import cast

import torch._dynamo
from torch import nn

from sr_lab.errors import ConfigError


def _part(model: nn.Module, name: str) -> nn.Module:
    part = getattr(model, name, None)
    if not isinstance(part, nn.Module):
        raise ConfigError(
            f"strategy: {type(model).__name__} has no {name}, and a strategy needs head, body and tail; "
            "set strategy=none"
        )
    return part


def body_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a host, in the order in which they run.

    Raises:
        ConfigError: If the host has no body, or an empty one.
    """
    blocks = list(cast(Iterable[nn.Module], _part(model, "body")))
    if not blocks:
        raise ConfigError(
            f"strategy: {type(model).__name__} has no blocks to gate or scale; allowed: strategy=none"
        )
    return blocks


def residual_units_of(model: nn.Module) -> list[nn.Module]:
    """The modules whose input CWSS scales: ``residual_units``, or else the body; tied modules count once.

    Raises:
        ConfigError: If the network has no such modules.
    """
    own = cast("Iterable[nn.Module] | None", getattr(model, "residual_units", None))
    units = list(dict.fromkeys(body_of(model) if own is None else own))
    if not units:
        raise ConfigError(
            f"strategy: {type(model).__name__} has no residual units to scale; allowed: strategy=none or ggas"
        )
    return units


def num_feat_of(model: nn.Module) -> int:
    """Number of channels of the shallow features, i.e. of the head's last convolution."""
    convolutions = [part for part in _part(model, "head").modules() if isinstance(part, nn.Conv2d)]
    return convolutions[-1].out_channels


def attach(model: nn.Module, name: str, strategy: nn.Module) -> None:
    """Register a strategy as ``model.strategy.<name>``.

    Raises:
        ConfigError: If the model already has this strategy, or lacks a head, body or tail.
    """
    for part in ("head", "body", "tail"):
        _part(model, part)
    # By default torch reuses compiled code for another network of the same class without checking its hooks,
    # so a host with this strategy could silently run as one without it.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    if not hasattr(model, "strategy"):
        model.strategy = nn.ModuleDict()
    strategies = cast(nn.ModuleDict, model.strategy)
    if name in strategies:
        raise ConfigError(f"strategy: {type(model).__name__} already has {name}; apply it once")
    strategies[name] = strategy
