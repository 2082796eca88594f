"""Downloads published weights once, and checks them each time before they are opened."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from sr_lab import files
from sr_lab.datasets.cache import digest_of
from sr_lab.datasets.download import fetch, may_be_asked
from sr_lab.datasets.registry import Archive
from sr_lab.errors import CheckpointError, SRLabError
from sr_lab.zoo.published import PREFIX, Published

MIRROR = "SR_LAB_ZOO"  # address or folder of a mirror, whose files have the paths that they have on GitHub


def provide(entry: Published, key: str, note: Callable[[str], object]) -> Path:
    """The file of published weights, downloaded if not cached; several processes may ask for it at once.

    Args:
        entry: The weights.
        key: The setting that names the weights, for error messages.
        note: Called with a sentence before a download.

    Returns:
        The file; its size and digest match the published ones.

    Raises:
        CheckpointError: No address serves the file, or the cache cannot be written.
    """
    file = entry.file()
    try:
        if is_right(file, entry):
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{file.name}.lock")):
            if not is_right(file, entry):  # another process may have fetched it meanwhile
                _obtain(entry, file, note)
        return file
    except (OSError, SRLabError) as error:
        is_set = bool(os.environ.get(MIRROR))
        mirror = f"correct {MIRROR}" if is_set else f"set {MIRROR}=<address or folder of a mirror>"
        raise CheckpointError(
            f"{key}: {PREFIX}{entry.name} could not be fetched: {error}; {mirror}, or download "
            f"{_escaped(entry.address)} yourself and give the path of the file"
        ) from error


def is_right(file: Path, entry: Published) -> bool:
    """Whether a file exists and is the published file."""
    return file.is_file() and file.stat().st_size == entry.size and digest_of(file, "sha256") == entry.sha256


def _obtain(entry: Published, file: Path, note: Callable[[str], object]) -> None:
    """Copy the file from a mirror's folder, or download it from the mirror's or the authors' address."""
    mirror = os.environ.get(MIRROR, "")
    source = f"from {mirror}" if mirror else f"from github.com/{entry.repository}"
    licence = f"licence: {entry.licence}" if entry.has_licence else "its authors state no licence"
    note(f"{PREFIX}{entry.name}: fetching {entry.size / 1e6:.1f} MB {source}; {licence}")
    if mirror and "://" not in mirror:
        original = Path(mirror).expanduser() / entry.place
        if not is_right(original, entry):
            state = "is not the published file" if original.is_file() else "is missing"
            raise CheckpointError(f"{original} {state}")
        with files.replacing(file) as copy, original.open("rb") as source_file:
            shutil.copyfileobj(source_file, copy)
        return
    address = f"{mirror.rstrip('/')}/{entry.place}" if mirror else entry.address
    if not may_be_asked(address):
        raise CheckpointError(f"{MIRROR}: got {mirror!r}; allowed: a folder, https, or http on this machine")
    archive = Archive((_escaped(address),), "", f"sha256:{entry.sha256}", entry.size)
    parts = file.parent / "parts"  # kept when a download is interrupted
    fetch(archive, archive.urls[0], parts).replace(file)


def _escaped(address: str) -> str:
    return quote(address, safe=":/[]")
