"""Both strategies of "Two Strategies for Lightweight Image SR" at once."""

from torch import nn

from sr_lab.strategies import cwss, ggas


def apply(model: nn.Module, *, kernel_size: int = 7, init: float = 0.9) -> nn.Module:
    """Add GGAS and CWSS to a host, see `sr_lab.strategies.ggas.apply` and `sr_lab.strategies.cwss.apply`.

    Args:
        model: A network with ``head``, ``body`` and ``tail``.
        kernel_size: Kernel size of the attention block of GGAS; the paper uses 7.
        init: Initial value of the factors of CWSS; the paper uses 0.9.
    """
    return cwss.apply(ggas.apply(model, kernel_size=kernel_size), init=init)
