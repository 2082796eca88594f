"""Sizes and multiply-adds of the networks that papers compare, and how each paper counted what it prints.

``multi_adds.csv`` has, for each ``model=`` and scale, our count of parameters and of all operations at
1280x720, and each printed number with its rule. A test repeats every count.
"""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sr_lab.reporting import published
from sr_lab.reporting.published import Figure

UNKNOWN = "rule not checked: the network is not implemented here"
# What a printed number counts; other values of the column ``counted`` need no explanation.
RULES: Mapping[str, str] = {
    "all": "all operations at 1280x720",
    "conv": "weights of convolutions times positions at 1280x720; no linear layers, no attention",
    "torchinfo": "torchinfo's count at 1280x720: convolutions at every position, other layers' weights once",
    "op_counter": "an early pytorch-OpCounter's count on an LR image of 192x192",
}
_SAME_SIZE = 0.05  # parameter counts printed for one network differ by less, those of its variants by more


class Size(NamedTuple):
    """What a network costs by our count.

    Args:
        num_params: Number of parameters.
        multi_adds: All operations at an output of 1280x720.
        also: A second number of parameters that papers print for the network, if any. CARN has a
            second number because its checkpoint contains the tails of all scales.
    """

    num_params: int
    multi_adds: int
    also: float | None

    def fits(self, printed: float) -> bool:
        """Whether a printed number of parameters belongs to the network, not to a variant."""
        own = (self.num_params, *([] if self.also is None else [self.also]))
        return any(abs(printed - count) <= _SAME_SIZE * count for count in own)


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (Path(__file__).parent / "multi_adds.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines(), strict=True))


@functools.cache
def size(model: str, scale: int | None) -> Size | None:
    """Our count for a network that papers compare; ``None`` for any other network."""
    same = (row for row in _rows() if (row["model"], row["scale"]) == (model, str(scale)))
    row = next(same, None)
    if row is None:
        return None
    also = float(row["also_printed_k"]) * 1e3 if row["also_printed_k"] else None
    return Size(int(row["num_params"]), int(row["multi_adds"]), also)


def rule(figure: Figure) -> str:
    """How printed multiply-adds were counted, for a footnote."""
    of_model = [row for row in _rows() if row["model"] == figure.model and row["counted"]]
    exact = (row for row in of_model if (row["scale"], row["printed"]) == (str(figure.scale), figure.text))
    # The variants in an ablation are counted like the network itself.
    usual = (row for row in of_model if row["counted"] in RULES)
    found = next(exact, None) or next(usual, None)
    counted = found["counted"] if found else UNKNOWN
    return RULES.get(counted, counted)


@functools.cache
def comparisons() -> tuple[Figure, ...]:
    """The numbers of tables that compare networks, without rows whose size is not that of the network."""
    sizes = {_row(f): f.value * 1e3 for f in published.comparisons() if f.metric == "num_params_k"}

    def is_same(figure: Figure) -> bool:
        own, printed = size(figure.model, figure.scale), sizes.get(_row(figure))
        return own is None or printed is None or own.fits(printed)

    return tuple(figure for figure in published.comparisons() if is_same(figure))


@functools.cache
def _printed_names() -> Mapping[str, str]:
    """``model=`` -> the one-word name that most papers print; longer names say how a row was trained."""
    labels: dict[str, list[str]] = {}
    for figure in comparisons():
        if " " not in figure.row:
            labels.setdefault(figure.model, []).append(figure.row)
    return {model: max(own, key=own.count) for model, own in labels.items()}


def printed_name(model: str) -> str:
    """A network as papers write it: ``OSFFNet`` for ``osffnet``, ``CARN-M`` for ``carn_m``."""
    return _printed_names().get(model, model.replace("_", "-").upper())


def printed_multi_adds(model: str, scale: int | None, num_params: float) -> Figure | None:
    """The multiply-adds that most papers print for a network of this size; ``None`` if no paper does."""
    own = size(model, scale)
    if own is None or not own.fits(num_params):
        return None
    found = [f for f in comparisons() if (f.model, f.scale, f.metric) == (model, scale, "multi_adds_g")]
    values = [figure.value for figure in found]
    return max(found, key=lambda figure: values.count(figure.value)) if found else None


def psnr(model: str, scale: int, set_name: str) -> float | None:
    """The PSNR in dB that most papers print for a network (in a tie the highest), or ``None`` if none do."""
    values = [
        figure.value
        for figure in comparisons()
        if (figure.model, figure.scale, figure.set_name) == (model, scale, set_name)
        and figure.metric == "psnr_y"
    ]
    return max(values, key=lambda value: (values.count(value), value)) if values else None


def _row(figure: Figure) -> tuple[str, str, str, int | None]:
    return figure.paper, figure.table, figure.row, figure.scale
