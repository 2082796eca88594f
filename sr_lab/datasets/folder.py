"""Training pairs from image folders: the user's own, or DIV2K and Flickr2K."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab.datasets.given import lr_partners
from sr_lab.datasets.images import list_images
from sr_lab.datasets.names import of_role
from sr_lab.datasets.patches import Degradation, PatchDataset, RandomDegradation
from sr_lab.errors import ConfigError, DataError


class FolderDataset(PatchDataset):
    """Patches of all images of one or more folders.

    Args:
        hr_dir: Folder of HR images, or a list of folders.
        lr_dir: Folder of LR images for each HR folder, in the same order; it may be the HR folder itself.
            Images are paired by their names (`sr_lab.datasets.names`): the LR image of ``0001.png`` may be
            named ``0001``, ``0001x4`` or ``0001_LR``, in any format. ``None``: ``degradation`` makes them.
        val_dir: Folder or folders of validation images. ``None``: the last images of ``hr_dir`` are held out.
        val_lr_dir: Folder of LR images for each folder in ``val_dir``; required if both ``lr_dir`` and
            ``val_dir`` are given, since validation uses given LR images if training does.
        val_count: Number of validation images: the first of ``val_dir`` (``None``: all of them), or the last
            of ``hr_dir`` (``None``: 5 %, at least one).

    The other arguments are those of `PatchDataset`.

    Raises:
        ConfigError: ``val_count`` is below 1, the numbers of HR and LR folders differ, or ``val_lr_dir`` or
            ``lr_dir`` is missing.
        DataError: A folder is missing or empty, an image has no LR image or more than one, or there are
            too few images for training.
    """

    def __init__(
        self,
        *,
        hr_dir: str | Sequence[str],
        lr_dir: str | Sequence[str] | None = None,
        val_dir: str | Sequence[str] | None = None,
        val_lr_dir: str | Sequence[str] | None = None,
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
        if val_dir is None and val_lr_dir is not None:
            raise ConfigError(
                "dataset.val_lr_dir: is used only with dataset.val_dir, which is not set; set both or neither"
            )
        if val_dir is not None and (lr_dir is None) != (val_lr_dir is None):
            given, missing = ("lr_dir", "val_lr_dir") if val_lr_dir is None else ("val_lr_dir", "lr_dir")
            raise ConfigError(
                f"dataset.{missing}: training and validation must both use given LR images, or neither, got "
                f"only {given}; set dataset.{missing}, or leave val_dir out to hold out images of hr_dir"
            )
        files = _hr_images("hr_dir", hr_dir)
        if val_dir is None:
            held_out = max(1, len(files) // 20) if val_count is None else val_count
            if held_out >= len(files):
                raise DataError(
                    f"dataset: {len(files)} image(s) in {', '.join(map(str, _folders(hr_dir)))}, but at "
                    f"least {held_out + 1} are needed, since validation takes {held_out}; add images or "
                    "set dataset.val_dir"
                )
            files, val_files = files[:-held_out], files[-held_out:]
        else:
            val_files = _hr_images("val_dir", val_dir)[:val_count]
        lr_files = val_lr_files = None
        if lr_dir is not None:
            of_hr = _partners(
                [*files, *([] if val_dir else val_files)], "hr_dir", hr_dir, "lr_dir", lr_dir, scale
            )
            if val_dir is not None and val_lr_dir is not None:
                of_hr |= _partners(val_files, "val_dir", val_dir, "val_lr_dir", val_lr_dir, scale)
            lr_files, val_lr_files = ([of_hr[file] for file in some] for some in (files, val_files))
        super().__init__(
            files=files,
            val_files=val_files,
            lr_files=lr_files,
            val_lr_files=val_lr_files,
            scale=scale,
            lr_patch_size=lr_patch_size,
            degradation=degradation,
            cache_dir=cache_dir,
            seed=seed,
            augment=augment,
        )


def _folders(setting: str | Sequence[str]) -> list[Path]:
    return [Path(folder).expanduser() for folder in ([setting] if isinstance(setting, str) else setting)]


def _hr_images(key: str, setting: str | Sequence[str]) -> list[Path]:
    found = (list_images(folder, where=f"dataset.{key}") for folder in _folders(setting))
    return [file for images in found for file in of_role(images, "HR")]


def _partners(
    files: Sequence[Path],
    hr_key: str,
    hr_dir: str | Sequence[str],
    lr_key: str,
    lr_dir: str | Sequence[str],
    scale: int,
) -> dict[Path, Path]:
    """The LR image of each HR image; errors name the settings ``hr_key`` and ``lr_key``."""
    hr_dirs, lr_dirs = _folders(hr_dir), _folders(lr_dir)
    if len(lr_dirs) != len(hr_dirs):
        raise ConfigError(
            f"dataset: {len(hr_dirs)} folder(s) in {hr_key} and {len(lr_dirs)} in {lr_key}; give one LR "
            "folder for each HR folder"
        )
    found: dict[Path, Path] = {}
    for hr_folder, lr_folder in zip(hr_dirs, lr_dirs, strict=True):
        own = [file for file in files if file.parent == hr_folder]
        found |= zip(own, lr_partners(own, lr_folder, scale, where=f"dataset.{lr_key}"), strict=True)
    return found
