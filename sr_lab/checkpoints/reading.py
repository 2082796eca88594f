"""Reads the weights in checkpoint files: our own Lightning checkpoints, safetensors, or an author's own file.

Nothing that is opened here can run code: pickles go through ``weights_only`` and are refused if they need
more.
"""

import contextlib
import errno
import json
import math
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, _weights_only_unpickler

from sr_lab import files
from sr_lab.checkpoints import fetching
from sr_lab.checkpoints.formats import is_safetensors, is_text, refuse_foreign
from sr_lab.errors import CheckpointError, FaultError
from sr_lab.run_folder import checkpoint_file
from sr_lab.zoo import published, shipped

_MAX_WRAPPERS = 5
_NETWORK = "network."  # prefix of the network's weights in our own checkpoints
_FOLDER = 0x10  # attribute of a folder in an archive; torch would ignore its content
# MATLAB's format: two types of elements, two classes of arrays, a flag, and NumPy's names for numbers.
_MATRIX, _PACKED, _CELLS, _STRUCT, _COMPLEX = 14, 15, 1, 2, 8
_MATLAB_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}
_MATLAB_FLOATS = {6: "f8", 7: "f4"}  # classes of floating-point arrays; the file may store integers
_MAX_MATLAB = 64 * 2**20  # VDSR, the only network published in this format, has 3 MiB
# Keys under which authors put their state dicts, in the order of search: averaged weights come first, since
# they are the published ones. Other programs write "<key>.<name>" instead, as safetensors has no nested
# dicts.
_WRAPPERS = (
    *("params_ema", "params-ema", "ema", "model_ema", "ema_model", "generator_ema", "g_ema"),
    *("ema_state_dict", "state_dict_ema", "params", "state_dict", "model_state_dict", "model_state", "model"),
    *("network", "net", "net_g", "netG", "net_G", "generator", "weights"),
)
# What pickles of weights and training states may name. torch would also call functions that turn a few bytes
# into any amount of memory: bytearray(2**40), encode(encode(..., "hex"), "hex"), Tensor(<nested lists>).
_NAMED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)"
    r"|torch\.([a-z]\w*|Size|(cuda\.)?\w+Storage)|torch\.storage\.(Typed|Untyped)Storage"
    r"|torch\._utils\._rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?)"
)
_naming = threading.Lock()
# Prefixes that DataParallel and torch.compile add to every name, and prefixes that trainers add. A network's
# own names may begin with a trainer's prefix (IMDN-RTC's do).
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
TRAINER_PREFIXES = tuple(f"{name}." for name in _WRAPPERS)


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and the description of their network if the file has one."""

    path: Path
    state: dict[str, Tensor]
    record: dict[str, object] | None  # `StoredNetwork` as plain values in our own checkpoints


def open_checkpoint(
    path: str, key: str = "ckpt", note: Callable[[str], object] = lambda _: None
) -> Checkpoint:
    """Read a checkpoint without running anything in it.

    Args:
        path: Run folder, file, or name of published weights (``zoo/rlfn_x4``), which are downloaded.
        key: The setting that names it, for error messages.
        note: Called with a sentence before a download, and if the file has several sets of weights or stores
            them in half precision.

    Raises:
        CheckpointError: The file is missing or damaged, cannot be opened without running code, or contains no
            weights.
        FaultError: The file cannot be read because of a disk fault.
    """
    weights = published.named(path, key)
    file = checkpoint_file(path, key) if weights is None else fetching.provide(weights, key, note)
    content = _read(file, key)
    record = content.get("sr_lab") if isinstance(content, dict) else None
    if isinstance(record, dict) and isinstance(content.get("state_dict"), dict):
        named = {str(key): value for key, value in content["state_dict"].items()}
        state = {
            key.removeprefix(_NETWORK): value for key, value in named.items() if key.startswith(_NETWORK)
        }
        if not all(map(is_plain, state.values())):
            raise CheckpointError(f"{key}: '{file}' holds no state dict of weights; give a file with one")
        _say_precision(file, state, note)
        return Checkpoint(file, state, record)
    for _ in range(_MAX_WRAPPERS):
        sets = [] if _is_state(content) else _sets_of_weights(content)
        if not sets:
            break
        if len(sets) > 1:
            first, *others = map(str, sets[:4])
            several = f"'{file}' holds several sets of weights"
            if first not in _WRAPPERS:
                raise CheckpointError(f"{key}: {several} ({', '.join([first, *others])}); save one of them")
            note(f"{several}; {first} is used, not {' or '.join(others)}")
        content = content[sets[0]]
    if not _is_state(content):
        raise CheckpointError(f"{key}: '{file}' holds no state dict of weights; give a file with one")
    state = {str(name): value for name, value in content.items()}
    if len(state) < len(content):
        raise CheckpointError(
            f"{key}: '{file}' has two weights with the same name; rename one and save it again"
        )
    _say_precision(file, state, note)
    return Checkpoint(file, without_prefix(state, WRAPPER_PREFIXES), None)


def _is_state(content: object) -> bool:
    """Whether this is a state dict: tensors by name."""
    return isinstance(content, dict) and bool(content) and all(map(is_plain, content.values()))


def _sets_of_weights(content: object, seen: set[int] | None = None, depth: int = _MAX_WRAPPERS) -> list[Any]:
    """The keys of a dict under which there are weights; the usual ones first, in the order of search.

    Args:
        content: The content of a file.
        seen: The dicts already searched; a dict in a pickle may contain itself, or contain another dict a
            million times.
        depth: How deep to look.
    """
    if not isinstance(content, dict) or "param_groups" in content:  # an optimizer has tensors too
        return []
    seen, found = set() if seen is None else seen, []
    for name, value in content.items():
        if _is_state(value):
            found.append(name)
        elif isinstance(value, dict) and depth > 1 and id(value) not in seen:
            seen.add(id(value))
            if _sets_of_weights(value, seen, depth - 1):
                found.append(name)
    return sorted(found, key=lambda name: _WRAPPERS.index(name) if name in _WRAPPERS else len(_WRAPPERS))


def _say_precision(file: Path, state: Mapping[str, Tensor], note: Callable[[str], object]) -> None:
    """Say that weights were rounded to half precision or lower when they were saved."""
    if file.parent == shipped.FOLDER:  # the PSNR and SSIM in their cards are for the rounded weights
        return
    rounded = [value.dtype for value in state.values() if value.is_floating_point() and value.itemsize < 4]
    if rounded:
        kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in rounded}))
        note(
            f"'{file}' holds {len(rounded)} of its {len(state)} weights in half precision ({kinds}); "
            "they were rounded when saved, and computation is in float32"
        )


def _read(file: Path, key: str) -> Any:
    """The content of a file in any of the formats."""
    try:
        refuse_foreign(file, key)
        if file.suffix == ".mat":
            return _matlab_state(file, key)
        if is_safetensors(file) or file.suffix == ".safetensors":
            return _safetensors(file)
        if zipfile.is_zipfile(file):
            _check_zip(file, key)
        with warnings.catch_warnings(action="ignore"), file.open("rb") as opened, _only_weights():
            # torch's own message would advise weights_only=False
            content = torch.load(opened, map_location="cpu", weights_only=True)
            if not zipfile.is_zipfile(file) and opened.read(1):
                raise CheckpointError(f"{key}: '{file}' has bytes after its end; download or copy it again")
            return content
    except CheckpointError:
        raise
    except Exception as error:  # reading a damaged file fails in many ways, which all mean the same
        # A disk error says nothing about the file, except EINVAL, which wrong positions in the file cause.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise FaultError(
                f"{key}: cannot read '{file}': {error.strerror}; "
                "correct that and start again, or use another file"
            ) from error
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))  # the name that a pickle asks for
        kind = type(error).__name__
        what = f"is damaged, or opening it would run code, so it is refused ({kind})"
        if needs:
            what = f"is refused, since opening it would run code ({needs[1]})"
        elif is_text(file):
            raise CheckpointError(
                f"{key}: '{file}' is a text file, not a checkpoint; "
                "give a .ckpt, .pt, .pth or .safetensors file"
            ) from error
        elif isinstance(error, safetensors.SafetensorError):
            raise CheckpointError(
                f"{key}: '{file}' is damaged ({kind}); download or copy it again"
            ) from error
        raise CheckpointError(
            f"{key}: '{file}' {what}; save it again as a plain state dict or as safetensors"
        ) from error


def _safetensors(file: Path) -> dict[str, Any]:
    """Weights by name; a file from ``task=export`` is returned in the form of our own checkpoints."""
    with safetensors.safe_open(file, "pt") as opened:
        record = (opened.metadata() or {}).get("sr_lab")
    state: dict[str, Any] = safetensors.torch.load_file(file)
    if record is None:
        return state
    named = {f"{_NETWORK}{name}": value for name, value in state.items()}
    return {"sr_lab": files.plain(json.loads(record)), "state_dict": named}


@contextlib.contextmanager
def _only_weights() -> Iterator[None]:
    """Let ``weights_only`` accept only the names that weights need (`_NAMED`)."""
    with _naming:
        before = _weights_only_unpickler._get_allowed_globals
        few = {name: value for name, value in before().items() if _NAMED.fullmatch(name)}
        _weights_only_unpickler._get_allowed_globals = lambda: few  # type: ignore[assignment]
        try:
            yield
        finally:
            _weights_only_unpickler._get_allowed_globals = before


def _check_zip(file: Path, key: str) -> None:
    """Refuse an archive that is damaged, or that torch did not write.

    Every entry of what ``torch.save`` writes has a CRC, which detects a flipped bit, a hole or a missing end;
    torch itself does not check it. Older pickles without an archive (``.pth`` before torch 1.6) and
    safetensors have no CRC, so only damage to the structure is noticed, not a changed number. torch stores
    each entry once and uncompressed; an archive with duplicate names, folders or absurd sizes is refused.

    Raises:
        CheckpointError: A CRC is wrong.
        ValueError: The archive has duplicate or compressed entries.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        folders = any(entry.external_attr & _FOLDER for entry in entries)
        size = sum(entry.file_size for entry in entries)
        if len(names) < len(entries) or folders or size > file.stat().st_size:
            raise ValueError("not an archive that torch wrote")
        if archive.testzip() is not None:
            raise CheckpointError(f"{key}: '{file}' is damaged (a CRC in it is wrong); use another copy")


def is_plain(value: object) -> bool:
    """Whether a value is a dense tensor with all its data in memory; a small file can claim a huge tensor."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def without_prefix(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights without the prefixes that most names have; a trainer's counter may have no prefix."""
    state = dict(state)
    while prefix := next((p for p in prefixes if 2 * sum(n.startswith(p) for n in state) > len(state)), None):
        shorter = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(shorter) < len(state):  # two names would become one
            break
        state = shorter
    return state


def _matlab_state(file: Path, key: str) -> dict[str, Tensor]:
    """The cell arrays of a MATLAB struct ``model`` as ``<field>.<index>``, e.g. VDSR's ``weight.0``."""
    with file.open("rb") as opened:
        content = dict(_matlab_variables(memoryview(opened.read(_MAX_MATLAB))))
    model = content.get("model")
    if not isinstance(model, dict) or not all(map(_is_cells, model.values())):
        names = ", ".join(files.printable(name) for name in content)
        raise CheckpointError(
            f"{key}: '{file}' has no struct 'model' of cell arrays, got {names}; "
            "allowed in MATLAB's format: VDSR's file, with weight and bias; save others as a state dict"
        )
    return {
        f"{field}.{index}": torch.from_numpy(array.copy())
        for field, cells in model.items()
        for index, array in enumerate(cells)
    }


def _is_cells(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(cell, np.ndarray) for cell in value)


def _matlab_variables(content: memoryview) -> Iterator[tuple[str, Any]]:
    """Name and value of each variable in a MATLAB 5 file.

    SciPy's reader allocates what a header claims: 200 bytes can claim an array of billions of cells.

    Raises:
        ValueError: The file has another version, is damaged, or unpacks to more than `_MAX_MATLAB` bytes.
    """
    if bytes(content[124:128]) != b"\0\1IM":  # the version, little-endian
        raise ValueError("not a MATLAB 5 file")
    room = _MAX_MATLAB
    for kind, data in _matlab_elements(content[128:]):
        if kind == _PACKED:
            unpacked = zlib.decompressobj().decompress(data, room)
            ((kind, data),) = _matlab_elements(memoryview(unpacked))
        room -= len(data)
        if kind != _MATRIX or room <= 0:
            raise ValueError("not a variable, or too large")
        yield _matlab_matrix(data)


def _matlab_elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element of MATLAB's format."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        start, end = place + 8, place + 8 + size + (-size % 8 if kind != _PACKED else 0)
        if kind >> 16:  # up to four bytes follow the type and the size, which share a word
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if size > min(end, len(data)) - start:
            raise ValueError("cut short")
        yield kind, data[start : start + size]
        place = end


def _matlab_matrix(data: memoryview) -> tuple[str, Any]:
    """Name and value of a MATLAB array.

    The value is a list for cells, a dict for one struct, a NumPy array for real floats, else ``None``.
    """
    elements = _matlab_elements(data)
    flags, sizes, name = (found for _, (_, found) in zip(range(3), elements, strict=False))
    shape, text = np.frombuffer(sizes, "<i4").tolist(), str(name, "latin1")
    if flags[0] == _CELLS:
        return text, [_matlab_matrix(cell)[1] for _, cell in elements]
    if flags[0] == _STRUCT and math.prod(shape) == 1:
        _, (_, fields) = next(elements), next(elements)  # the length of each name, then all names
        names = [str(found, "latin1") for found in re.findall(rb"[^\0]+", fields)]
        return text, dict(zip(names, (_matlab_matrix(cell)[1] for _, cell in elements), strict=True))
    if flags[0] not in _MATLAB_FLOATS or flags[1] & _COMPLEX:
        return text, None
    kind, numbers = next(elements)
    stored = np.frombuffer(numbers, _MATLAB_TYPES[kind])
    return text, stored.astype(_MATLAB_FLOATS[flags[0]]).reshape(shape, order="F")
