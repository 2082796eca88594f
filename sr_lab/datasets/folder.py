"""Training pairs from image folders: the user's own, or DIV2K and Flickr2K."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab.datasets.images import list_images
from sr_lab.datasets.patches import Degradation, PatchDataset, RandomDegradation
from sr_lab.errors import ConfigError, DataError


class FolderDataset(PatchDataset):
    """Patches of all images of one or more folders.

    Args:
        hr_dir: Folder of HR images, or a list of folders.
        lr_dir: Folder of LR images for each HR folder, in the same order. The LR image of ``0001.png`` is
            ``0001.png``, ``0001x4.png`` or ``0001_x4.png`` (at scale 4), in any format. ``None`` makes them.
        val_dir: Folder or folders of validation images. ``None`` holds out the last images of ``hr_dir``.
        val_count: Number of validation images: the first of ``val_dir`` (``None``: all of them), or the last
            of ``hr_dir`` (``None``: 5 %, at least one).

    The other arguments are those of `PatchDataset`.

    Raises:
        ConfigError: ``val_count`` is below 1, or ``lr_dir`` and ``hr_dir`` differ in number.
        DataError: A folder is missing or empty, an LR image is missing, or no training image is left.
    """

    def __init__(
        self,
        *,
        hr_dir: str | Sequence[str],
        lr_dir: str | Sequence[str] | None = None,
        val_dir: str | Sequence[str] | None = None,
        val_count: int | None = None,
        scale: int,
        lr_patch_size: int = 48,
        degradation: Degradation | RandomDegradation,
        cache_dir: str,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        if val_count is not None and val_count < 1:
            raise ConfigError(f"dataset: val_count must be at least 1, got {val_count}")
        hr_dirs = _folders(hr_dir)
        files = [file for folder in hr_dirs for file in list_images(folder)]
        if val_dir is None:
            held_out = max(1, len(files) // 20) if val_count is None else val_count
            if held_out >= len(files):
                raise DataError(
                    f"dataset: {len(files)} image(s) in {', '.join(map(str, hr_dirs))} leave nothing for "
                    f"training when {held_out} are held out; add images or set dataset.val_dir"
                )
            files, val_files = files[:-held_out], files[-held_out:]
        else:
            val_files = [file for folder in _folders(val_dir) for file in list_images(folder)][:val_count]
        super().__init__(
            files=files,
            val_files=val_files,
            lr_files=None if lr_dir is None else _partners(files, hr_dirs, _folders(lr_dir), scale),
            scale=scale,
            lr_patch_size=lr_patch_size,
            degradation=degradation,
            cache_dir=cache_dir,
            seed=seed,
            augment=augment,
        )


def _folders(setting: str | Sequence[str]) -> list[Path]:
    return [Path(folder).expanduser() for folder in ([setting] if isinstance(setting, str) else setting)]


def _partners(files: Sequence[Path], hr_dirs: list[Path], lr_dirs: list[Path], scale: int) -> list[Path]:
    """The LR image of each HR image."""
    if len(lr_dirs) != len(hr_dirs):
        raise ConfigError(
            f"dataset: {len(hr_dirs)} folder(s) in hr_dir and {len(lr_dirs)} in lr_dir; give one each"
        )
    lr_dir_of = dict(zip(hr_dirs, lr_dirs, strict=True))
    by_stem = {folder: {file.stem: file for file in list_images(folder)} for folder in lr_dirs}
    partners = []
    for file in files:
        lr_dir = lr_dir_of[file.parent]
        marks = ("", f"x{scale}", f"_x{scale}", f"X{scale}", f"_X{scale}")
        stems = [f"{file.stem}{mark}" for mark in marks]
        found = next((by_stem[lr_dir][stem] for stem in stems if stem in by_stem[lr_dir]), None)
        if found is None:
            raise DataError(
                f"dataset: {file} has no LR image in {lr_dir}; its name may be {', '.join(stems[:3])}"
            )
        partners.append(found)
    return partners
