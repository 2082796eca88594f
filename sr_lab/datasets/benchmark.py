"""Test sets: whole images, with the LR images of a protocol."""

import hashlib
import json
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sr_lab.datasets.facts import pixel_hash, set_names
from sr_lab.datasets.given import check_sizes, lr_partners
from sr_lab.datasets.images import is_grey, list_images, read_image
from sr_lab.datasets.layouts import places
from sr_lab.datasets.names import is_scene
from sr_lab.datasets.registry import IMAGE_SETS, benchmark_dirs, how_to_get
from sr_lab.datasets.sample import benchmark_photographs
from sr_lab.errors import ConfigError, DataError, did_you_mean
from sr_lab.ops.metrics import SSIM_WINDOW
from sr_lab.ops.resize import mod_crop
from sr_lab.protocol import Protocol

_WORKERS = 4
_SHOWN = 5  # images that an error lists


class BenchmarkImage(TypedDict):
    """One image: ``lr`` float32 ``(3 or 1, h, w)`` in [0, 1], ``hr`` uint8 ``(3, scale * h, scale * w)``."""

    lr: Tensor
    hr: Tensor
    name: str
    grey: bool


class MeasuredSet(typing.Protocol):
    """Images that a network is measured on."""

    @property
    def name(self) -> str:
        """Name in tables and metrics."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> BenchmarkImage:
        """One image."""


class BenchmarkSet(Dataset[BenchmarkImage]):
    """A test set under one protocol; an image is read and downscaled when it is accessed.

    Args:
        name: Name in tables and metrics, e.g. ``Set5``.
        files: HR images, e.g. from `benchmark_files`.
        scale: Downscaling factor.
        protocol: Makes the LR images; `Protocol.measure` takes the ``hr`` and ``grey`` of an image.
        lr_files: Given LR image for each of ``files``. ``None``: the protocol makes them.
        limit: How many of ``files`` to use, starting with the first. ``None``: all.

    Raises:
        ConfigError: ``limit`` is below 1.
        DataError: There are no files, or a given LR image has the wrong size; on access, an image is broken
            or too small to be measured.
    """

    def __init__(
        self,
        *,
        name: str,
        files: Sequence[Path],
        scale: int,
        protocol: Protocol,
        lr_files: Sequence[Path] | None = None,
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"benchmark {name}: limit must be at least 1, got {limit}")
        if not files:
            raise DataError(f"benchmark {name}: there are no images; give a folder with HR images")
        self.name = name
        self.files = list(files)[:limit]
        self.lr_files = None if lr_files is None else list(lr_files)[:limit]
        self.scale = scale
        self.protocol = protocol
        if self.lr_files is not None:
            check_sizes(self.files, self.lr_files, scale, where=f"benchmark {name}")

    @classmethod
    def of(
        cls, name: str, *, data_dir: str | Path, scale: int, protocol: Protocol, lr_dir: Path | None = None
    ) -> "BenchmarkSet":
        """The test set with this name; see `benchmark_files`.

        If the protocol measures on given LR images, they come from ``lr_dir``, by default from
        ``LR/X<scale>`` next to the HR images' folder.

        Raises:
            DataError: The HR images or the given LR images are missing.
        """
        files = benchmark_files(data_dir, name)
        lr_files = None
        if protocol.lr_source == "given":
            folder = files[0].parent.parent / "LR" / f"X{scale}" if lr_dir is None else lr_dir
            if not folder.is_dir():
                raise DataError(
                    f"benchmark {name}: there is no folder {folder} with given LR images; put them there, "
                    "set benchmark.lr_dir, or set benchmark.lr=made to make them"
                )
            lr_files = lr_partners(files, folder, scale, where=f"benchmark {name}")
        return cls(name=name, files=files, scale=scale, protocol=protocol, lr_files=lr_files)

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """`digest_of_images` of its HR images and of given LR images."""
        return digest_of_images(self.files, self.lr_files or ())

    def __getitem__(self, index: int) -> BenchmarkImage:
        file = self.files[index]
        hr = mod_crop(torch.from_numpy(read_image(file)).permute(2, 0, 1), self.scale).contiguous()
        need = SSIM_WINDOW + 2 * self.protocol.crop_border(self.scale)
        if min(hr.shape[-2:]) < need:
            raise DataError(
                f"benchmark {self.name}: {file} is {hr.shape[-1]}x{hr.shape[-2]} pixels when cropped to "
                f"multiples of scale={self.scale}; measuring needs {need}x{need}, so remove the image"
            )
        grey = is_grey(file)
        if self.lr_files is None:
            lr = self.protocol.make_lr(hr.unsqueeze(0), self.scale, grey=grey).squeeze(0)
        else:
            lr = torch.from_numpy(read_image(self.lr_files[index])).permute(2, 0, 1).float() / 255
        return {"lr": lr, "hr": hr, "name": file.stem, "grey": grey}


def digest_of_images(hr_files: Sequence[Path], lr_files: Sequence[Path] = ()) -> str:
    """SHA-256 of the names and pixels of HR images, and of the pixels of given LR images.

    Neither the folder nor the format of lossless files matters.

    Raises:
        DataError: An image is broken.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        pixels = list(pool.map(_pixels, [*hr_files, *lr_files]))
    facts = [[file.stem for file in hr_files], pixels]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _pixels(file: Path) -> tuple[str, bool]:
    """Hash of the pixels of an image, and whether it has one channel, which ``classic_y`` treats as luma."""
    return pixel_hash(read_image(file)), is_grey(file)


def benchmark_files(data_dir: str | Path, name: str) -> list[Path]:
    """HR images of a test set, from one of `benchmark_dirs`, or scikit-image's images for ``sample``.

    Args:
        data_dir: ``paths.data_dir``.
        name: Folder of the set, e.g. ``Set5``.

    Returns:
        Paths, sorted by name.

    Raises:
        DataError: The folder is missing or has no image, or several folders have the set's name, spelled
            differently.
    """
    if name == "sample":
        return benchmark_photographs()
    data_dir = Path(data_dir)
    folder, *others = benchmark_dirs(data_dir, name)
    if others:
        raise DataError(
            f"benchmark {name}: both {folder} and {others[0]} may hold its HR images; rename the right one "
            f"to {data_dir / 'benchmarks' / name / 'HR'}"
        )
    if not folder.is_dir():
        found = (place.parent.name for place in data_dir.glob("benchmarks/*/HR"))
        known = ("sample", *found, *(image_set.name for image_set in IMAGE_SETS))
        raise DataError(
            f"benchmark {name}: there is no folder {folder}; "
            + (_elsewhere(data_dir, name) or "put its HR images there or set paths.data_dir")
            + (how_to_get(folder) or did_you_mean(name, known))
        )
    return list_images(folder, where=f"benchmark {name}")


def benchmark_image(data_dir: str | Path, name: str, *, where: str) -> tuple[str, Path]:
    """A test set and the HR image in it that a name like ``Set14/barbara`` stands for.

    Args:
        data_dir: ``paths.data_dir``.
        name: Set and image; ``Urban100/img011`` also finds ``img_011.png``.
        where: The setting that names it, for messages.

    Raises:
        DataError: The set is missing (see `benchmark_files`), or has no such image.
    """
    set_name, _, image = name.partition("/")
    files = benchmark_files(data_dir, set_name)
    found = [file for file in files if is_scene(image, file.stem)]
    if len(found) != 1:
        listed = ", ".join(file.stem for file in (found or files)[:_SHOWN])
        more = ", ..." if len(found or files) > _SHOWN else ""
        near = "" if found else did_you_mean(image, [file.stem for file in files])
        what = f"several images are called '{image}'" if found else f"there is no image '{image}'"
        raise DataError(f"{where}: in {set_name} {what}; allowed: {listed}{more}{near}")
    return set_name, found[0]


def _elsewhere(data_dir: Path, name: str) -> str:
    """What to do if ``data_dir`` has a published test set in the layout of another project."""
    if (set_name := set_names().get(name.lower())) is None:
        return ""
    found = (one for one in places(data_dir) if (one.set_name, one.role, one.cut) == (set_name, "HR", 1))
    place = next(found, None)
    return "" if place is None else f"its images seem to be in {place.folder}: move them there"
