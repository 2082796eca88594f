"""Networks of published size, used only for counting."""

from collections.abc import Callable

import torch
from torch import nn


def on_meta(network: Callable[..., nn.Module], **settings: object) -> nn.Module:
    """Build a network whose weights have names and shapes but no values, so nothing is drawn or stored."""
    with torch.device("meta"):
        return network(**settings)
