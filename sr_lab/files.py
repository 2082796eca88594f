"""Writing a file so that it is there whole, or not there."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, keep: str | None = None) -> Iterator[BinaryIO]:
    """Open a file beside ``path``; at the end of the block it is flushed to the disk and takes the place.

    A reader sees the old file or the new one. The temporary file, ``.<name>.<random>.tmp``, lies in the same
    folder: a rename from another file system is a copy, which a kill can cut short.

    Args:
        path: The file to write; its folder is there.
        keep: What was at ``path`` gets this name, once the new file is on the disk.

    Raises:
        OSError: It cannot be written; ``path`` is as it was.
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def at_once(path: str, flags: int) -> int:
    """An opener for ``open``: a named pipe in a stranger's folder is empty, instead of waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def naming(path: Path, *, instead: Path | None = None) -> Iterator[None]:
    """An error of the disk says which file it was about: of writing and flushing Python does not know.

    Args:
        path: The file.
        instead: A file that the user does not know, which stands for it.
    """
    try:
        yield
    except Exception as error:
        for link in (error, error.__cause__ or error.__context__):  # torch tells of a file in its own words
            if isinstance(link, OSError) and link.errno and link.filename in (None, str(instead)):
                link.filename = str(path)
        raise


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file by `replacing`, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of ``paths`` that a killed process left behind; nobody else may be writing there."""
    for path in paths:
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
