"""Find image folders and read the set, HR or LR, the scale and the layout from their paths.

Layouts differ only in names: EDSR's (``benchmark/Set5/LR_bicubic/X4/babyx4.png``), BasicSR's
(``Set5/GTmod12``, ``Set5/LRbicx4``, ``DIV2K_train_HR_sub``), SelfExSR's
(``Set5/image_SRF_4/img_001_SRF_4_HR.png``) and those of archives on Hugging Face (``Set5_HR``,
``Set5_LR_x4``; ``train/hr``, ``train/lr_x4``).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_lab.datasets.facts import facts
from sr_lab.datasets.images import EXTENSIONS
from sr_lab.datasets.registry import IMAGE_SETS, ImageSet

_SETS = {name.lower(): name for name in facts()} | dict.fromkeys(("bsd100", "bsds100", "cbsd100"), "B100")
_NAME = f"({'|'.join(_SETS)})"
# Ends of a path; the first match counts.
_HR = (
    ("ours", rf"/benchmarks/{_NAME}/HR"),
    ("EDSR", rf"/benchmark/{_NAME}/HR"),
    ("BasicSR", rf"/{_NAME}/(GTmod\d+)"),
    ("Hugging Face", rf"/{_NAME}_HR"),
    ("other", rf"/{_NAME}(?:/(?:HR|GT|original))?"),
)
_TRAINING = re.compile(r"/(DIV2K_train|DIV2K_valid|Flickr2K)_HR(_sub)?$")
_LR = (
    ("BasicSR", r"(?P<base>.*)/LRbicx(?P<scale>\d)"),
    ("BasicSR", r"(?P<base>.*)_LR_(?P<how>\w+)/X(?P<scale>\d)_sub"),
    ("EDSR", r"(?P<base>.*)_LR_(?P<how>[a-z]+)[/_]X(?P<scale>\d)"),
    ("Hugging Face", r"(?P<base>.*)[/_]LR_x(?P<scale>\d)"),
    ("EDSR", r"(?P<base>.*)/LR(?P<how>\w*)/X(?P<scale>\d)"),
)
_UNREAD = {".lmdb": "LMDB", ".parquet": "Parquet", ".arrow": "Arrow"}


@dataclass(frozen=True)
class Place:
    """A folder that holds images.

    Args:
        folder: The folder.
        files: Its images, sorted by name.
        tree: Name of the layout; ``other`` if only the set is known, ``photos`` if nothing is.
        role: Whether the images are HR, LR, pieces of HR images or unrelated photos.
        set_name: The test set that the folder is named after.
        training: The training set that the folder is named after.
        cut: Multiple that this layout crops HR images to; 1 keeps them whole.
        scale: Scale of LR images.
        hr_folder: Where the HR images of LR images should be.
        bicubic: Whether the path says that LR images are bicubic.
    """

    folder: Path
    files: tuple[Path, ...]
    tree: str = "photos"
    role: Literal["HR", "LR", "HR pieces", "photos"] = "photos"
    set_name: str | None = None
    training: ImageSet | None = None
    cut: int = 1
    scale: int | None = None
    hr_folder: Path | None = None
    bicubic: bool = True

    @property
    def layout(self) -> str:
        """Description of the layout."""
        return {"ours": "our layout", "other": "another layout"}.get(self.tree, f"{self.tree}'s layout")


def places(root: Path) -> Iterator[Place]:
    """Every image folder at or below ``root``; links are followed, hidden folders skipped."""
    for folder, names in _walk(root):
        images = tuple(folder / name for name in names if Path(name).suffix.lower() in EXTENSIONS)
        if images:
            yield from _placed(folder, images)


def unread(root: Path) -> list[tuple[Path, str]]:
    """Databases and archives, which are not read here, with their kinds."""
    found = []
    for folder, names in _walk(root):
        if folder.suffix in _UNREAD:
            found.append((folder, _UNREAD[folder.suffix]))
        for name in names:
            if Path(name).suffix in _UNREAD:
                found.append((folder / name, _UNREAD[Path(name).suffix]))
            elif re.search(r"\.(zip|tar|tar\.gz|tgz)$", name):
                found.append((folder / name, "an archive"))
    return found


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[Path] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        below[:] = sorted(name for name in below if not name.startswith("."))
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _placed(folder: Path, images: tuple[Path, ...]) -> Iterator[Place]:
    path = folder.absolute().as_posix()
    if (found := re.search(r"/image_SRF_(\d)$", path)) is not None:
        yield from _selfexsr(folder, images, int(found[1]))
        return
    for tree, tail in _LR:
        if (found := re.fullmatch(tail, path, re.IGNORECASE)) is not None:
            how = found.groupdict().get("how") or "bicubic"
            hr_folder = _hr_folder(found["base"], pieces=path.endswith("_sub"))
            bicubic = not re.search("unknown|mild|wild|difficult", how, re.IGNORECASE)
            scale = int(found["scale"])
            yield Place(folder, images, tree, "LR", scale=scale, hr_folder=hr_folder, bicubic=bicubic)
            return
    if (found := _TRAINING.search(path)) is not None:
        known = next(one for one in IMAGE_SETS if one.folder.endswith(f"{found[1]}_HR"))
        yield Place(
            folder, images, *(("BasicSR", "HR pieces") if found[2] else ("EDSR", "HR")), training=known
        )
        return
    for tree, tail in _HR:
        if (found := re.search(f"{tail}$", path, re.IGNORECASE)) is not None:
            cut = re.search(r"GTmod(\d+)$", path)
            name = _SETS[found[1].lower()]
            yield Place(folder, images, tree, "HR", set_name=name, cut=int(cut[1]) if cut else 1)
            return
    yield Place(folder, images)


def _selfexsr(folder: Path, images: tuple[Path, ...], scale: int) -> Iterator[Place]:
    """HR and LR images of one folder, recognised by their suffixes; results of other methods are skipped."""
    set_name = _SETS.get(folder.parent.name.lower())
    hr = tuple(image for image in images if image.stem.endswith("_HR"))
    lr = tuple(image for image in images if image.stem.endswith("_LR"))
    if hr:
        yield Place(folder, hr, "SelfExSR", "HR", set_name=set_name, cut=scale)
    if lr:
        yield Place(folder, lr, "SelfExSR", "LR", scale=scale, hr_folder=folder)


def _hr_folder(base: str, *, pieces: bool) -> Path:
    """The HR folder for an LR folder: inside the same folder, or one with the same name but HR."""
    candidates = [Path(f"{base}_HR{'_sub' if pieces else ''}"), Path(base, "HR"), Path(base, "hr")]
    candidates[1:1] = sorted(Path(base).glob("GTmod*"))
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def partner(lr: Path, scale: int) -> str:
    """Stem of the HR image for an LR image: ``0001`` for ``0001x4``, ``img_1_HR`` for ``img_1_LR``."""
    if lr.stem.endswith("_LR"):
        return f"{lr.stem[:-3]}_HR"
    return re.sub(rf"(?<=.)_?x{scale}$", "", lr.stem, flags=re.IGNORECASE)
