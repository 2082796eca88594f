"""Decoded images as memory-mapped files, made once and shared by every run and worker.

A 2040x1356 PNG takes about 56 ms to decode; copying a patch out of the decoded file takes about 0.02 ms.

A large set, such as DF2K with its 3,450 images of 2040x1356, takes 3,450 x 8.3 MB = 28.6 GB of disk, and
1/r^2 of that for the LR images. Building takes at most 0.2 GB of memory for each image in progress (LR images
are computed in double precision) and 0.4 GB for the program: 1.6 GB for six images at a time, however large
the set is. Opening reads one file, the manifest of about 0.5 MB. A worker keeps one memory map for each image
that it has read, up to 6,900 (Linux allows 65,530), and no open files; all processes share the pixels in the
system's page cache.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from sr_lab.errors import DataError
from sr_lab.files import remove_leftovers, replacing

_FORMAT = 1  # part of every key: increase it when decoding, resizing or the layout changes
WORKERS = min(6, os.cpu_count() or 1)  # threads, one image each; Pillow and torch release the GIL


class Record(NamedTuple):
    """Size of a cached image, and the SHA-256 of the text ``HxWx3`` and its pixels in HWC order."""

    height: int
    width: int
    sha256: str


class ImageCache:
    """One decoded image for each file of a list, kept as ``.npy`` in a folder.

    An entry is found by the path, size and modification time of its file. An image gets its final name only
    when it is complete, so a build can resume where an earlier one was killed. One process builds at a time;
    the others wait and then use its images.

    Args:
        folder: The folder for the images; created when needed. Each way of making images has its own folder.
        files: The files that the images are made from.

    Note:
        Images are stored as ``(3, H, W)``: a patch is then copied into an NCHW batch row by row, 5 times as
        fast as from ``(H, W, 3)``.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        self.files = list(files)
        self._records: list[Record] = []
        self._names: list[str] = []
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.files)

    @property
    def records(self) -> list[Record]:
        """The size and the hash of each image; opens the cache, see `open` for errors."""
        self.open()
        return self._records

    def __getstate__(self) -> dict[str, object]:
        # Workers map the files themselves: pickling a map would copy its pixels.
        return {**self.__dict__, "_maps": {}}

    def build(self, make: Callable[[int], NDArray[np.uint8]], *, title: str) -> None:
        """Make the missing images, several at a time, and open the cache.

        Args:
            make: Returns the image ``(3, H, W)`` of the file with this index; called from threads.
            title: Label of the progress bar, which is shown on a terminal only.

        Raises:
            DataError: A file is missing, ``make`` refuses it, or the cache cannot be written.
        """
        if self._load():
            return
        console = Console(stderr=True)
        with _writing(self.folder), alone(self.folder, console), ThreadPoolExecutor(WORKERS) as pool:
            if self._load():  # another process has made the images in the meantime
                return
            finished = pool.map(lambda index: self._make(index, make), range(len(self)))
            self._records = list(
                track(finished, title, len(self), console=console, disable=not console.is_terminal)
            )
            manifest = json.dumps(dict(zip(self._names, self._records, strict=True)), indent=1)
            _write(self._manifest(), lambda file: file.write(manifest.encode()))

    def is_built(self) -> bool:
        """Whether the cache has every image; if it does, it is opened."""
        return bool(self._records) or self._load()

    def open(self) -> None:
        """Open a finished cache; does nothing if it is open.

        Raises:
            DataError: The cache is not complete, or a file has changed since it was built.
        """
        if not self.is_built():
            raise DataError(
                f"cache: {self.folder} does not hold all {len(self)} images; "
                "call prepare() first, on every machine that has its own paths.cache_dir"
            )

    def image(self, index: int) -> NDArray[np.uint8]:
        """Pixels ``(3, H, W)`` of an image, memory-mapped; the cache must be open."""
        pixels = self._maps.get(index)
        if pixels is None:
            pixels = self._maps[index] = self.map(index)
        return pixels

    def patch(self, index: int, top: int, left: int, size: int) -> NDArray[np.uint8]:
        """A square patch of an image, ``(3, size, size)``."""
        return self.image(index)[:, top : top + size, left : left + size]

    def map(self, index: int) -> NDArray[np.uint8]:
        """Like `image`, but does not keep the map; for a single pass over all images."""
        height, width, _ = self.records[index]
        path = self.folder / self._names[index]
        # numpy would keep a file descriptor open for each map, too many for thousands of files.
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(
                f"cache: cannot read {path}: {error.strerror}; start again to rebuild the image"
            ) from error
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        return content[-3 * height * width :].view(3, height, width).numpy()

    def _load(self) -> bool:
        """Read the manifest; returns whether the cache is complete."""
        self._names = [_cache_name(file) for file in self.files]
        try:
            manifest: dict[str, tuple[int, int, str]] = json.loads(self._manifest().read_bytes())
            records = [Record(*manifest[name]) for name in self._names]
            for name, record in zip(self._names, records, strict=True):
                if (self.folder / name).stat().st_size <= 3 * record.height * record.width:
                    return False
        except (OSError, ValueError, KeyError, TypeError):
            return False  # build() makes the missing images
        self._records = records
        return True

    def _manifest(self) -> Path:
        return self.folder / f"manifest-{_sha256(chr(10).join(self._names).encode())[:16]}.json"

    def _make(self, index: int, make: Callable[[int], NDArray[np.uint8]]) -> Record:
        path = self.folder / self._names[index]
        pixels = _read(path)
        if pixels is None:
            pixels = make(index)
            _write(path, lambda file: np.save(file, np.ascontiguousarray(pixels)))
        _, height, width = pixels.shape
        text = f"{height}x{width}x3".encode()
        return Record(height, width, _sha256(text + pixels.transpose(1, 2, 0).tobytes()))


def in_parallel(function: Callable[[Path], object], files: Sequence[Path]) -> None:
    """Call a function for every file, several at a time; the first error is raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(function, files):
            pass


def _cache_name(file: Path) -> str:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"cache: cannot read {file}: {error.strerror}; put the file back") from error
    key = json.dumps([_FORMAT, str(file.resolve()), status.st_size, status.st_mtime_ns])
    return f"{file.stem[:40]}-{_sha256(key.encode())[:16]}.npy"


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Hexadecimal digest of a file; ``kind`` is an algorithm name for `hashlib.new`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> NDArray[np.uint8] | None:
    """The pixels in a file from an earlier build; ``None`` if the file is missing or damaged."""
    try:
        pixels: NDArray[np.uint8] = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return pixels


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    with _writing(path), replacing(path) as file:
        fill(file)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cache: cannot write {path}: {error.strerror or error}; "
            "free space there or set paths.cache_dir to another folder"
        ) from error


@contextmanager
def alone(folder: Path, console: Console) -> Iterator[None]:
    """Wait until no other process writes to the folder, and remove temporary files of killed processes.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", mode=0o666)  # other users may share the folder
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        console.print(f"waiting for another process that writes to {folder}", markup=False)
        held = lock.acquire()
    with held:
        remove_leftovers(folder.iterdir())
        yield
