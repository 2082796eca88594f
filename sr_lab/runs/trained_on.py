"""``images.json``: the images that a run was trained on, since its hash covers only their names and sizes."""

import functools
import glob
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel

from sr_lab import files
from sr_lab.config.identity import identity, training_set
from sr_lab.config.identity_record import hash8, without_code
from sr_lab.config.schema import Config, TrainConfig
from sr_lab.datasets.cache import WORKERS
from sr_lab.datasets.facts import pixel_hash
from sr_lab.datasets.images import read_image
from sr_lab.datasets.pairs import TrainingSet, as_training_set
from sr_lab.errors import DataError
from sr_lab.run_folder import RunFolder

# What to do about the phrases of `changed_since`.
REMEDY = "the results are for the earlier images; resume=never trains on the current ones"


class _Images(BaseModel):
    """The content of ``images.json``. Earlier versions recorded neither the validation images nor the files.

    Args:
        run: Hash of the run, without its code.
        training: Hash of the run without its images.
        images: A line for each training image: its name and the hash of its pixels.
        validation: The same for the validation images, by which the best checkpoint is chosen.
        files: Digest of the paths, sizes and modification times of all files.
    """

    run: str
    training: str
    images: list[str]
    validation: list[str] | None = None
    files: str | None = None

    def has_same_images(self, other: "_Images") -> bool:
        """Whether these are the same images, as far as is known."""
        known = None not in (self.validation, other.validation)
        return self.images == other.images and (not known or self.validation == other.validation)


@functools.lru_cache(maxsize=1)
def training_data(config: Config) -> TrainingSet:
    """The training pairs of a configuration, built once; see `sr_lab.datasets.pairs` for errors."""
    return as_training_set(training_set(config), scale=config.scale, seed=config.seed)


def note_images(config: TrainConfig, folder: RunFolder, dataset: TrainingSet, *, resumed: bool) -> str | None:
    """Record which images a run is trained on, and compare them with those of earlier runs.

    Only a comparison of pixels detects an image that was replaced by another with the same name and size.

    Args:
        config: Configuration of the training run.
        folder: Its run folder.
        dataset: Its images, already prepared.
        resumed: Whether the run is resumed.

    Returns:
        A note for the user if an earlier run with the same settings used other images.

    Raises:
        DataError: The run is resumed, and its images have changed since it started.
    """
    now = _present(config, dataset)
    before = _recorded(folder) if resumed else None
    if before is not None:
        if not before.has_same_images(now):
            raise DataError(
                f"dataset: {_difference(before, now)} since '{folder.path}' was started; restore the images, "
                f"start from scratch with resume=never, or remove {folder.trained_on} to use the new images"
            )
        return None
    files.write(folder.trained_on, now.model_dump_json(indent=1) + "\n")
    name = folder.path.name.rpartition("-")[0]
    for path in folder.path.parent.glob(f"{glob.escape(name)}-*"):
        before = None if resumed else _recorded(RunFolder(path))
        if before is None or before.training != now.training:
            continue
        if before.run != now.run or not before.has_same_images(now):
            return f"dataset: {_difference(before, now)} since '{path}' was trained; this is a new run"
    return None


def changed_since(config: TrainConfig, folders: Sequence[RunFolder]) -> list[str]:
    """A phrase for each finished run whose images differ from those that a configuration names now.

    If the files have the recorded paths, sizes and modification times, no image is read: checking 900
    images takes about 0.03 s. Otherwise the pixels are compared by their hashes. The cache may have the
    hashes of training images; any other image has to be decoded, which takes about 0.06 s.

    Args:
        config: Configuration of the runs, which may differ in everything but the images.
        folders: Run folders; those without ``images.json`` are left out.
    """
    dataset = training_data(config)
    stamp, now, found = _stamp(config, dataset), None, []
    for folder in folders:
        before = _recorded(folder)
        if before is None or before.files == stamp:
            continue
        now = now or _present(config, dataset)
        if not before.has_same_images(now):
            found.append(f"{_difference(before, now)} since '{folder.path}' was trained")
    return found


def _present(config: TrainConfig, dataset: TrainingSet) -> _Images:
    """The images that the configuration names now."""
    values = without_code(identity(config))
    try:
        images = dataset.fingerprints()
    except DataError:  # the cache does not have them
        images = _lines([*dataset.files, *(dataset.lr_files or ())])
    return _Images(
        run=hash8(values),
        training=hash8({key: value for key, value in values.items() if key != "manifest"}),
        images=[str(files.plain(line)) for line in images],
        validation=[str(files.plain(line)) for line in _lines(_validating(config, dataset))],
        files=_stamp(config, dataset),
    )


def _validating(config: TrainConfig, dataset: TrainingSet) -> list[Path]:
    """The held-out images by which the best checkpoint is chosen, and their given LR images."""
    count = config.validation.count
    return [*dataset.val_files[:count], *(dataset.val_lr_files or [])[:count]]


def _lines(images: Sequence[Path]) -> list[str]:
    """Name of each image and SHA-256 of its pixels, as in `PatchDataset.fingerprints`."""
    with ThreadPoolExecutor(WORKERS) as pool:
        pixels = list(pool.map(_pixels, images))
    return sorted({f"{file.name} {own[:16]}" for file, own in zip(images, pixels, strict=True)})


def _pixels(file: Path) -> str:
    try:
        status = file.stat()
        return _pixels_of(file, status.st_size, status.st_mtime_ns)
    except (DataError, OSError):
        return "unreadable"


@functools.lru_cache(maxsize=10_000)  # the jobs of a sweep have the same images
def _pixels_of(file: Path, size: int, modified: int) -> str:
    return pixel_hash(read_image(file))


def _stamp(config: TrainConfig, dataset: TrainingSet) -> str:
    """Digest of what the file system says about the images; images in shards have no files."""
    facts: list[tuple[str, int, int]] = []
    for file in [*dataset.files, *(dataset.lr_files or ()), *_validating(config, dataset)]:
        try:
            status = file.stat()
        except OSError:
            continue
        facts.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


def _recorded(folder: RunFolder) -> _Images | None:
    """What `note_images` wrote, or ``None`` if that cannot be read."""
    try:
        return _Images.model_validate(files.read_json(folder.trained_on))
    except (OSError, ValueError):
        return None


def _difference(before: _Images, now: _Images) -> str:
    """How many images differ, and the names of the first three."""
    kind = "training"
    names = _names(before.images, now.images)
    if not names:
        kind, names = "validation", _names(before.validation or [], now.validation or [])
    if not names or (kind == "validation" and before.validation is None):
        return "validation images have changed"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {kind} image(s) have changed ({', '.join(names[:3])}{more})"


def _names(before: Sequence[str], now: Sequence[str]) -> list[str]:
    return sorted({line.rpartition(" ")[0] for line in set(before) ^ set(now)})
