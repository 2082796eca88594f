"""Opening checkpoints: a run folder, a Lightning checkpoint of ours, safetensors, or an author's own file.

Nothing that is opened here can run code: pickles go through ``weights_only`` and are refused if they need
more.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from sr_lab.errors import CheckpointError

# Levels that authors put around their state dicts, in the order in which they are looked for.
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and how to build their network if the file says so.

    Args:
        path: The file.
        state: Weights by name.
        record: Plain configuration of the network (``model``, ``upsampler``, ``strategy``, ``scale``) in a
            checkpoint of ours, ``None`` for anything else.
    """

    path: Path
    state: dict[str, Tensor]
    record: dict[str, object] | None


def resolve(path: str, key: str = "ckpt") -> Path:
    """The file that a path means; of a run folder the best checkpoint, else the last.

    Raises:
        CheckpointError: There is none.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (given / "checkpoints" / name).is_file():
                return given / "checkpoints" / name
        raise CheckpointError(
            f"{key}: '{given}' holds no checkpoints/best.ckpt or last.ckpt; give a run folder or a file"
        )
    if not given.is_file():
        raise CheckpointError(f"{key}: there is no file '{given}'; give a checkpoint file or a run folder")
    return given


def open_checkpoint(path: str, key: str = "ckpt") -> Checkpoint:
    """Read a checkpoint without running anything in it.

    Args:
        path: Run folder or file.
        key: The setting that names it, for error messages.

    Raises:
        CheckpointError: The file is missing, damaged, would have to run code, or holds no weights.
    """
    file = resolve(path, key)
    try:
        if file.suffix == ".safetensors":
            return Checkpoint(file, safetensors.torch.load_file(file), None)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways, and each means the same to the user
        # Torch's own words would advise weights_only=False.
        raise CheckpointError(
            f"{key}: '{file}' is damaged or would have to run code to open, which is refused "
            f"({type(error).__name__}); save it again as a plain state dict or as safetensors"
        ) from error
    record = content.get("sr_lab") if isinstance(content, dict) else None
    if isinstance(record, dict) and isinstance(content.get("state_dict"), dict):
        prefix = "network."
        named = {str(key): value for key, value in content["state_dict"].items()}
        state = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
        return Checkpoint(file, state, record)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise CheckpointError(f"{key}: '{file}' holds no state dict of weights; give a file that does")
    return Checkpoint(file, {str(k).removeprefix("module."): v for k, v in content.items()}, None)


def _named_as_ours(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names; the table at the end of the network's file maps its authors'."""
    if set(state) == set(network.state_dict()):
        return dict(state)
    from_official = getattr(importlib.import_module(type(network).__module__), "from_official", None)
    return dict(state) if from_official is None else dict(from_official(state, scale=network.scale))


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load every weight, exactly.

    Raises:
        CheckpointError: What is missing, what is too much, what has another shape or is no number.
    """
    state, own = _named_as_ours(network, checkpoint.state), network.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    no_numbers = [name for name in own if name in state and _is_no_number(state[name], own[name])]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("too much", extra),
            ("of another shape", misshapen),
            ("no number", no_numbers),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"ckpt: '{checkpoint.path}' does not fit {type(network).__name__}: {'; '.join(problems)}; "
            "set model and scale to those of the checkpoint"
        )
    network.load_state_dict(state)


def _is_no_number(value: Tensor, own: Tensor) -> bool:
    """NaN, infinite, complex, or whole where a fraction belongs: copying it would go through in silence."""
    kinds_differ = value.is_complex() or value.is_floating_point() != own.is_floating_point()
    return kinds_differ or not bool(torch.isfinite(value).all())


def take_over(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Start from another network's weights: take each whose name and shape fit.

    Returns:
        Names of the network's weights that were not taken over.
    """
    state, own = _named_as_ours(network, checkpoint.state), network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(
            f"init_ckpt: no weight of '{checkpoint.path}' fits {type(network).__name__}; "
            "give a checkpoint of the same network"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
