"""Opening checkpoints: a run folder, a Lightning checkpoint of ours, safetensors, or an author's own file.

Nothing that is opened here can run code: pickles go through ``weights_only`` and are refused if they need
more.
"""

import copy
import errno
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import scipy.io
import torch
from torch import Tensor, nn

from sr_lab.checkpoints import digest
from sr_lab.errors import CheckpointError, FaultError
from sr_lab.layers.folding import fold
from sr_lab.ops.renaming import official_names

# Levels that authors put around their state dicts, in the order in which they are looked for: averaged
# weights are the published ones.
_MAX_WRAPPERS = 5
_MAX_MATLAB = 64 * 2**20  # VDSR, the one network that is published in this format, has 3 MiB
_WRAPPERS = ("params_ema", "ema", "params", "state_dict", "model_state_dict", "model", "net", "generator")
# What DataParallel and torch.compile put before every name, and what trainers do; but a network's own names
# may begin like the latter (IMDN-RTC's do).
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_TRAINER_PREFIXES = ("model.", "network.", "generator.", "net.", "net_g.")


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
        FaultError: The disk cannot read it.
    """
    file = resolve(path, key)
    content = _read(file, key)
    record = content.get("sr_lab") if isinstance(content, dict) else None
    if isinstance(record, dict) and isinstance(content.get("state_dict"), dict):
        prefix = "network."
        named = {str(key): value for key, value in content["state_dict"].items()}
        state = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
        if not all(map(is_plain, state.values())):
            raise CheckpointError(f"{key}: '{file}' holds no state dict of weights; give a file that does")
        return Checkpoint(file, state, record)
    for _ in range(_MAX_WRAPPERS):  # a pickle may hold itself
        wrapper = isinstance(content, dict) and next(
            (name for name in _WRAPPERS if isinstance(content.get(name), dict)), None
        )
        if not wrapper:
            break
        content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(map(is_plain, content.values())):
        raise CheckpointError(f"{key}: '{file}' holds no state dict of weights; give a file that does")
    state = {str(name): value for name, value in content.items()}
    return Checkpoint(file, _without_prefix(state, _WRAPPER_PREFIXES), None)


def _read(file: Path, key: str) -> Any:
    """What is in a file, whichever of the formats it has."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix == ".mat":
            return _matlab_state(file, key)
        if digest.is_damaged(file):
            raise CheckpointError(
                f"{key}: '{file}' is damaged, its SHA-256 is another than when it was written; "
                "take another checkpoint"
            )
        if zipfile.is_zipfile(file):
            _check_zip(file)
        with warnings.catch_warnings(action="ignore"):  # torch's own words would advise weights_only=False
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files fail in many ways, and each means the same to the user
        # A disk that fails says nothing about the file; EINVAL is where a damaged one has sent its reader.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise FaultError(
                f"{key}: cannot read '{file}': {error.strerror}; mend that and start again, or do without it"
            ) from error
        raise CheckpointError(
            f"{key}: '{file}' is damaged or would have to run code to open, which is refused "
            f"({type(error).__name__}); save it again as a plain state dict or as safetensors"
        ) from error


def _check_zip(file: Path) -> None:
    """Torch stores its entries as they are, each once: others are a bomb, or show two readers two contents.

    Raises:
        ValueError: They are others.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError("no archive of torch's")


def is_plain(value: object) -> bool:
    """Whether it is a tensor whose numbers are all there: a few bytes can claim to be a terabyte."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _without_prefix(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Without what stands before every name."""
    state = dict(state)
    while state and (prefix := next((p for p in prefixes if all(n.startswith(p) for n in state)), None)):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _check_matlab(file: Path) -> None:
    """Unpack as far as the limit, and no further, what SciPy would unpack whole.

    Raises:
        ValueError: It is larger.
    """
    content = file.read_bytes()
    place = 128  # behind the header
    room = _MAX_MATLAB
    while len(content) >= place + 8 and room >= 0:
        kind, size = struct.unpack_from("<II", content, place)
        part = content[place + 8 : place + 8 + size]
        room -= len(zlib.decompressobj().decompress(part, room + 1)) if kind == 15 else len(part)
        place += 8 + size
    if room < 0:
        raise ValueError(f"more than {_MAX_MATLAB} bytes")


def _matlab_state(file: Path, key: str) -> dict[str, Tensor]:
    """The cell arrays of a MATLAB struct ``model`` as ``<field>.<index>``, e.g. VDSR's ``weight.0``."""
    _check_matlab(file)
    content = scipy.io.loadmat(file)
    model = content.get("model")
    if model is None or not model.dtype.names:
        names = ", ".join(name for name in content if not name.startswith("__"))
        raise CheckpointError(
            f"{key}: '{file}' has no struct 'model' of cell arrays, got {names}; "
            "allowed in MATLAB's format: VDSR's, with its weight and bias; save others as a state dict"
        )
    return {
        f"{field}.{index}": torch.from_numpy(array.copy())
        for field in model.dtype.names
        for index, array in enumerate(model[field].item().ravel())
    }


def _named_as_ours(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names; the tables at the end of its file map its authors'."""
    own = network.state_dict().keys()
    if state.keys() == own:
        return dict(state)
    readings = [dict(state), _without_prefix(state, _WRAPPER_PREFIXES + _TRAINER_PREFIXES)]
    tables = official_names(network)
    readings += [table.to_ours(reading, network) for table in tables for reading in readings[:2]]
    folded = _folded(network) if len(tables) > 1 else None  # which some authors name in another way
    forms = [own] if folded is None else [own, folded.state_dict().keys()]
    return max(readings, key=lambda reading: max(len(reading.keys() & form) for form in forms))


def _folded(network: nn.Module) -> nn.Module | None:
    """A folded copy, or ``None`` of a network that has nothing to fold."""
    if any(hasattr(module, "fold") for module in network.modules()):
        return fold(copy.deepcopy(network))
    return None


def fits(network: nn.Module, checkpoint: Checkpoint) -> bool:
    """Whether names and shapes are those of a network, folded or not; it may be on the meta device."""
    state = {name: value.shape for name, value in _named_as_ours(network, checkpoint.state).items()}
    if state == {name: value.shape for name, value in network.state_dict().items()}:
        return True
    folded = _folded(network)
    return folded is not None and state == {name: v.shape for name, v in folded.state_dict().items()}


def shared_names(network: nn.Module, checkpoint: Checkpoint) -> float:
    """Share of a network's weights, folded or not, that are in a checkpoint by their names, 0 to 1."""
    state = _named_as_ours(network, checkpoint.state).keys()
    forms = [form.state_dict().keys() for form in (network, _folded(network)) if form is not None]
    return max(len(state & names) / max(1, len(names)) for names in forms)


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load every weight, exactly; into the folded network if the file holds that.

    Raises:
        CheckpointError: What is missing, what is too much, what has another shape or is no number.
    """
    state = _named_as_ours(network, checkpoint.state)
    folded = _folded(network)
    if folded is not None and state.keys() == folded.state_dict().keys():  # as some authors publish theirs
        fold(network)
    own = network.state_dict()
    common = [name for name in own if name in state]
    problems = {
        "missing": [name for name in own if name not in state],
        "too much": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in common
            if state[name].shape != own[name].shape
        ],
        "no number": [
            name
            for name in common
            if state[name].shape == own[name].shape and _is_no_number(state[name], own[name])
        ],
    }
    said = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if said:
        raise CheckpointError(
            f"ckpt: '{checkpoint.path}' does not fit {type(network).__name__}: {'; '.join(said)}; "
            "set model and scale to those of the checkpoint"
        )
    network.load_state_dict(state)


def _is_no_number(value: Tensor, own: Tensor) -> bool:
    """NaN, infinite, complex, or whole where a fraction belongs: copying it would go through in silence."""
    kinds_differ = value.is_complex() or value.is_floating_point() != own.is_floating_point()
    return kinds_differ or not bool(torch.isfinite(value.to(own.dtype)).all())


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
