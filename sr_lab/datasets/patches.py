"""Pairs of LR and HR patches from cached images, the base of every training set."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sr_lab.datasets.cache import ImageCache, in_parallel
from sr_lab.datasets.images import read_image
from sr_lab.datasets.sampling import draw
from sr_lab.datasets.sharing import empty
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.resize import mod_crop


class Degradation(Protocol):
    """Makes LR images; the same for the same HR image, since they are cached."""

    scale: int

    @property
    def name(self) -> str:
        """What the LR images depend on besides the scale."""

    def __call__(self, hr: Tensor) -> Tensor:
        """uint8 ``(N, 3, rH, rW)`` -> uint8 ``(N, 3, H, W)``."""


class Patch(TypedDict):
    """One sample: uint8 ``(3, p, p)`` and ``(3, rp, rp)``."""

    lr: Tensor
    hr: Tensor
    name: str
    dihedral: int


class PatchBatch(TypedDict):
    """N samples: uint8 ``(N, 3, p, p)`` and ``(N, 3, rp, rp)``, and the codes of their flips, ``(N,)``."""

    lr: Tensor
    hr: Tensor
    name: list[str]
    dihedral: Tensor


class PatchDataset(Dataset[Patch]):
    """Endless stream of patches, addressed by the number of the sample.

    ``len()`` is the number of training images, one pass; any number from 0 up is valid (`draw`). The flips
    are only drawn here: `sr_lab.ops.dihedral.dihedral` applies them to ``lr`` and ``hr`` on the device.

    Args:
        files: HR images to train on.
        val_files: Images held out for validation; not part of the stream.
        lr_files: LR image of each of ``files``; ``None`` makes it of the whole image with ``degradation``.
        scale: Size of HR over size of LR.
        lr_patch_size: Side of the LR patch p; the HR patch has ``scale`` times as much.
        degradation: Makes LR from HR.
        cache_dir: Folder for decoded images.
        seed: Seed of the stream.
        augment: Draw flips and transpositions; otherwise every code is 0.

    Raises:
        ConfigError: ``scale`` or ``lr_patch_size`` is below 1, or ``degradation`` has another scale.
    """

    def __init__(
        self,
        *,
        files: Sequence[Path],
        val_files: Sequence[Path],
        lr_files: Sequence[Path] | None = None,
        scale: int,
        lr_patch_size: int,
        degradation: Degradation,
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
                f"degradation: its scale is {degradation.scale}, that of the dataset is {scale}; "
                "set scale=... alone, both follow from it"
            )
        self.files = list(files)
        self.val_files = list(val_files)
        self.lr_files = None if lr_files is None else list(lr_files)
        self.scale = scale
        self.lr_patch_size = lr_patch_size
        self.degradation = degradation
        self.seed = seed
        self.augment = augment
        cache = Path(cache_dir).expanduser()
        decoded = cache / "decoded"
        self._hr = ImageCache(decoded, self.files)
        if self.lr_files is None:
            self._lr = ImageCache(cache / f"x{scale}-{degradation.name}", self.files)
        else:
            self._lr = ImageCache(decoded, self.lr_files)
        self._lr_heights = np.empty(0, dtype=np.int64)
        self._lr_widths = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, sample: int) -> Patch:
        batch = self.__getitems__([sample])
        return {
            "lr": batch["lr"][0],
            "hr": batch["hr"][0],
            "name": batch["name"][0],
            "dihedral": int(batch["dihedral"][0]),
        }

    def __getitems__(self, samples: Sequence[int]) -> PatchBatch:
        """A whole batch at once, in one buffer; the data loader calls it with the numbers of the samples."""
        if len(self._lr_heights) == 0:
            self._open()
        size, scale = self.lr_patch_size, self.scale
        drawn = draw(
            samples, seed=self.seed, heights=self._lr_heights, widths=self._lr_widths, patch_size=size
        )
        count, lr_bytes = len(samples), len(samples) * 3 * size**2
        hr_bytes = lr_bytes * scale**2
        buffer = empty(lr_bytes + hr_bytes + count)
        lr = buffer[:lr_bytes].view(count, 3, size, size)
        hr = buffer[lr_bytes : lr_bytes + hr_bytes].view(count, 3, scale * size, scale * size)
        codes = buffer[lr_bytes + hr_bytes :]
        lr_pixels, hr_pixels = lr.numpy(), hr.numpy()
        places = zip(drawn.image.tolist(), drawn.top.tolist(), drawn.left.tolist(), strict=True)
        for number, (image, top, left) in enumerate(places):
            bottom, right = top + size, left + size
            lr_pixels[number] = self._lr.image(image)[:, top:bottom, left:right]
            hr_pixels[number] = self._hr.image(image)[
                :, scale * top : scale * bottom, scale * left : scale * right
            ]
        codes.copy_(torch.from_numpy(drawn.dihedral) * self.augment)
        return {
            "lr": lr,
            "hr": hr,
            "name": [self.files[image].stem for image in drawn.image.tolist()],
            "dihedral": codes,
        }

    def prepare(self) -> None:
        """Check every file and build the cache: once, before training, on one process of each machine.

        Raises:
            DataError: A file is broken or too small for the patch, an LR image has the wrong size, or the
                cache cannot be written.
        """
        in_parallel(read_image, self.val_files)
        self._hr.build(lambda index: _planes(self.files[index]), title="Decoding HR images")
        self._check_hr()
        if self.lr_files is None:
            self._lr.build(self._degrade, title=f"Making LR images x{self.scale}")
        else:
            lr_files = self.lr_files
            self._lr.build(lambda index: _planes(lr_files[index]), title="Decoding LR images")
            self._check_lr(lr_files)

    def manifest(self) -> str:
        """SHA-256 over names and sizes of all files, part of a run's identity; paths do not matter."""
        groups = (self.files, self.lr_files or [], self.val_files)
        facts = [sorted((file.name, file.stat().st_size) for file in group) for group in groups]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _open(self) -> None:
        self._hr.open()
        self._lr.open()
        self._lr_heights = np.array([record.height for record in self._lr.records], dtype=np.int64)
        self._lr_widths = np.array([record.width for record in self._lr.records], dtype=np.int64)

    def _degrade(self, index: int) -> NDArray[np.uint8]:
        hr = mod_crop(torch.from_numpy(self._hr.map(index)).unsqueeze(0), self.scale)
        lr = self.degradation(hr)
        assert lr.shape[-2:] == (
            hr.shape[-2] // self.scale,
            hr.shape[-1] // self.scale,
        )  # before it is cached
        return lr.squeeze(0).numpy()

    def _check_hr(self) -> None:
        need = self.scale * self.lr_patch_size
        for file, record in zip(self.files, self._hr.records, strict=True):
            if min(record.height, record.width) < need:
                raise DataError(
                    f"dataset: {file} is {record.height}x{record.width}, but patches of lr_patch_size="
                    f"{self.lr_patch_size} at scale={self.scale} need {need}x{need}; "
                    "remove the image or lower dataset.lr_patch_size"
                )

    def _check_lr(self, lr_files: Sequence[Path]) -> None:
        for hr_file, lr_file, hr, lr in zip(
            self.files, lr_files, self._hr.records, self._lr.records, strict=True
        ):
            height, width = hr.height // self.scale, hr.width // self.scale
            if (lr.height, lr.width) != (height, width):
                raise DataError(
                    f"dataset: the LR image {lr_file} is {lr.height}x{lr.width}, but {hr_file} is "
                    f"{hr.height}x{hr.width}; at scale={self.scale} the LR image must be {height}x{width}"
                )


def _planes(file: Path) -> NDArray[np.uint8]:
    return read_image(file).transpose(2, 0, 1)
