"""Channel-wise scaling strategy (CWSS; "Two Strategies for Lightweight Image SR", Sec. 2.3)."""

import torch
from torch import Tensor, nn

from sr_lab.strategies.host import attach, num_feat_of, residual_units_of


class Scale(nn.Module):
    """One factor alpha for each channel (Eq. 8).

    Args:
        num_feat: Channels (C).
        init: First value of alpha; below 1 it shrinks the variance of the features.

    Shape:
        ``(N, C, H, W)`` -> the same.
    """

    def __init__(self, num_feat: int, *, init: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((num_feat, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        """``alpha * x``."""
        return x * self.alpha

    def scale_input(self, unit: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hook of a residual unit; a bound method, which a deepcopy of the host binds to its own copy."""
        return (self(inputs[0]), *inputs[1:])


class CWSS(nn.Module):
    """Scales what goes into every residual unit of a host, for its identity and its residual alike (Eq. 8).

    Args:
        units: Number of residual units.
        num_feat: Channels that go into each of them.
        init: First value of alpha.
    """

    def __init__(self, units: int, num_feat: int, *, init: float = 0.9) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Scale(num_feat, init=init) for _ in range(units))

    def watch(self, units: list[nn.Module]) -> None:
        """Hang the hooks."""
        for unit, scale in zip(units, self.scales, strict=True):
            assert isinstance(scale, Scale)
            unit.register_forward_pre_hook(scale.scale_input)


def apply(model: nn.Module, *, init: float = 0.9) -> nn.Module:
    """Give a host the strategy.

    Args:
        model: A network with ``residual_units``, or whose ``body`` consists of them.
        init: First value of alpha; the paper uses 0.9, with twice the host's learning rate.

    Returns:
        The same network, with ``model.strategy.cwss``.

    Raises:
        ConfigError: The network has no such parts, or a strategy already.
    """
    units = residual_units_of(model)
    strategy = CWSS(len(units), num_feat_of(model), init=init)
    attach(model, "cwss", strategy)
    strategy.watch(units)
    return model
