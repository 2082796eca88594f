"""Writes files whole or not at all, and reads them with limits.

A file may be untrusted (in a downloaded run folder, or a configuration to try), so its size and depth are
limited, and characters that control a terminal or break a page are escaped.
"""

import contextlib
import csv
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import yaml

from sr_lab.errors import printable as printable
from sr_lab.system.unix import at_once, sync_folder

_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 64 * 2**20  # the record of a million steps takes about 10 MiB
MAX_YAML_BYTES = 2**20
_MAX_NODES, _MAX_DEPTH = 100_000, 50
_MAX_VALUES = 10_000  # of a container that `is_small` accepts

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The configuration files: inside the package when installed as a wheel, next to it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


@contextlib.contextmanager
def replacing(path: Path, *, keep: str | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file; at the end of the block it is flushed to the disk and replaces ``path``.

    A reader sees either the old file or the new one. The temporary file, ``.<name>.<random>.tmp``, is in the
    same folder, since a rename from another file system is a copy, which a kill can cut short.

    Args:
        path: The file to write; its folder must exist.
        keep: Name that the old file gets once the new one is on the disk.

    Raises:
        OSError: The file cannot be written; ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with naming(path, instead=temporary):
            with temporary.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(path.with_name(keep))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path, *, instead: Path | None = None) -> Iterator[None]:
    """Add the file's name to disk errors, from which Python omits it when writing and flushing.

    Args:
        path: The file.
        instead: A temporary file that the user does not know; its name is replaced with the file's.
    """
    try:
        yield
    except Exception as error:
        for link in (error, error.__cause__ or error.__context__):  # torch wraps the error in its own error
            if isinstance(link, OSError) and link.errno and link.filename in (None, str(instead)):
                link.filename = str(path)
        raise


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file with `replacing`, and make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def below(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder, in no order; links are not followed.

    A folder that cannot be read counts as empty. Python's own walks recurse, and fail on a thousand levels.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as scanned:
                entries = list(scanned)
        except OSError:
            continue
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from (Path(entry.path) for entry in entries)


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files of killed processes; no other process may be writing there."""
    for path in paths:
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file; bytes that are not UTF-8 become replacement characters.

    Raises:
        OSError: There is no such file.
        ValueError: The file is longer than ``max_bytes``.
    """
    with open(path, "rb", opener=at_once) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return content.decode(errors="replace")


def read_json(path: Path) -> object:
    """The content of a JSON file as `plain` values.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not JSON, is too long, or is nested too deeply.
    """
    try:
        return plain(json.loads(read_text(path)))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_yaml(path: Path) -> object:
    """The content of a YAML file, checked by `check_yaml`, as `plain` values.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not YAML, would build objects, is too long, or is nested too deeply.
    """
    text = read_text(path, max_bytes=MAX_YAML_BYTES)
    check_yaml(text)
    try:
        return plain(yaml.load(text, Loader=_SafeLoader))
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def check_yaml(text: str) -> None:
    """Refuse YAML that is larger than it looks: a few lines of anchors can expand to billions of values.

    Raises:
        ValueError: The text expands to too many values or levels, refers to itself, or is not YAML.
    """
    sizes: dict[str, int] = {}
    levels: list[tuple[str | None, int]] = [(None, 0)]  # open collections: anchor, values so far
    try:
        for event in yaml.parse(text, Loader=_SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                levels.append((event.anchor, 1))
                size = 0
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = levels.pop()
                sizes |= {anchor: size} if anchor else {}
            elif isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor or "", _MAX_NODES + 1)  # not closed yet, so it contains itself
            else:
                size = int(isinstance(event, yaml.ScalarEvent))
            levels[-1] = (levels[-1][0], levels[-1][1] + size)
            if levels[-1][1] > _MAX_NODES or len(levels) > _MAX_DEPTH:
                raise ValueError(f"it expands to more than {_MAX_NODES} values or {_MAX_DEPTH} levels")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def plain(value: object) -> object:
    """A copy of a value in which every string is `printable` and every key is a string.

    Integers beyond 64 bits become NaN.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return math.nan
    return value


def texts(value: object) -> Iterator[str]:
    """Every string in a plain value, including the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([part for pair in value.items() for part in pair])
    elif isinstance(value, list):
        for child in value:
            yield from texts(child)


def is_small(value: object) -> bool:
    """Whether a container has few values on all its levels; one that contains itself has too many."""
    waiting, count = [value], 0
    while waiting and count <= _MAX_VALUES:
        current = waiting.pop()
        count += 1
        if isinstance(current, Mapping):
            waiting += current.values()
        elif isinstance(current, (list, tuple)):
            waiting += current
    return not waiting


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf|nan", re.ASCII | re.IGNORECASE)


def number(text: object) -> float:
    """Parse a number in the usual notation, else return NaN; ``float`` would also accept ``3_0``."""
    text = str(text).strip()
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; cells beyond the last column are dropped.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not CSV, is too long, or names a column twice.
    """
    try:
        rows = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    columns = [str(plain(name)) for name in rows[0]] if rows else []
    if len(set(columns)) < len(columns):
        raise ValueError("it names a column twice")
    return [dict(zip(columns, row, strict=False)) for row in rows[1:] if row]
