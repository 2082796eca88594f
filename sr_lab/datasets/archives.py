"""Extract images from an untrusted archive.

Only images are extracted, each directly into the target folder under its file name, so no path can lead
elsewhere. An archive with any suspicious entry is refused as a whole, before a byte is written.
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

# An archive beyond these limits is treated as a decompression bomb.
MAX_MEMBERS = 100_000  # entries, whether wanted or not (Flickr2K has 18,550)
MAX_BYTES = 64 << 30  # size of all entries when decompressed (Flickr2K has 20 GB)
MAX_RATIO = 100  # decompressed bytes per compressed byte; PNG and JPEG hardly compress
_MAX_HEADER = 1 << 20  # bytes; tarfile reads a whole header at once, however long it is


class _Entry(NamedTuple):
    name: str
    size: int
    kind: Kind
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, target: Path, *, members: str) -> list[Path]:
    """Extract images from an archive.

    Args:
        archive: ``.zip``, ``.tar`` or ``.tar.gz``, recognised by its content.
        target: An empty folder.
        members: Regular expression that matches the whole path of a wanted image.

    Returns:
        The images, directly in ``target``; there is at least one.

    Raises:
        OSError: The disk is full.
        DataError: The file is broken, is not an archive, has no wanted images, or is malicious: it has a path
            that leaves the target, a link, a device or two files with the same name, or is a decompression
            bomb.
    """
    wanted: dict[str, _Entry] = {}
    try:
        with _opened(archive) as entries:
            for entry in _checked(archive, entries):
                path = PurePosixPath(entry.name)
                hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
                image = entry.kind == "file" and path.suffix.lower() in EXTENSIONS and not hidden
                if image and re.fullmatch(members, str(path)):
                    if path.name in wanted:
                        raise _refusal(archive, f"it has {path.name} twice")
                    wanted[path.name] = entry
            if sum(entry.size for entry in wanted.values()) > shutil.disk_usage(target).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            for name, entry in wanted.items():
                source = entry.open()
                assert source is not None  # every wanted entry is a file
                with source, (target / name).open("xb") as file:
                    shutil.copyfileobj(source, file)
    except DataError:
        raise
    except Exception as error:  # zipfile and tarfile raise many exception types for broken files
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a disk error
        raise DataError(f"archive: {archive.name} is broken or not an archive: {error}") from error
    if not wanted:
        raise DataError(f"archive: {archive.name} holds none of the wanted images")
    return [target / name for name in wanted]


def _checked(archive: Path, entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield every entry; refuse the archive at the first suspicious entry."""
    room = min(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
    for count, entry in enumerate(entries, 1):
        path = PureWindowsPath(entry.name)  # splits at both kinds of slash, and finds drive letters
        room -= entry.size
        if path.anchor or ".." in path.parts or not entry.name.isprintable():
            raise _refusal(archive, f"{entry.name[:100]!r} leads out of the folder or is not printable")
        if entry.kind == "other":
            raise _refusal(archive, f"{entry.name[:100]!r} is a link or a device")
        if entry.size < 0 or room < 0:
            raise _refusal(archive, "it would unpack to too many bytes, like a decompression bomb")
        if count > MAX_MEMBERS:
            raise _refusal(archive, f"it has more than {MAX_MEMBERS} entries")
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
    """A gzip file for tarfile that refuses headers large enough to fill memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


def _refusal(archive: Path, why: str) -> DataError:
    return DataError(f"archive: {archive.name} is refused: {why}")
