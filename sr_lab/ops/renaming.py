"""Translate names of weights between our networks and the checkpoints that authors published."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from torch import Tensor, nn

from sr_lab.layers.network import scale_of

# Maps the authors' path of a part to our path, with a nested table where names inside the part differ too.
# ``None`` marks a weight that the network here does not have (a constant, a mask).
Names: TypeAlias = "Mapping[str, str | tuple[str, Names] | None]"

_Weights: TypeAlias = Mapping[str, Tensor]

# torch's old and new names for the length and direction of a weight-normalised convolution.
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


@dataclass(frozen=True)
class OfficialNames:
    """How the authors of a network, or of a port of it, name its weights.

    The paths of ``names`` are matched segment by segment from the start of a weight's name, and the first
    matching path is replaced; the rest of the name stays, or is looked up in the nested table. ``{i}`` stands
    for a number that both sides share, and ``{i+1}`` and ``{2i+3}`` for numbers computed from it.

    Args:
        names: The authors' paths and ours, for every part of the network.
        counts: Letters that stand for a fixed number: ``{"n": "body"}`` makes ``{n}`` the number of modules
            in the network's ``body``. ``{r}`` is the scale.
        prepare: Converts a file's tensors, still under the authors' names, to the tensors of our network.
            Unlike ``names``, ``prepare`` has no inverse.
    """

    names: Names
    counts: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[_Weights], _Weights] | None = None

    def to_ours(self, state: _Weights, network: nn.Module) -> dict[str, Tensor]:
        """A file's weights, under the names used in ``network``.

        A name in no table is left unchanged. Names that would get the same new name are left unchanged too: a
        stepwise tail has more convolutions at x4 than at x2, and each must be reported as not fitting.
        """
        prepared = state if self.prepare is None else self.prepare(state)
        known = self._known(network)
        renamed: dict[str, str | None] = {}
        for name in prepared:
            try:
                renamed[name] = _renamed(_leaf(name, _WEIGHT_NORM), self.names, known, back=False)
            except KeyError:
                renamed[name] = name
        while shared := _shared(renamed):  # an unchanged name may equal another weight's new name
            renamed |= {name: name for name in shared}
        return {ours: prepared[name] for name, ours in renamed.items() if ours is not None}

    def to_theirs(self, state: _Weights, network: nn.Module) -> dict[str, Tensor]:
        """The weights of ``network``, under the authors' names.

        Raises:
            KeyError: The authors have no name for a weight, or the same name for two weights.
        """
        known = self._known(network)
        older = {newer: older for older, newer in _WEIGHT_NORM.items()}
        renamed = {name: _renamed(_leaf(name, older), self.names, known, back=True) for name in state}
        if shared := _shared(renamed):
            raise KeyError(*shared)
        return {str(theirs): state[name] for name, theirs in renamed.items()}

    def _known(self, network: nn.Module) -> dict[str, int]:
        """The numbers that the letters of ``counts`` stand for."""
        names = network.state_dict().keys() if self.counts else ()
        known = {"r": scale_of(network) or 0}
        for letter, place in self.counts.items():
            pattern = re.compile(rf"{re.escape(place)}\.(\d+)\.")
            known[letter] = 1 + max((int(m[1]) for name in names if (m := pattern.match(name))), default=-1)
        return known


def official_names(network: nn.Module) -> tuple[OfficialNames, ...]:
    """``OFFICIAL_NAMES`` at the end of a network's file: one table of names, or several naming schemes."""
    tables: Names | tuple[OfficialNames, ...]
    tables = getattr(sys.modules[type(network).__module__], "OFFICIAL_NAMES", ())
    return tables if isinstance(tables, tuple) else (OfficialNames(tables),)


def official_state(network: nn.Module) -> dict[str, Tensor] | None:
    """A network's weights under the authors' names; ``None`` if the authors have no such form."""
    state = network.state_dict()
    for table in official_names(network):
        try:
            return table.to_theirs(state, network)
        except KeyError:
            continue
    return None


def _shared(renamed: Mapping[str, str | None]) -> list[str]:
    """The old names of weights that would share their new name with another weight."""
    counts = Counter(renamed.values())
    return [old for old, new in renamed.items() if new not in (None, old) and counts[new] > 1]


def _renamed(name: str, names: Names, known: Mapping[str, int], *, back: bool) -> str | None:
    """Rename a weight with one table; ``None`` if the table leaves the weight out.

    Raises:
        KeyError: No path of the table matches.
    """
    for theirs, entry in names.items():
        ours, inner = entry if isinstance(entry, tuple) else (entry, None)
        old, new = (ours, theirs) if back else (theirs, ours)
        found = None if old is None else _match(old, name, known)
        if found is None:
            continue
        if new is None:
            return None
        values, rest = found
        place = _SLOT.sub(lambda slot: str(_value(slot.groups(), values)), new)  # noqa: B023 (called at once)
        inside = rest if not rest or inner is None else _renamed(rest, inner, known, back=back)
        return None if inside is None else f"{place}.{inside}" if inside else place
    raise KeyError(name)


_SLOT = re.compile(r"\{(\d*)([a-z])([+-]\d+)?\}")  # {2i+3}: factor, letter, summand


def _value(slot: tuple[str, ...], values: Mapping[str, int]) -> int:
    factor, letter, summand = slot
    return int(factor or 1) * values[letter] + int(summand or 0)


def _match(path: str, name: str, known: Mapping[str, int]) -> tuple[dict[str, int], str] | None:
    """The numbers in a name that begins with a path, and the part of the name after the path."""
    pattern, slots = _compiled(path)
    found = pattern.match(name)
    if found is None:
        return None
    values = dict(known)
    for (factor, letter, summand), digits in zip(slots, found.groups(), strict=True):
        value, remainder = divmod(int(digits) - int(summand or 0), int(factor or 1))
        if remainder or value < 0 or values.setdefault(letter, value) != value:
            return None
    return values, name[found.end() :]


@cache
def _compiled(path: str) -> tuple[re.Pattern[str], list[tuple[str, str, str]]]:
    """A path as a pattern with a group for each slot, and its slots."""
    literals = _SLOT.split(path)[:: 1 + _SLOT.groups]
    return re.compile(r"(\d+)".join(map(re.escape, literals)) + r"(?:\.|$)"), _SLOT.findall(path)


def _leaf(name: str, leaves: Mapping[str, str]) -> str:
    """A name with its last part replaced, if the table contains that part."""
    for old, new in leaves.items():
        if name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name


# Names that several networks share.

CA_NAMES: Names = {"conv_du": "excite"}

_ESA_NAMES: Names = {"conv1": "squeeze", "conv2": "shrink.0", "conv_f": "skip", "conv4": "excite.0"}
ESA_NAMES: Names = {
    **_ESA_NAMES,
    "conv_max": "context.0",
    "conv3": "context.2",
    "conv3_": "context.4",
}
RLFN_ESA_NAMES: Names = {**_ESA_NAMES, "conv3": "context.0"}

# An edge branch of an ECB (ECBSR, RepRFN); its filter is a constant here.
EDGE_NAMES: Names = {
    "k0": "conv.weight",
    "b0": "conv.bias",
    "scale": "strength",
    "bias": "bias",
    "mask": None,
}

# The transformer over 3x3 patches (ESRT, LBNet).
ET_NAMES: Names = {
    "atten": "attention",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "norm{i}": "norm{i}",
}

# A local fusion block (AWSRN, LAPAR), and the multi-scale convolutions of AWSRN, LAPAR and MAFFSRN.
LFB_NAMES: Names = {
    "b{i}": ("units.{i}", {"body": "residual", "res_scale": "res_scale", "x_scale": "x_scale"}),
    "reduction": "fusion",
    "res_scale": "res_scale",
    "x_scale": "x_scale",
}
AWMS_NAMES: Names = {"tail_k{2i+3}": "convs.{i}", "scale_k{2i+3}": "scales.{i}"}

# The tails of EDSR and PAN and of the networks that reuse them.
EDSR_TAIL_NAMES: Names = {"tail.1": "tail.{t-1}", "tail.0": "tail"}
PA_TAIL_NAMES: Names = {
    "upconv{i+1}": "tail.stages.{i}.1",
    "att{i+1}": "tail.stages.{i}.2",
    "HRconv{i+1}": "tail.stages.{i}.4",
    "conv_last": "tail.last",
}

# BasicSR's names around the blocks of EDSR and RCAN (github.com/XPixelGroup/BasicSR, Apache-2.0).
BASICSR_NAMES: Names = {
    "conv_first": "head",
    "conv_after_body": "fusion",
    "conv_last": "tail.{t-1}",
    "upsample": "tail",
}
