"""Loading weights into a network: under our names, in the folded form, or as far as they fit."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.reading import TRAINER_PREFIXES, WRAPPER_PREFIXES, Checkpoint, without_prefix
from sr_lab.errors import CheckpointError
from sr_lab.layers.folding import fold
from sr_lab.ops.renaming import official_names

Forms: TypeAlias = tuple[dict[str, torch.Size], ...]


def forms_of(network: nn.Module) -> Forms:
    """Names and shapes of a network's weights, then those of its folded form if it has another."""
    forms = [network]
    if any(hasattr(module, "fold") for module in network.modules()):
        forms.append(fold(copy.deepcopy(network)))
    return tuple({name: value.shape for name, value in form.state_dict().items()} for form in forms)


def _named_as_ours(network: nn.Module, forms: Forms, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names; the tables at the end of the network's file map the authors' names."""
    if state.keys() == forms[0].keys():
        return dict(state)
    readings = [dict(state), _without_prefixes(state)]
    tables = official_names(network)
    readings += [table.to_ours(reading, network) for table in tables for reading in readings[:2]]
    # Some authors name the folded form differently.
    return max(readings, key=lambda reading: max(len(reading.keys() & form.keys()) for form in forms))


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the usual prefixes, and without a prefix that all names share (``sr_model.``)."""
    bare = without_prefix(state, WRAPPER_PREFIXES + TRAINER_PREFIXES)
    parts = [name.split(".")[:-1] for name in bare]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    start = sum(len(level[0]) + 1 for level in shared)
    return {name[start:]: value for name, value in bare.items()}


@dataclass(frozen=True)
class Likeness:
    """How closely the weights of a checkpoint match those of a network, in the nearest form.

    Args:
        fits: Whether names and shapes are equal.
        names: Share of their names that the checkpoint and the network have in common, 0 to 1.
        shapes: The same share, counting only names with equal shapes.
        num_shared: Number of names in common.
    """

    fits: bool
    names: float
    shapes: float
    num_shared: int


def likeness(network: nn.Module, forms: Forms, checkpoint: Checkpoint) -> Likeness:
    """Compare a checkpoint with a network, which may be on the meta device.

    Args:
        network: The network.
        forms: What `forms_of` returned for the network; passed in because folding is slow.
        checkpoint: The checkpoint.
    """
    state = {name: value.shape for name, value in _named_as_ours(network, forms, checkpoint.state).items()}

    def compared(form: Mapping[str, torch.Size]) -> Likeness:
        shared, every = state.keys() & form.keys(), max(1, len(state.keys() | form.keys()))
        same = sum(state[name] == form[name] for name in shared)
        return Likeness(state == form, len(shared) / every, same / every, len(shared))

    return max(map(compared, forms), key=lambda found: (found.names, found.shapes))


def load_weights(network: nn.Module, checkpoint: Checkpoint, *, key: str = "ckpt") -> None:
    """Load every weight exactly; the network is folded first if the file contains the folded form.

    Args:
        network: The network.
        checkpoint: The checkpoint.
        key: The setting that names the file, for error messages.

    Raises:
        CheckpointError: Weights are missing or unexpected, have a different shape or type, or are not finite.
    """
    forms = forms_of(network)
    state = _named_as_ours(network, forms, checkpoint.state)
    nearest = max(forms, key=lambda form: len(state.keys() & form.keys()))
    is_folded = nearest is not forms[0]  # some authors publish this form
    own = (fold(copy.deepcopy(network)) if is_folded else network).state_dict()
    shared = [name for name in own if name in state]
    same_shape = [name for name in shared if state[name].shape == own[name].shape]
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in shared
            if name not in same_shape
        ],
        "of another type or not finite": [
            name for name in same_shape if not _is_usable(state[name], own[name])
        ],
    }
    found = {what: names for what, names in problems.items() if names}
    if found:
        listed = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in found.items()
        )
        remedy = _REMEDIES.get(next(iter(found))) if len(found) == 1 else None
        raise CheckpointError(
            f"{key}: '{checkpoint.path}' does not fit {type(network).__name__}: {listed}; "
            f"{remedy or 'set model and scale to those of the checkpoint'}"
        )
    (fold(network) if is_folded else network).load_state_dict(state)


# What to do about a checkpoint with only one kind of problem.
_REMEDIES = {
    "missing": "set model and scale to those of the checkpoint, or use a complete file",
    "unexpected": "remove the unexpected weights from the file, or build the network that has them",
    "of another type or not finite": "use another copy of the file",
}


def _is_usable(value: Tensor, own: Tensor) -> bool:
    """Whether values are finite and of the network's kind; torch would convert complex and integer values."""
    same_kind = not value.is_complex() and value.is_floating_point() == own.is_floating_point()
    return same_kind and bool(torch.isfinite(value.to(own.dtype)).all())


def take_over(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Start from another network's weights: copy each weight whose name and shape match.

    Returns:
        Names of the network's weights that were not copied.

    Raises:
        CheckpointError: No weight fits.
    """
    state, own = _named_as_ours(network, forms_of(network), checkpoint.state), network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(
            f"init_ckpt: no weight of '{checkpoint.path}' fits {type(network).__name__}; "
            "give a checkpoint of the same network"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
