"""Channel-wise scaling strategy (CWSS; "Two Strategies for Lightweight Image SR", Sec. 2.3)."""

import torch
from torch import Tensor, nn

from sr_lab.strategies.host import attach, num_feat_of, residual_units_of


class Scale(nn.Module):
    """One factor alpha for each channel (Eq. 8).

    Args:
        num_feat: Channels (C).
        init: Initial value of alpha; a value below 1 reduces the variance of the features.

    Shape:
        ``(N, C, H, W)`` -> the same shape.
    """

    def __init__(self, num_feat: int, *, init: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((num_feat, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        """``alpha * x``."""
        return x * self.alpha

    def scale_input(self, unit: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hook of a residual unit. It is a bound method, so that a deepcopy of the host gets its own hook."""
        return (self(inputs[0]), *inputs[1:])


class CWSS(nn.Module):
    """Scales the input of every residual unit of a host, for both the identity and the residual (Eq. 8).

    Args:
        units: Number of residual units.
        num_feat: Channels of a unit's input.
        init: Initial value of alpha.
    """

    def __init__(self, units: int, num_feat: int, *, init: float = 0.9) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Scale(num_feat, init=init) for _ in range(units))

    def watch(self, units: list[nn.Module]) -> None:
        """Register the hooks."""
        for unit, scale in zip(units, self.scales, strict=True):
            assert isinstance(scale, Scale)
            unit.register_forward_pre_hook(scale.scale_input)


def apply(model: nn.Module, *, init: float = 0.9) -> nn.Module:
    """Add the strategy to a host.

    Args:
        model: A network with ``residual_units``, or one whose ``body`` consists of residual units.
        init: Initial value of alpha; the paper uses 0.9, with twice the host's learning rate.

    Returns:
        The same network, with ``model.strategy.cwss``.

    Raises:
        ConfigError: If the network has no such parts, or already has the strategy.
    """
    units = residual_units_of(model)
    strategy = CWSS(len(units), num_feat_of(model), init=init)
    attach(model, "cwss", strategy)
    strategy.watch(units)
    return model
