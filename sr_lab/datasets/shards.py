"""Decoded images in shards: files of some 300 MB on another disk or in a store, fetched when needed.

A shard is a safetensors file: plain numbers behind a JSON header, nothing that could run, and a patch is read
without the rest of its image. ``index.json`` beside the shards names them and every image. fsspec fetches.
"""

import hashlib
import json
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import fsspec
import numpy as np
import torch
from filelock import FileLock
from fsspec.callbacks import Callback
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sr_lab import files
from sr_lab.datasets.cache import WORKERS, Record
from sr_lab.datasets.images import MAX_PIXELS, read_image
from sr_lab.datasets.sampling import permutation
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.resize import downscale_uint8, mod_crop

LR_NAME = "bicubic-symmetric"  # what `BicubicDegradation` is called that makes the LR images
INDEX = "index.json"
MAX_INDEX = 256 << 20  # bytes; two million images
_HEADER = 1000  # bytes of a shard beside its pixels, for the whole and for each of its tensors
_STORES = ("file", "http", "https", "s3", "gs", "abfs", "memory")  # fsspec has others that run what they read


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageEntry(_Strict):
    """An image: its name, the size of its HR pixels."""

    name: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)

    @model_validator(mode="after")
    def _is_one_that_was_read(self) -> Self:
        if self.height * self.width > MAX_PIXELS:
            raise ValueError(f"{self.height}x{self.width} pixels; allowed: {MAX_PIXELS:,} in all")
        return self


class Shard(_Strict):
    """A file and the images in it; the name is that of a file in the same folder."""

    name: Annotated[str, Field(pattern=r"^[\w-]+\.safetensors$")]
    size: int = Field(gt=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # part of the name of a copy
    source: str  # of what it was made, so that an interrupted writing goes on
    images: list[ImageEntry] = Field(min_length=1)


class Index(_Strict):
    """All shards of a set; LR images are there for each of ``lr``, e.g. ``x4-bicubic-symmetric``."""

    format: Literal[1] = 1
    lr: list[Annotated[str, Field(pattern=r"^x[1-9]\d?-[\w-]+$")]]
    shards: list[Shard] = Field(min_length=1)

    @model_validator(mode="after")
    def _sizes_are_those_of_the_images(self) -> Self:
        """A size is believed before a byte has come: room is made for it, and more is not taken."""
        scales = [1, *(int(kind.partition("-")[0][1:]) for kind in self.lr)]
        for shard in self.shards:
            pixels = sum((image.height // s) * (image.width // s) for image in shard.images for s in scales)
            spare = shard.size - 3 * pixels
            if not 0 <= spare <= _HEADER * (1 + len(shard.images) * len(scales)):
                raise ValueError(
                    f"{shard.name} cannot have {shard.size:,} bytes, its images have {3 * pixels:,}"
                )
        return self


def write_shards(
    images: Sequence[Path], folder: Path, *, images_per_shard: int, lr_scales: Sequence[int]
) -> Index:
    """Write images into shards; what an interrupted writing has finished stays.

    Args:
        images: HR files; they are mixed, so that every shard is a sample of the whole.
        folder: Where the shards go.
        images_per_shard: 32 images of 2040x1356 make 270 MB, and as much in memory.
        lr_scales: Scales for which MATLAB's bicubic LR image is stored too; random degradations take none.

    Returns:
        What ``index.json`` says, which is written last.

    Raises:
        DataError: An image is broken, or the folder cannot be written.
    """
    mixed = [images[place] for place in permutation(0, 0, len(images)).tolist()]
    parts = [mixed[start : start + images_per_shard] for start in range(0, len(mixed), images_per_shard)]
    console = Console(stderr=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a writing that was killed
            leftover.unlink()
        shards = [
            _write_shard(part, folder / f"{number:06d}.safetensors", lr_scales)
            for number, part in track(
                enumerate(parts),
                "Writing shards",
                len(parts),
                console=console,
                disable=not console.is_terminal,
            )
        ]
        index = Index(lr=[f"x{scale}-{LR_NAME}" for scale in lr_scales], shards=shards)
        files.write(folder / INDEX, index.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(
            f"shards: cannot write {folder}: {error.strerror or error}; "
            "free space there or name another folder"
        ) from error
    return index


def _write_shard(part: Sequence[Path], path: Path, lr_scales: Sequence[int]) -> Shard:
    facts = [(str(file.resolve()), (s := file.stat()).st_size, s.st_mtime_ns) for file in part]
    source = hashlib.sha256(json.dumps([facts, list(lr_scales)]).encode()).hexdigest()
    note = path.with_suffix(".json")
    with suppress(OSError, ValidationError):
        done = Shard.model_validate_json(note.read_bytes())
        if done.source == source and path.stat().st_size == done.size:
            return done
    with ThreadPoolExecutor(WORKERS) as pool:
        loaded = list(pool.map(lambda file: _planes(file, lr_scales), part))
    tensors = {
        f"{kind}.{number}": pixels for number, own in enumerate(loaded) for kind, pixels in own.items()
    }
    path.with_name(INDEX).unlink(missing_ok=True)  # an earlier one would take this shard for its own
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary)
    temporary.chmod(0o644)  # safetensors makes it for its owner alone
    shard = Shard(
        name=path.name,
        size=temporary.stat().st_size,
        sha256=_sha256(temporary),
        source=source,
        images=[
            ImageEntry(name=file.stem, height=own["hr"].shape[1], width=own["hr"].shape[2])
            for file, own in zip(part, loaded, strict=True)
        ],
    )
    temporary.replace(path)
    files.write(note, shard.model_dump_json())
    return shard


def _planes(file: Path, lr_scales: Sequence[int]) -> dict[str, Tensor]:
    hr = torch.from_numpy(read_image(file)).permute(2, 0, 1).contiguous()
    made = {"hr": hr}
    for scale in lr_scales:
        made[f"x{scale}-{LR_NAME}"] = downscale_uint8(mod_crop(hr[None], scale), scale=scale)[0].contiguous()
    return made


def read_index(url: str) -> Index:
    """The index of a folder of shards.

    Args:
        url: A folder, or the address of one: ``https://``, ``s3://`` (needs s3fs), ``gs://`` (gcsfs).

    Raises:
        ConfigError: An address of another kind, or its package is missing.
        DataError: There is no index, or it is none of ours: too large, or with sizes that no images have.
    """
    place = f"{url.rstrip('/')}/{INDEX}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / INDEX
            _copy(place, copy, limit=MAX_INDEX)
            return Index.model_validate_json(copy.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "sizes"
        raise DataError(f"shards: {place} is no index of ours: {where}: {problem['msg']}") from error
    except OSError as error:
        raise DataError(f"shards: cannot read {place}: {error}; write the shards with task=shard") from error


class _AtMost(Callback):  # type: ignore[misc] # fsspec has no types
    """Ends a transfer that announces or brings more than so many bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def call(self, hook_name: str | None = None, **_: object) -> None:
        """After each piece."""
        if max(self.size or 0, self.value) > self.limit:
            raise OSError(f"it has more than {self.limit:,} bytes")


def _copy(url: str, target: Path, *, limit: int) -> None:
    """Fetch a file; nothing is left of one that is too long.

    Raises:
        OSError: It cannot be had, or is longer than that.
    """
    store, path = _store(url)
    here = Path(path)  # of a folder; there fsspec would wait for a pipe, and copy a device without end
    if fsspec.utils.get_protocol(url) == "file" and not (here.is_file() and here.stat().st_size <= limit):
        raise OSError(f"there is no file of at most {limit:,} bytes")
    try:
        store.get_file(path, str(target), callback=_AtMost(limit))
    except Exception as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        # Each store has errors of its own; some hold all that has come.
        raise OSError(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}") from error


def _store(url: str) -> tuple["fsspec.AbstractFileSystem", str]:
    """The file system of an address, of this process and thread, and the path in it."""
    kind = fsspec.utils.get_protocol(url)
    if kind not in _STORES or "::" in url:
        raise ConfigError(
            f"dataset.shards_dir: cannot fetch from {url!r}; allowed: a folder, "
            f"{', '.join(f'{store}://' for store in _STORES[1:-1])}"
        )
    try:
        options = {} if kind == "memory" else {"skip_instance_cache": True}  # one made before a fork hangs
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"dataset.shards_dir: {url!r} needs a package more: {error}") from error
    return store, path


class _Place(NamedTuple):
    """Where an image lies."""

    shard: int
    number: int


class Shards:
    """Local copies of shards: fetched when needed, the longest unused removed when there are too many.

    Workers and ranks of one machine share the copies: who needs a shard first fetches it, the others wait.
    Shards in a local folder are read where they are.

    Args:
        url: Folder or address of the shards.
        index: Its index.
        folder: Where copies go.
        limit: Bytes of copies that are kept.
        keep_open: Shards that a process keeps mapped.
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
        """A shard, mapped."""
        self._forget_after_fork()
        if number not in self._open:
            coming = self._coming.pop(number, None)
            path = coming.result() if coming is not None else self._fetch(number)
            try:
                self._open[number] = safe_open(path, framework="numpy")
            except FileNotFoundError:  # removed by another process since: it is fetched again
                self._open[number] = safe_open(self._fetch(number), framework="numpy")
            except SafetensorError as error:
                raise DataError(f"shards: {path} is broken: {error}; remove it") from error
            while len(self._open) > self.keep_open:
                self._open.popitem(last=False)  # a removed file takes its space until nobody has it mapped
        self._open.move_to_end(number)
        return self._open[number]

    def coming(self, numbers: Sequence[int]) -> None:
        """Shards that will be needed: fetch them in the background, one by one."""
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
                raise DataError(f"shards: {path} is missing or not whole; write it again with task=shard")
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
                if _sha256(temporary) != shard.sha256:
                    temporary.unlink()
                    raise DataError(
                        f"shards: {self.url}/{shard.name} is not what its index says (SHA-256); "
                        "write it again"
                    )
                temporary.replace(path)
        with suppress(FileNotFoundError):
            os.utime(path)  # the least recently used go first
        return path

    def _make_room(self, size: int) -> None:
        with FileLock(self.folder / "room.lock"):
            copies = []
            for path in self.folder.glob("*.safetensors"):
                with suppress(FileNotFoundError):
                    copies.append((path.stat().st_mtime, path.stat().st_size, path))
            total = sum(own for _, own, _ in copies) + size
            for changed, own, path in sorted(copies):
                if total <= self.limit or time.time() - changed < 1:
                    break
                path.unlink(missing_ok=True)
                total -= own


class ShardedImages:
    """One image of each entry of an index, as `sr_lab.datasets.cache.ImageCache` gives them.

    Args:
        shards: Where they are.
        kind: ``hr``, or an LR image such as ``x4-bicubic-symmetric``.
        scale: Size of HR over size of these.
    """

    def __init__(self, shards: Shards, kind: str, *, scale: int = 1) -> None:
        self.shards = shards
        self.kind = kind
        entries = [image for shard in shards.index.shards for image in shard.images]
        self.records = [Record(entry.height // scale, entry.width // scale, "") for entry in entries]
        self.places = [
            _Place(number, image)
            for number, shard in enumerate(shards.index.shards)
            for image in range(len(shard.images))
        ]

    def open(self) -> None:
        """Nothing is open before it is needed."""

    def patch(self, index: int, top: int, left: int, size: int) -> NDArray[np.uint8]:
        """``(3, size, size)``; nothing else of the image is read."""
        place, record = self.places[index], self.records[index]
        pixels = self.shards.file(place.shard).get_slice(  # type: ignore[no-untyped-call]
            f"{self.kind}.{place.number}"
        )
        if pixels.get_shape() != [3, record.height, record.width] or pixels.get_dtype() != "U8":
            raise DataError(
                f"shards: image {place.number} of {self.shards.index.shards[place.shard].name} is "
                f"{pixels.get_dtype()} {pixels.get_shape()}, not as the index says; write the shards again"
            )
        cut: NDArray[np.uint8] = pixels[:, top : top + size, left : left + size]
        return cut


class Pass(NamedTuple):
    """One pass over the images of all shards."""

    images: NDArray[np.int64]  # in their order, ``(num_images,)``
    groups: list[list[int]]  # shards whose images are mixed
    ends: NDArray[np.int64]  # how many images have come at the end of each group


class ShardOrder:
    """Order of the images in each pass: shards in random order, ``mixed`` at a time, their images mixed.

    A function of the seed and the number of the pass; every image comes once in a pass. A reader needs the
    shards of one group at a time.

    Args:
        sizes: Images of each shard.
        mixed: Shards of a group.
    """

    def __init__(self, sizes: Sequence[int], *, mixed: int) -> None:
        self.sizes = tuple(sizes)
        self.mixed = mixed

    def __call__(self, seed: int, number: int, count: int) -> NDArray[np.int64]:
        """Images of a pass in their order, as `sr_lab.datasets.sampling.permutation` gives them."""
        assert count == sum(self.sizes)
        return self.of_pass(seed, number).images

    def of_pass(self, seed: int, number: int) -> Pass:
        """The pass with this number."""
        return _pass(self.sizes, self.mixed, seed, number)


@lru_cache(maxsize=4)
def _pass(sizes: tuple[int, ...], mixed: int, seed: int, number: int) -> Pass:
    first = np.concatenate([[0], np.cumsum(sizes)])
    shards = permutation(seed, number, len(sizes)).tolist()
    groups = [shards[start : start + mixed] for start in range(0, len(shards), mixed)]
    parts = []
    for place, group in enumerate(groups):
        images = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in group])
        parts.append(images[permutation(seed, ((number + 1) << 32) + place, len(images))])
    order = np.concatenate(parts)
    order.flags.writeable = False  # the cache hands it to every caller
    return Pass(order, groups, np.cumsum([len(part) for part in parts]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
