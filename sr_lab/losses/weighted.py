"""A sum of losses."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError


class WeightedLoss(nn.Module):
    """Sum of losses, each with a weight; ``metrics.csv`` has a column ``train/loss/<name>`` for each.

    Args:
        terms: ``{name: {weight: a number, loss: a loss}}``; a name consists of letters, digits and ``_``.

    Shape:
        sr and hr ``(N, C, H, W)`` -> a scalar.

    Raises:
        ConfigError: There is no term, or a term has no loss or no weight above 0.
    """

    last: Tensor  # the terms of the latest batch, each times its weight, ``(terms,)``

    def __init__(self, terms: Mapping[str, Mapping[str, object]]) -> None:
        super().__init__()
        if not terms:
            raise ConfigError(
                "loss.terms: has no term; set loss.terms.<name>={weight: 1, loss: {_target_: ...}}"
            )
        losses, weights = {}, []
        for name, term in terms.items():
            if not re.fullmatch(r"\w+", name):
                raise ConfigError(
                    f"loss.terms: a name must consist of letters, digits and _, got {name!r}; rename it"
                )
            weight, loss = (
                term.get(key) if isinstance(term, Mapping) else None for key in ("weight", "loss")
            )
            numeric = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not isinstance(loss, nn.Module) or set(term) != {"weight", "loss"}:
                raise ConfigError(
                    f"loss.terms.{name}: must have a weight and a loss with a _target_, got {term}"
                )
            if not numeric or not 0 < float(str(weight)) < math.inf:
                raise ConfigError(f"loss.terms.{name}.weight: must be a number above 0, got {weight!r}")
            losses[name] = loss
            weights.append(float(str(weight)))
        self.losses = nn.ModuleDict(losses)
        self.weights = weights

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms, in the order of ``last``."""
        return tuple(self.losses)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare two batches of images of the same shape."""
        pairs = zip(self.weights, self.losses.values(), strict=True)
        terms = torch.stack([weight * loss(sr, hr).float() for weight, loss in pairs])
        self.last = terms.detach()
        return terms.sum()
