"""Networks of the published sizes, for counting only."""

from collections.abc import Callable

import torch
from torch import nn


def on_meta(network: Callable[..., nn.Module], **settings: object) -> nn.Module:
    """A network whose weights have names and shapes but no values: nothing is drawn or stored."""
    with torch.device("meta"):
        return network(**settings)
