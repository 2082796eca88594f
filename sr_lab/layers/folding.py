"""From the form that a network is trained in to the one that it runs in."""

from torch import nn


def fold(network: nn.Module) -> nn.Module:
    """Fold, in place, every part that has a cheaper form of the same value (its own ``fold()``).

    Branches of re-parameterised convolutions become one convolution, batch norms go into their neighbours.
    Papers count the folded network. It is for inference: training goes on only from the unfolded one.

    Args:
        network: Any network; one without such parts stays as it is.

    Returns:
        The same network.
    """
    for module in list(network.modules()):
        own = getattr(module, "fold", None)
        if callable(own):
            own()
    return network
