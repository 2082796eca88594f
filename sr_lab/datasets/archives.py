"""Taking images out of an archive that nobody vouches for.

Only images come out, each straight into the target folder under the last part of its name, so that nothing
can lead elsewhere. An archive that tries to is refused as a whole, before a byte is written.
"""

import errno
import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal, NamedTuple, TypeAlias

from sr_lab.datasets.images import EXTENSIONS
from sr_lab.errors import DataError

Kind: TypeAlias = Literal["file", "folder", "other"]

_HEADER = 1 << 20  # bytes; tarfile reads a header whole, however long it says that it is


class Limits(NamedTuple):
    """What is no bomb.

    Args:
        members: Entries, wanted or not (Flickr2K has 18,550).
        total_bytes: Length of everything that would be decompressed (Flickr2K has 20 GB).
        ratio: Length after over length before decompression; PNG and JPEG hardly shrink.
    """

    members: int = 100_000
    total_bytes: int = 64 << 30
    ratio: int = 100


class _Entry(NamedTuple):
    name: str
    size: int
    kind: Kind
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, target: Path, *, members: str, limits: Limits | None = None) -> list[Path]:
    """Take images out of an archive.

    Args:
        archive: ``.zip``, ``.tar`` or ``.tar.gz``, told by its content.
        target: An empty folder.
        members: Regular expression that the whole path of a wanted image matches.
        limits: What is taken for a bomb.

    Returns:
        The images, directly in ``target``, at least one.

    Raises:
        OSError: The disk is full.
        DataError: The archive is broken, is no archive, holds no wanted image, or attacks: a path that leaves
            the target, a link, a device, two files of one name, more than ``limits`` allow.
    """
    limits = limits or Limits()
    wanted: dict[str, _Entry] = {}
    try:
        with _opened(archive) as entries:
            for entry in _judged(archive, entries, limits):
                path = PurePosixPath(entry.name)
                hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
                image = entry.kind == "file" and path.suffix.lower() in EXTENSIONS and not hidden
                if (
                    image
                    and re.fullmatch(members, str(path))
                    and wanted.setdefault(path.name, entry) is not entry
                ):
                    raise _refusal(archive, f"it has {path.name} twice")
            if sum(entry.size for entry in wanted.values()) > shutil.disk_usage(target).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            for name, entry in wanted.items():
                source = entry.open()
                assert source is not None  # only files are wanted
                with source, (target / name).open("xb") as file:
                    shutil.copyfileobj(source, file)
    except DataError:
        raise
    except Exception as error:  # zipfile and tarfile raise many types for broken files, EINVAL among them
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk
        raise DataError(f"archive: {archive.name} is broken or no archive: {error}") from error
    if not wanted:
        raise DataError(f"archive: {archive.name} holds none of the wanted images")
    return [target / name for name in wanted]


def _judged(archive: Path, entries: Iterable[_Entry], limits: Limits) -> Iterator[_Entry]:
    """Every entry, or a refusal at the first that no honest archive has."""
    room = min(limits.total_bytes, limits.ratio * archive.stat().st_size)
    for count, entry in enumerate(entries, 1):
        path = PureWindowsPath(entry.name)  # knows both slashes, and drives
        room -= entry.size
        if path.anchor or ".." in path.parts or not entry.name.isprintable():
            raise _refusal(archive, f"{entry.name[:100]!r} leads out of the folder or is no name")
        if entry.kind == "other":
            raise _refusal(archive, f"{entry.name[:100]!r} is a link or a device")
        if entry.size < 0 or room < 0:
            raise _refusal(archive, "it would unpack to too many bytes, as a bomb does")
        if count > limits.members:
            raise _refusal(archive, f"it has more than {limits.members} entries")
        yield entry


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Entry]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield (
                _Entry(info.orig_filename, info.file_size, _zip_kind(info), partial(zipped.open, info))
                for info in zipped.infolist()
            )
        return
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (
        _Gzip(archive) if packed else archive.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r:") as tarred,
    ):
        yield (
            _Entry(member.name, member.size, _tar_kind(member), partial(tarred.extractfile, member))
            for member in tarred
        )


def _zip_kind(info: zipfile.ZipInfo) -> Kind:
    plain: Kind = "folder" if info.is_dir() else "file"
    return plain if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR) else "other"


def _tar_kind(member: tarfile.TarInfo) -> Kind:
    return "file" if member.isreg() else "folder" if member.isdir() else "other"


class _Gzip(gzip.GzipFile):
    """What tarfile reads, without the enormous header that would fill the memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


def _refusal(archive: Path, why: str) -> DataError:
    return DataError(f"archive: {archive.name} is refused: {why}")
