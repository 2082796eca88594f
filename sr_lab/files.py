"""Writing a file so that it is there whole, or not there."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path``; at the end of the block it is flushed to the disk and takes the place.

    A reader sees the old file or the new one. The temporary file, ``.<name>.<random>.tmp``, lies in the same
    folder: a rename from another file system is a copy, which a kill can cut short.

    Args:
        path: The file to write; its folder is there.

    Raises:
        OSError: It cannot be written; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file by `replacing`, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
