"""Weights under another naming, for checkpoints that a network's authors published."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from torch import Tensor

# Pattern and replacement; ``None`` drops a weight that has no counterpart (a frozen mean shift, a buffer).
KeyRule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str] | None]

# torch's older and newer names of a weight-normalised convolution's length and direction.
WEIGHT_NORM: tuple[KeyRule, ...] = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)

# Enhanced spatial attention, as RFDN and the networks after it name it.
ESA_KEYS: tuple[KeyRule, ...] = (
    (r"\.esa\.conv1\.", ".esa.squeeze."),
    (r"\.esa\.conv2\.", ".esa.shrink.0."),
    (r"\.esa\.conv_max\.", ".esa.context.0."),
    (r"\.esa\.conv3\.", ".esa.context.2."),
    (r"\.esa\.conv3_\.", ".esa.context.4."),
    (r"\.esa\.conv_f\.", ".esa.skip."),
    (r"\.esa\.conv4\.", ".esa.excite.0."),
)


def rename(state: Mapping[str, Tensor], rules: Iterable[KeyRule]) -> dict[str, Tensor]:
    """Apply every rule to every name, in their order.

    Args:
        state: Weights by name.
        rules: Regular expressions, searched for anywhere in a name, and what replaces a match.

    Returns:
        The same tensors under their new names, without those that a rule drops.
    """
    rules = tuple(rules)
    renamed = {}
    for name, tensor in state.items():
        new_name: str | None = name
        for pattern, replacement in rules:
            if replacement is None:
                new_name = None if re.search(pattern, str(new_name)) else new_name
            else:
                new_name = re.sub(pattern, replacement, str(new_name))
            if new_name is None:
                break
        else:
            renamed[str(new_name)] = tensor
    return renamed
