"""Initial values of weights in networks whose authors do not use torch's default."""

from typing import Literal, TypeAlias

from torch import nn

Fan: TypeAlias = Literal["fan_in", "fan_out", "fan_average"]


def msra_(*parts: nn.Module, fan: Fan = "fan_in") -> None:
    """Draw weights as Caffe's filler ``msra`` does (He et al., ICCV 2015), and set biases to zero.

    Args:
        *parts: Modules that contain the convolutions, plain or transposed.
        fan: What n counts in the standard deviation ``sqrt(2 / n)``: the inputs of each output value, the
            outputs of each input value, or the mean of both counts (Caffe's ``variance_norm``).
    """
    for module in (module for part in parts for module in part.modules()):
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        if fan == "fan_average":
            nn.init.xavier_normal_(module.weight, gain=2**0.5)
        else:
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
