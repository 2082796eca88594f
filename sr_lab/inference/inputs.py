"""Find the image files among the inputs of ``task=upscale``, and name their results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_lab import files
from sr_lab.errors import DataError
from sr_lab.inference.reading import SUFFIXES
from sr_lab.inference.writing import SUFFIX_OF, Format, stamp_of


@dataclass(frozen=True)
class FoundImages:
    """What the inputs contain.

    Args:
        images: Images, with their paths relative to their input.
        skipped: Other files in the folders, each with the reason.
    """

    images: list[tuple[Path, Path]]
    skipped: list[tuple[Path, str]]


def result_names(images: Sequence[tuple[Path, Format]], scale: int) -> list[tuple[Path, bool]]:
    """Distinct names of results: ``photo_x4.png``, or ``photo_jpg_x4.png`` if several would have that name.

    Returns:
        Each name, and whether it had to differ from the usual one.
    """

    def key(path: Path) -> str:
        return str(path).casefold()  # some file systems do not distinguish upper and lower case

    usual = [path.with_name(f"{path.stem}_x{scale}{SUFFIX_OF[form]}") for path, form in images]
    taken = {key(name) for name in usual}
    named = []
    for (path, form), name in zip(images, usual, strict=True):
        if sum(key(name) == key(other) for other in usual) == 1:
            named.append((name, False))
            continue
        stem, number = f"{path.stem}_{path.suffix[1:].lower()}", 1
        while (
            key(new := path.with_name(f"{stem}{f'_{number}' * (number > 1)}_x{scale}{SUFFIX_OF[form]}"))
            in taken
        ):
            number += 1
        taken.add(key(new))
        named.append((new, True))
    return named


def search(inputs: Sequence[str], *, but_not: Path) -> FoundImages:
    """Image files among the inputs, each once; hidden files are skipped.

    Args:
        inputs: Files, and folders that are searched with their sub-folders.
        but_not: Folder of the results, which are skipped. If images and results share a folder, results are
            recognised by their stamps.

    Raises:
        DataError: A path is missing, or is a folder without images.
    """
    images: dict[Path, tuple[Path, Path]] = {}
    skipped: list[tuple[Path, str]] = []
    for given in (Path(path).expanduser() for path in inputs):
        if given.is_file():
            images.setdefault(given.resolve(), (given, Path(given.name)))
            continue
        if not given.is_dir():
            raise DataError(f"input: there is no file or folder {given}; give an image or a folder of images")
        is_among = given.resolve().is_relative_to(but_not.resolve())
        has_image = False
        for path in sorted(files.below(given)):
            if path.is_dir():
                continue
            below = path.relative_to(given)
            if not is_among and path.resolve().is_relative_to(but_not.resolve()):
                continue
            if why := _why_not(path, below, may_be_result=is_among):
                skipped.append((path, why))
            else:
                images.setdefault(path.resolve(), (path, below))
                has_image = True
        if not has_image:
            raise DataError(f"input: the folder {given} has no image; allowed: {', '.join(SUFFIXES)}")
    return FoundImages(list(images.values()), skipped)


def _why_not(path: Path, below: Path, *, may_be_result: bool) -> str | None:
    if any(part.startswith(".") for part in below.parts):
        return "it is hidden"
    if path.suffix.lower() not in SUFFIXES:
        return "its name is not that of an image"
    if not path.is_file():
        return "it is not a file"
    if may_be_result and stamp_of(path):
        return "it is a result of task=upscale; name it as input to upscale it again"
    return None
