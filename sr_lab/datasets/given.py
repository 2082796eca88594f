"""LR images that come with the HR images, found by their names and checked by their sizes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sr_lab.datasets.images import image_size, list_images
from sr_lab.datasets.names import forms, of_role, pairs
from sr_lab.errors import DataError

_SHOWN = 3  # maximum number of images that an error lists


def lr_partners(hr_files: Sequence[Path], lr_dir: Path, scale: int, *, where: str) -> list[Path]:
    """The LR image of each HR image.

    Args:
        hr_files: HR images.
        lr_dir: Folder of the LR images; it may contain other images, and may be the HR images' folder.
        scale: Size of an HR image divided by the size of its LR image.
        where: The setting that names the LR images, for messages.

    Raises:
        DataError: The folder is missing or empty, or an image has no LR image or more than one.
    """
    found = pairs(hr_files, of_role(list_images(lr_dir, where=where), "LR"), scale)
    if found.doubtful:
        raise DataError(f"{where}: {found.doubtful[0]} at scale={scale}; remove or rename all but one")
    if found.lonely:
        first, *rest = found.lonely
        bare = forms(first.stem, scale)[-1]
        others = f" ({len(rest)} more have none: {_names(rest)})" if rest else ""
        raise DataError(
            f"{where}: {first} has no LR image in {lr_dir}{others}; name its LR image {bare}, "
            f"{bare}x{scale}, {bare}_x{scale}, {bare}_LR or {bare}_LR{scale}"
        )
    return [found.found[file] for file in hr_files]


def check_sizes(hr_files: Iterable[Path], lr_files: Iterable[Path], scale: int, *, where: str) -> None:
    """Check that each LR image has the size of its HR image divided by the scale, without decoding them.

    Raises:
        DataError: A size differs, or a file is not an image.
    """
    for hr_file, lr_file in zip(hr_files, lr_files, strict=True):
        check_size(hr_file, image_size(hr_file), lr_file, image_size(lr_file), scale, where=where)


def check_size(
    hr_file: Path, hr: tuple[int, int], lr_file: Path, lr: tuple[int, int], scale: int, *, where: str
) -> None:
    """Check the size of one LR image; sizes are height and width in pixels.

    Raises:
        DataError: The size differs.
    """
    want = (hr[0] // scale, hr[1] // scale)
    if lr != want:
        raise DataError(
            f"{where}: the LR image {lr_file} is {lr[1]}x{lr[0]}, but {hr_file} is {hr[1]}x{hr[0]}; at "
            f"scale={scale} the LR image must be {want[1]}x{want[0]} pixels (width x height)"
        )


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
