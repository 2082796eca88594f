"""Loading weights into a network: under our names, in the folded form, or as far as they fit."""

import copy
from collections.abc import Mapping
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
    readings = [dict(state), without_prefix(state, WRAPPER_PREFIXES + TRAINER_PREFIXES)]
    tables = official_names(network)
    readings += [table.to_ours(reading, network) for table in tables for reading in readings[:2]]
    # Some authors name the folded form differently.
    return max(readings, key=lambda reading: max(len(reading.keys() & form.keys()) for form in forms))


def fit(network: nn.Module, forms: Forms, checkpoint: Checkpoint) -> tuple[bool, float]:
    """How well a checkpoint fits a network, which may be on the meta device.

    Args:
        network: The network.
        forms: What `forms_of` gives for it; folding a network takes long.
        checkpoint: The checkpoint.

    Returns:
        Whether names and shapes are those of one of the forms; the share of a form's names that are in the
        checkpoint, 0 to 1.
    """
    state = {name: value.shape for name, value in _named_as_ours(network, forms, checkpoint.state).items()}
    share = max(len(state.keys() & form.keys()) / max(1, len(form)) for form in forms)
    return state in forms, share


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load every weight exactly; the network is folded first if the file contains the folded form.

    Raises:
        CheckpointError: Weights are missing, unexpected, of another shape or type, or not finite.
    """
    forms = forms_of(network)
    state = _named_as_ours(network, forms, checkpoint.state)
    if any(state.keys() == folded.keys() for folded in forms[1:]):  # some authors publish this form
        fold(network)
    own = network.state_dict()
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
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise CheckpointError(
            f"ckpt: '{checkpoint.path}' does not fit {type(network).__name__}: {'; '.join(found)}; "
            "set model and scale to those of the checkpoint"
        )
    network.load_state_dict(state)


def _is_usable(value: Tensor, own: Tensor) -> bool:
    """Whether values are finite and of the network's kind; torch silently copies complex or integer ones."""
    same_kind = not value.is_complex() and value.is_floating_point() == own.is_floating_point()
    return same_kind and bool(torch.isfinite(value.to(own.dtype)).all())


def take_over(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Start from another network's weights: copy each weight whose name and shape fit.

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
