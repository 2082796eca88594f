"""Taking images out of an archive that nobody vouches for.

Everything is read as a stream, only image files come out, and each lands directly in the target folder under
the last part of its name. A name that climbs out, a link, a device or an absurd size condemns the archive.
"""

import errno
import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple

from sr_lab.datasets.images import EXTENSIONS
from sr_lab.errors import DataError

_HEADER_READ = 1 << 20  # bytes; no member's header is longer, and data is read in smaller pieces
_PIECE = 1 << 18


class Limits(NamedTuple):
    """What an archive may hold.

    Args:
        members: Entries, wanted or not (Flickr2K has 18,550).
        member_bytes: Length of one image.
        total_bytes: Length of everything that has to be decompressed (Flickr2K has 20 GB).
        ratio: Length after over length before decompression; PNG and JPEG hardly shrink.
    """

    members: int = 100_000
    member_bytes: int = 512 << 20
    total_bytes: int = 64 << 30
    ratio: int = 100


class _Member(NamedTuple):
    name: str
    size: int
    data: IO[bytes]


def unpack(archive: Path, target: Path, *, members: str, limits: Limits | None = None) -> list[Path]:
    """Take images out of an archive.

    Args:
        archive: ``.zip``, ``.tar`` or ``.tar.gz``, told by its content.
        target: An empty folder, on whose disk there must be room.
        members: Regular expression that the whole path of a wanted image matches.
        limits: What is taken for a bomb.

    Returns:
        The images, directly in ``target``, at least one.

    Raises:
        OSError: There is no room on the disk.
        DataError: The archive is broken, is no archive, holds no wanted image, or attacks: a path that leaves
            the target, a link, a device, two files of one name, more than ``limits`` allow.
    """
    limits = limits or Limits()
    wanted = re.compile(members)
    written: list[Path] = []
    try:
        for member in _members(archive, limits):
            path = PurePosixPath(member.name)
            junk = path.name.startswith(".") or "__MACOSX" in path.parts
            if junk or path.suffix.lower() not in EXTENSIONS or not wanted.fullmatch(str(path)):
                continue
            if member.size > shutil.disk_usage(target).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            written.append(_write(member, target / path.name, archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"archive: {archive.name} is broken: {error}; download it again") from error
    except (NotImplementedError, RuntimeError) as error:  # of zipfile: encrypted, an unknown compression
        raise DataError(
            f"archive: {archive.name} cannot be unpacked: {error}; take another mirror"
        ) from error
    if not written:
        raise DataError(f"archive: {archive.name} holds none of the wanted images; take another mirror")
    return written


def _write(member: _Member, path: Path, archive: Path) -> Path:
    """Copy one image; its announced length was judged, so no more than that is read."""
    try:
        with path.open("xb") as file:
            left = member.size
            while left and (piece := member.data.read(min(left, _PIECE))):
                file.write(piece)
                left -= len(piece)
            if not left:
                member.data.read(1)  # zipfile compares the checksum at the end
    except FileExistsError as error:
        raise _refusal(archive, member.name, "stands there twice") from error
    if left:
        raise DataError(f"archive: {archive.name} ends in the middle of {path.name}; download it again")
    return path


def _members(archive: Path, limits: Limits) -> Iterator[_Member]:
    """Regular files of an archive, each open while it is the newest; an entry is judged, then read."""
    with archive.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)  # tarfile.is_tarfile reads whatever a header asks for
    if start[:2] == b"PK":
        return _zip_members(archive, limits)
    if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
        return _tar_members(archive, limits, packed=start[:2] == b"\x1f\x8b")
    raise DataError(f"archive: {archive.name} is neither zip, tar nor tar.gz; the server sent something else")


def _zip_members(archive: Path, limits: Limits) -> Iterator[_Member]:
    room = min(limits.total_bytes, limits.ratio * archive.stat().st_size)
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        if len(entries) > limits.members:
            raise _refusal(archive, "it", f"has {len(entries)} entries; allowed: {limits.members}")
        if sum(entry.file_size for entry in entries) > room:
            raise _refusal(archive, "it", f"would unpack to more than {room:,} bytes")
        for entry in entries:
            _check_name(archive, entry.orig_filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, entry.filename, "is a link or a device")
            if entry.is_dir():
                continue
            _check_size(archive, entry.filename, entry.file_size, limits)
            if entry.file_size > max(1, entry.compress_size) * limits.ratio:
                raise _refusal(archive, entry.filename, f"shrinks more than {limits.ratio} times")
            with file.open(entry) as data:
                yield _Member(entry.filename, entry.file_size, data)


def _tar_members(archive: Path, limits: Limits, *, packed: bool) -> Iterator[_Member]:
    room = min(limits.total_bytes, limits.ratio * archive.stat().st_size) if packed else limits.total_bytes
    opened = gzip.open(archive) if packed else archive.open("rb")  # noqa: SIM115 - closed below
    with (
        closing(_Bounded(opened, archive, room)) as stream,
        tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as file,
    ):
        count = 0
        while (entry := file.next()) is not None:
            count += 1
            if count > limits.members:
                raise _refusal(archive, "it", f"has more than {limits.members} entries")
            _check_name(archive, entry.name)
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                raise _refusal(archive, entry.name, "is a link, a device or a sparse file")
            _check_size(archive, entry.name, entry.size, limits)
            data = file.extractfile(entry)
            assert data is not None  # it is a regular file
            yield _Member(entry.name, entry.size, data)


class _Bounded(io.RawIOBase):
    """A stream that ends with an error where a bomb would go on: by length, or by one enormous header."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, archive: Path, room: int) -> None:
        self._stream, self._archive, self._room = stream, archive, room

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_READ:
            raise _refusal(self._archive, "it", f"has a header of {size:,} bytes")
        content = self._stream.read(size)
        self._check(self._stream.tell())
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _check(self, position: int) -> None:
        if position > self._room:
            raise _refusal(self._archive, "it", f"would unpack to more than {self._room:,} bytes")


def _check_name(archive: Path, name: str) -> None:
    """Refuse what leaves the target on any system, though only the last part of a name is used."""
    path = PurePosixPath(name)
    windows = "\\" in name or re.match(r"[A-Za-z]:", name) is not None
    if path.is_absolute() or ".." in path.parts or windows or not name.isprintable() or len(name) > 1000:
        raise _refusal(archive, name, "leads out of the folder or is no name")


def _check_size(archive: Path, name: str, size: int, limits: Limits) -> None:
    if not 0 <= size <= limits.member_bytes:
        raise _refusal(archive, name, f"has {size:,} bytes; allowed: {limits.member_bytes:,}")


def _refusal(archive: Path, entry: str, why: str) -> DataError:
    name = "it" if entry == "it" else repr(entry[:100])
    return DataError(f"archive: {archive.name} is refused: {name} {why}; remove it and take another mirror")
