"""Shards: files of about 300 MB with decoded images, in a folder or a remote store, fetched when needed.

A shard is a safetensors file: a JSON header and plain numbers, with nothing that could be executed. A patch
can be read without the rest of its image. ``index.json`` in the same folder lists the shards and their
images. fsspec fetches the files.
"""

import json
import os
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
from filelock import FileLock
from fsspec.callbacks import Callback
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sr_lab.datasets.cache import Record, digest_of
from sr_lab.datasets.images import MAX_PIXELS
from sr_lab.errors import ConfigError, DataError

INDEX = "index.json"
MAX_INDEX = 256 << 20  # bytes, enough for two million images
_HEADER = 1000  # bytes that a shard may have in addition to its pixels, in total and for each of its tensors
_STORES = ("file", "http", "https", "s3", "gs", "abfs", "memory")  # other fsspec stores may run code


class ImageEntry(NamedTuple):
    """An image in a shard: its name and its HR height and width."""

    name: str
    height: int
    width: int


class Shard(NamedTuple):
    """A shard file and its images; ``source`` is a hash of the files from which it was made."""

    name: str
    size: int
    sha256: str
    source: str
    images: list[ImageEntry]


class Index(NamedTuple):
    """All shards of a set, and the kinds of LR images in them, e.g. ``x4-bicubic-symmetric``."""

    lr: list[str]
    shards: list[Shard]


def read_index(url: str) -> Index:
    """Read the index of a folder of shards; the index is not trusted.

    Args:
        url: A folder or its address: ``https://``, ``s3://`` (needs s3fs), ``gs://`` (gcsfs).

    Raises:
        ConfigError: The address has an unsupported scheme, or the package for it is missing.
        DataError: The index is missing, malformed or too large, or states sizes that its images cannot have.
    """
    place = f"{url.rstrip('/')}/{INDEX}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / INDEX
            _copy(place, copy, limit=MAX_INDEX)
            content = copy.read_bytes()
    except OSError as error:
        raise DataError(f"shards: cannot read {place}: {error}; write the shards with task=shard") from error
    try:
        return _parse_index(json.loads(content))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"shards: {place} is not a valid index: {said}") from error


def _parse_index(found: Mapping[str, Any]) -> Index:
    kinds = [_matching(r"x[1-9]\d?-[\w-]+", kind) for kind in found["lr"]]
    scales = [1, *(int(kind.partition("-")[0][1:]) for kind in kinds)]
    shards = [parse_shard(each) for each in found["shards"]]
    if found["format"] != 1 or not shards:
        raise ValueError("it has no shards or an unknown format version")
    # A shard's size is relied on before the file is fetched: that much disk space is freed, and no more
    # bytes than that are read.
    for shard in shards:
        pixels = sum((image.height // s) * (image.width // s) for image in shard.images for s in scales)
        if not 0 <= shard.size - 3 * pixels <= _HEADER * (1 + len(shard.images) * len(scales)):
            raise ValueError(f"{shard.name} cannot have {shard.size:,} bytes: its images have {3 * pixels:,}")
    return Index(kinds, shards)


def parse_shard(found: Mapping[str, Any]) -> Shard:
    """Parse a shard from its JSON.

    Raises:
        ValueError: A value is not allowed.
        KeyError: A value is missing.
        TypeError: A value is of the wrong type.
    """
    images = [
        ImageEntry(str(each["name"]), int(each["height"]), int(each["width"])) for each in found["images"]
    ]
    for image in images:
        if min(image.height, image.width) < 1 or image.height * image.width > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; allowed: 1 to {MAX_PIXELS:,} in all")
    if not images:
        raise ValueError("a shard has no images")
    name = _matching(r"[\w-]+\.safetensors", found["name"])  # a file in the same folder
    sha256 = _matching("[0-9a-f]{64}", found["sha256"])  # the local copy's name begins with it
    return Shard(name, int(found["size"]), sha256, str(found["source"]), images)


def _matching(pattern: str, text: object) -> str:
    if not isinstance(text, str) or re.fullmatch(pattern, text, re.ASCII) is None:
        raise ValueError(f"{str(text)[:80]!r} does not match {pattern}")
    return text


class _AtMost(Callback):  # type: ignore[misc] # fsspec has no types
    """Aborts a transfer that announces or delivers more bytes than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def call(self, hook_name: str | None = None, **_: object) -> None:
        """Check the size after each piece."""
        if max(self.size or 0, self.value) > self.limit:
            raise OSError(f"it has more than {self.limit:,} bytes")


def _copy(url: str, target: Path, *, limit: int) -> None:
    """Fetch a file; a file that is too long is removed.

    Raises:
        OSError: The file cannot be fetched or is longer than ``limit`` bytes.
    """
    store, path = _store(url)
    # For a local path, fsspec would wait on a pipe forever, and copy a device forever.
    here = Path(path)
    if fsspec.utils.get_protocol(url) == "file" and not (here.is_file() and here.stat().st_size <= limit):
        raise OSError(f"there is no file of at most {limit:,} bytes")
    try:
        store.get_file(path, str(target), callback=_AtMost(limit))
    except Exception as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        # Each store raises its own errors; some contain all bytes received.
        raise OSError(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}") from error


def _store(url: str) -> tuple["fsspec.AbstractFileSystem", str]:
    """The file system for an address, created in this process and thread, and the path in it."""
    kind = fsspec.utils.get_protocol(url)
    if kind not in _STORES or "::" in url:
        raise ConfigError(
            f"dataset.shards_dir: cannot fetch from {url!r}; allowed: a folder, "
            f"{', '.join(f'{store}://' for store in _STORES[1:-1])}"
        )
    try:
        options = {} if kind == "memory" else {"skip_instance_cache": True}  # a cached one hangs after a fork
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"dataset.shards_dir: {url!r} needs another package: {error}") from error
    return store, path


class Shards:
    """Local copies of shards, fetched when needed; the least recently used are removed when space runs out.

    Workers and processes on one machine share the copies: the first process that needs a shard fetches it;
    the others wait. Shards in a local folder are read in place.

    Args:
        url: Folder or address of the shards.
        index: The index of the shards.
        folder: Where copies are kept.
        limit: Maximum size of all copies together, in bytes.
        keep_open: Number of shards that a process keeps mapped.
    """

    def __init__(self, url: str, index: Index, *, folder: Path, limit: float, keep_open: int) -> None:
        self.url = url.rstrip("/")
        self.index = index
        self.folder = folder
        self.limit = limit
        self.keep_open = keep_open
        self.local = fsspec.utils.get_protocol(url) == "file"
        self._open: OrderedDict[int, safe_open] = OrderedDict()
        self._coming: dict[int, Future[Path]] = {}
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict(), "_coming": {}, "_pool": None}

    def file(self, number: int) -> safe_open:
        """A shard as an open, memory-mapped file."""
        self._forget_after_fork()
        if number not in self._open:
            coming = self._coming.pop(number, None)
            path = coming.result() if coming is not None else self._fetch(number)
            try:
                self._open[number] = safe_open(path, framework="numpy")
            except FileNotFoundError:  # another process has removed it in the meantime
                self._open[number] = safe_open(self._fetch(number), framework="numpy")
            except SafetensorError as error:
                raise DataError(f"shards: {path} is broken: {error}; remove the file") from error
            while len(self._open) > self.keep_open:
                self._open.popitem(last=False)  # a deleted file takes up space while it is mapped
        self._open.move_to_end(number)
        return self._open[number]

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Fetch shards that will be needed, one by one in the background."""
        self._forget_after_fork()
        if self.local:
            return
        if self._pool is None:
            self._pool = (os.getpid(), ThreadPoolExecutor(1))
        for number in numbers:
            if number not in self._open and number not in self._coming:
                self._coming[number] = self._pool[1].submit(self._fetch, number)

    def _forget_after_fork(self) -> None:
        if self._pool is not None and self._pool[0] != os.getpid():
            self._pool, self._coming = None, {}

    def _fetch(self, number: int) -> Path:
        shard = self.index.shards[number]
        if self.local:
            path = Path(fsspec.core.strip_protocol(self.url)) / shard.name
            if not path.is_file() or path.stat().st_size != shard.size:
                raise DataError(
                    f"shards: {path} is missing or incomplete; write the shards again with task=shard"
                )
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{shard.sha256[:16]}-{shard.name}"
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                self._make_room(shard.size)
                temporary = path.with_name(f".{path.name}.tmp")
                try:
                    _copy(f"{self.url}/{shard.name}", temporary, limit=shard.size)
                except OSError as error:
                    raise DataError(f"shards: cannot fetch {self.url}/{shard.name}: {error}") from error
                if digest_of(temporary) != shard.sha256:
                    temporary.unlink()
                    raise DataError(
                        f"shards: {self.url}/{shard.name} does not match its SHA-256; write the shards again"
                    )
                temporary.replace(path)
        with suppress(FileNotFoundError):
            os.utime(path)  # marks the copy as recently used
        return path

    def _make_room(self, size: int) -> None:
        with FileLock(self.folder / "room.lock"):
            copies = [(path.stat().st_mtime, path) for path in self.folder.glob("*.safetensors")]
            total = sum(path.stat().st_size for _, path in copies) + size
            for used, path in sorted(copies):
                if total <= self.limit or time.time() - used < 1:
                    break
                total -= path.stat().st_size
                path.unlink()


class ShardedImages:
    """The images of one kind in all shards, with the methods of `sr_lab.datasets.cache.ImageCache`.

    Args:
        shards: The shards.
        kind: ``hr``, or LR images such as ``x4-bicubic-symmetric``.
        scale: Size of the HR images divided by the size of these images.
    """

    def __init__(self, shards: Shards, kind: str, *, scale: int = 1) -> None:
        self.shards = shards
        self.kind = kind
        entries = [image for shard in shards.index.shards for image in shard.images]
        self.records = [Record(entry.height // scale, entry.width // scale, "") for entry in entries]
        self.places = [
            (number, image)
            for number, shard in enumerate(shards.index.shards)
            for image in range(len(shard.images))
        ]

    def open(self) -> None:
        """Do nothing: shards are opened when needed."""

    def patch(self, index: int, top: int, left: int, size: int) -> NDArray[np.uint8]:
        """A square patch of an image, ``(3, size, size)``; the rest of the image is not read."""
        (shard, number), record = self.places[index], self.records[index]
        pixels = self.shards.file(shard).get_slice(f"{self.kind}.{number}")  # type: ignore[no-untyped-call]
        if pixels.get_shape() != [3, record.height, record.width] or pixels.get_dtype() != "U8":
            raise DataError(
                f"shards: image {number} of {self.shards.index.shards[shard].name} is "
                f"{pixels.get_dtype()} {pixels.get_shape()}, which is not what the index says; "
                "write the shards again"
            )
        cut: NDArray[np.uint8] = pixels[:, top : top + size, left : left + size]
        return cut
