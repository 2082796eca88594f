"""Networks of published size, used only for counting."""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import nn


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Build networks whose weights have names and shapes but no values, so no random values are drawn."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        for layer in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):  # even on meta, drawing takes half the time
            stack.enter_context(mock.patch.object(layer, "reset_parameters"))
        yield


def on_meta(network: Callable[..., nn.Module], **settings: object) -> nn.Module:
    """Build a network without weight values, in evaluation mode."""
    with unfilled():
        return network(**settings).eval()
