"""Pairs of LR and HR patches from cached images: the base class of every training set."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sr_lab.datasets.cache import ImageCache, Record, in_parallel
from sr_lab.datasets.given import check_size, check_sizes
from sr_lab.datasets.images import image_size, read_image
from sr_lab.datasets.sampling import Order, draw, keys, permutation
from sr_lab.datasets.sharing import empty
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.resize import mod_crop


class Degradation(Protocol):
    """Makes LR images for the cache: the same HR image must always give the same LR image."""

    scale: int

    @property
    def name(self) -> str:
        """Identifies the settings, apart from the scale, that the LR images depend on; names their cache."""

    def __call__(self, hr: Tensor) -> Tensor:
        """uint8 ``(N, 3, rH, rW)`` -> uint8 ``(N, 3, H, W)``."""


@runtime_checkable
class RandomDegradation(Protocol):
    """Makes new LR patches in every batch, on the device, from a window around the HR patch."""

    scale: int
    margin: int  # LR pixels between the patch and the edge of the window

    def __call__(self, hr: Tensor, keys: Sequence[int]) -> Tensor:
        """uint8 ``(N, 3, r(p + 2 margin), r(p + 2 margin))`` and N keys -> uint8 ``(N, 3, p, p)``."""

    def describe(self) -> str:
        """One sentence to print above a table."""


class Images(Protocol):
    """Decoded images, accessed by index."""

    @property
    def records(self) -> Sequence[Record]:
        """The size of each image."""

    def open(self) -> None:
        """Prepare for reading."""

    def patch(self, index: int, top: int, left: int, size: int) -> NDArray[np.uint8]:
        """A square patch of an image, ``(3, size, size)``."""


class PatchBatch(TypedDict):
    """N samples: ``lr`` uint8 ``(N, 3, p, p)``, ``hr`` uint8 ``(N, 3, rp, rp)`` and the codes of their flips.

    A `PairDataset` may give floats in [0, 1], and gives no codes. If the degradation is random, ``hr`` is the
    window, ``key`` has a seed for each sample, and `with_lr` makes ``lr`` on the device.
    """

    lr: NotRequired[Tensor]
    hr: Tensor
    name: list[str]
    dihedral: NotRequired[Tensor]
    key: NotRequired[list[int]]


class PatchDataset(Dataset[PatchBatch]):
    """An endless stream of patches; ``__getitems__`` returns the batch for a list of sample numbers.

    ``len()`` is the number of training images, which is one pass; any sample number from 0 up is valid
    (`draw`). Flips are only drawn here, not applied: `sr_lab.ops.dihedral.dihedral` applies them on the
    device.

    Args:
        files: HR images to train on.
        val_files: Images for validation; not part of the stream.
        lr_files: LR image of each of ``files``. ``None``: ``degradation`` makes it from the whole HR image.
        val_lr_files: LR image of each of ``val_files``. ``None``: it is made when validating.
        scale: Size of an HR image divided by the size of its LR image.
        lr_patch_size: Side p of the LR patch; the side of the HR patch is ``scale`` times as long.
        degradation: Makes the LR images: once for every image, or in every batch if it is random.
        cache_dir: Folder for decoded images.
        seed: Seed of the stream.
        augment: Whether to draw flips and transpositions; if not, every code is 0.

    Raises:
        ConfigError: ``scale`` or ``lr_patch_size`` is below 1, or ``degradation`` has a different scale or is
            random although LR images are given.
    """

    def __init__(
        self,
        *,
        files: Sequence[Path],
        val_files: Sequence[Path],
        lr_files: Sequence[Path] | None = None,
        val_lr_files: Sequence[Path] | None = None,
        scale: int,
        lr_patch_size: int,
        degradation: Degradation | RandomDegradation,
        cache_dir: str,
        seed: int,
        augment: bool,
    ) -> None:
        if scale < 1 or lr_patch_size < 1:
            raise ConfigError(
                f"dataset: scale and lr_patch_size must be at least 1, got {scale} and {lr_patch_size}"
            )
        if degradation.scale != scale:
            raise ConfigError(
                f"degradation: its scale is {degradation.scale}, but the dataset's is {scale}; "
                "set only scale=..., which sets both"
            )
        self.files = list(files)
        self.val_files = list(val_files)
        self.lr_files = None if lr_files is None else list(lr_files)
        self.val_lr_files = None if val_lr_files is None else list(val_lr_files)
        self.scale = scale
        self.lr_patch_size = lr_patch_size
        self.degradation = degradation
        self.seed = seed
        self.augment = augment
        cache = Path(cache_dir).expanduser()
        decoded = cache / "decoded"
        self._hr_cache = ImageCache(decoded, self.files)
        self._lr_cache: ImageCache | None = None
        self._margin = 0
        if isinstance(degradation, RandomDegradation):
            if self.lr_files is not None:
                raise ConfigError(
                    "dataset.lr_dir: names LR images, but a random degradation makes its own; "
                    "leave lr_dir out or set degradation=bicubic"
                )
            self._margin = degradation.margin
        elif self.lr_files is None:
            self._lr_cache = ImageCache(cache / f"x{scale}-{degradation.name}", self.files)
        else:
            self._lr_cache = ImageCache(decoded, self.lr_files)
        self._hr: Images = self._hr_cache
        self._lr: Images | None = self._lr_cache
        self._order: Order = permutation
        self._lr_heights = np.empty(0, dtype=np.int64)
        self._lr_widths = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, samples: Sequence[int]) -> PatchBatch:
        """Return a whole batch in one buffer; the data loader calls this with the sample numbers."""
        if len(self._lr_heights) == 0:
            self._open()
        size, scale = self.lr_patch_size + 2 * self._margin, self.scale
        drawn = draw(
            samples,
            seed=self.seed,
            heights=self._lr_heights,
            widths=self._lr_widths,
            patch_size=size,
            order=self._order,
        )
        count = len(samples)
        lr_bytes = count * 3 * size**2 if self._lr is not None else 0
        hr_bytes = count * 3 * (scale * size) ** 2
        buffer = empty(lr_bytes + hr_bytes + count)
        hr = buffer[lr_bytes : lr_bytes + hr_bytes].view(count, 3, scale * size, scale * size)
        codes = buffer[lr_bytes + hr_bytes :]
        codes.copy_(torch.from_numpy(drawn.dihedral) * self.augment)
        images = drawn.image.tolist()
        places = list(zip(images, drawn.top.tolist(), drawn.left.tolist(), strict=True))
        batch: PatchBatch = {
            "hr": hr,
            "name": [self.files[image].stem for image in images],
            "dihedral": codes,
        }
        if self._lr is not None:
            batch["lr"] = lr = buffer[:lr_bytes].view(count, 3, size, size)
            _cut(self._lr, places, lr)
        else:
            batch["key"] = keys(samples, seed=self.seed)
        _cut(self._hr, [(image, scale * top, scale * left) for image, top, left in places], hr)
        return batch

    def prepare(self) -> None:
        """Check every file and build the cache; call this once before training, in one process per machine.

        Raises:
            DataError: A file is broken or too small for the patch, an LR image has the wrong size, or the
                cache cannot be written.
        """
        in_parallel(read_image, [*self.val_files, *(self.val_lr_files or [])])
        if self.val_lr_files is not None:
            check_sizes(self.val_files, self.val_lr_files, self.scale, where="dataset")
        self._hr_cache.build(lambda index: _planes(self.files[index]), title="Decoding HR images")
        self._check_hr()
        if self._lr_cache is None:
            return
        if self.lr_files is None:
            self._lr_cache.build(self._degrade, title=f"Making LR images x{self.scale}")
        else:
            lr_files = self.lr_files
            self._lr_cache.build(lambda index: _planes(lr_files[index]), title="Decoding LR images")
            self._check_lr(lr_files, self._lr_cache.records)

    def bytes_to_prepare(self) -> int:
        """Bytes that `prepare` will write, 0 once it has run.

        Raises:
            DataError: A file is missing or not an image.
        """
        size = 0
        if not self._hr_cache.is_built():
            size += sum(3 * math.prod(image_size(file)) for file in self.files)
        if self._lr_cache is not None and not self._lr_cache.is_built():
            lr_files, shrunk = (self.files, self.scale**2) if self.lr_files is None else (self.lr_files, 1)
            size += sum(3 * math.prod(image_size(file)) // shrunk for file in lr_files)
        return size

    def manifest(self) -> str:
        """SHA-256 of the names and sizes of all files, but not of their paths; part of a run's identity."""
        groups = [self.files, self.lr_files or [], self.val_files]
        groups += [] if self.val_lr_files is None else [self.val_lr_files]
        facts = [sorted((file.name, file.stat().st_size) for file in group) for group in groups]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def fingerprints(self) -> list[str]:
        """Name of each training image and SHA-256 of its pixels, where known; call `prepare` first."""
        pairs = list(zip(self.files, self._hr.records, strict=True))
        if self._lr_cache is not None and self.lr_files is not None:
            pairs += zip(self.lr_files, self._lr_cache.records, strict=True)
        return sorted({f"{file.name} {record.sha256[:16]}" for file, record in pairs})

    def _open(self) -> None:
        self._hr.open()
        if self._lr is not None:
            self._lr.open()
        sizes = np.array([(record.height, record.width) for record in self._hr.records], dtype=np.int64)
        self._lr_heights, self._lr_widths = (sizes // self.scale).T

    def _degrade(self, index: int) -> NDArray[np.uint8]:
        hr = mod_crop(torch.from_numpy(self._hr_cache.map(index)).unsqueeze(0), self.scale)
        assert not isinstance(self.degradation, RandomDegradation)
        lr = self.degradation(hr)
        assert [self.scale * side for side in lr.shape[-2:]] == list(hr.shape[-2:])
        return lr.squeeze(0).numpy()

    def _check_hr(self) -> None:
        need = self.scale * (self.lr_patch_size + 2 * self._margin)
        around = f", including {self._margin} LR pixels on each side" if self._margin else ""
        for file, record in zip(self.files, self._hr.records, strict=True):
            if min(record.height, record.width) < need:
                raise DataError(
                    f"dataset: {file} is {record.width}x{record.height} pixels, but patches of lr_patch_size="
                    f"{self.lr_patch_size} at scale={self.scale} need {need}x{need}{around}; "
                    "remove the image or lower dataset.lr_patch_size"
                )

    def _check_lr(self, lr_files: Sequence[Path], lr_records: Sequence[Record]) -> None:
        for hr_file, lr_file, hr, lr in zip(self.files, lr_files, self._hr.records, lr_records, strict=True):
            sizes = (hr.height, hr.width), (lr.height, lr.width)
            check_size(hr_file, sizes[0], lr_file, sizes[1], self.scale, where="dataset")


def with_lr(batch: PatchBatch, degradation: RandomDegradation) -> PatchBatch:
    """Turn a batch of windows into a batch of patches, making the LR patches on the batch's device."""
    border = degradation.scale * degradation.margin
    hr = batch["hr"]
    return {**batch, "lr": degradation(hr, batch["key"]), "hr": hr[..., border:-border, border:-border]}


def _cut(images: Images, places: Sequence[tuple[int, int, int]], patches: Tensor) -> None:
    """Copy the patches at (image, top, left) into a batch."""
    pixels, size = patches.numpy(), patches.shape[-1]
    for number, (image, top, left) in enumerate(places):
        pixels[number] = images.patch(image, top, left, size)


def _planes(file: Path) -> NDArray[np.uint8]:
    return read_image(file).transpose(2, 0, 1)
