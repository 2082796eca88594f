"""Find image folders, and infer the set, the role (HR or LR), the scale and the layout from their paths.

Layouts differ only in names: EDSR's (``benchmark/Set5/LR_bicubic/X4/babyx4.png``), BasicSR's
(``Set5/GTmod12``, ``Set5/LRbicx4``, ``DIV2K_train_HR_sub``), SelfExSR's
(``Set5/image_SRF_4/img_001_SRF_4_HR.png``), RealSR's (``Canon/Train/4/Canon_001_HR.png`` next to
``Canon_001_LR4.png``), KAIR's (``trainH``, ``trainL``) and the layouts of archives on Hugging Face
(``Set5_HR``, ``Set5_LR_x4``; ``train/hr``, ``train/lr_x4``).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_lab.datasets.facts import set_names
from sr_lab.datasets.images import EXTENSIONS
from sr_lab.datasets.names import role_of, scale_of
from sr_lab.datasets.registry import IMAGE_SETS, ImageSet

_NAME = f"({'|'.join(set_names())})"
# Endings of a path; the first match counts.
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
    ("KAIR", r"(?P<base>.*/(?:train|test|val|valid)?)L"),
    ("other", r"(?P<base>.*)[/_](?:LR|LQ)(?:x?(?P<scale>\d))?"),
)
_BICUBIC = ("BasicSR", "EDSR", "Hugging Face", "SelfExSR")  # layouts whose LR images are bicubic
_UNREAD = {".lmdb": "LMDB", ".parquet": "Parquet", ".arrow": "Arrow"}


@dataclass(frozen=True)
class Place:
    """A folder that contains images.

    Args:
        folder: The folder.
        files: Its images, sorted by name.
        tree: Name of the layout; ``other`` if only the set is known, ``photos`` if nothing is known.
        role: Whether the images are HR, LR, pieces of HR images or unrelated photos.
        set_name: The test set that the folder is named after.
        training: The training set that the folder is named after.
        cut: Multiple to which this layout crops HR images; 1 if it does not crop them.
        scale: Scale of LR images; ``None`` if neither the path nor the names give it.
        hr_folder: For LR images, the folder where their HR images should be.
        bicubic: Whether LR images are bicubic according to the layout and the path; ``None`` if unknown.
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
    bicubic: bool | None = True

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
    """Databases and archives, which cannot be read here, with their kinds."""
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
    seen: set[tuple[int, int]] = set()
    waiting = [root]  # os.walk would recurse, and fail on a thousand levels
    while waiting:
        folder = waiting.pop()
        if not os.access(folder, os.R_OK):
            continue
        itself = folder.stat()
        if (itself.st_dev, itself.st_ino) in seen:  # a link to a folder above
            continue
        seen.add((itself.st_dev, itself.st_ino))
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        folders = [path for path in inside if path.is_dir()]
        waiting += reversed(folders)
        yield folder, [path.name for path in inside if path not in folders]


def _placed(folder: Path, images: tuple[Path, ...]) -> Iterator[Place]:
    path = folder.absolute().as_posix()
    for tree, tail in _LR:
        if (found := re.fullmatch(tail, path, re.IGNORECASE)) is not None:
            groups = found.groupdict()
            how = groups.get("how") or "bicubic"
            is_other = re.search("unknown|mild|wild|difficult", how, re.IGNORECASE)
            yield Place(
                folder,
                images,
                tree,
                "LR",
                scale=int(groups["scale"]) if groups.get("scale") else None,
                hr_folder=_hr_folder(tree, found["base"], pieces=path.endswith("_sub")),
                bicubic=not is_other if tree in _BICUBIC else None,
            )
            return
    if mixed := list(_mixed(folder, images)):
        yield from mixed
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
            name = set_names()[found[1].lower()]
            yield Place(folder, images, tree, "HR", set_name=name, cut=int(cut[1]) if cut else 1)
            return
    yield Place(folder, images)


def _mixed(folder: Path, images: tuple[Path, ...]) -> Iterator[Place]:
    """HR and LR images in one folder, told apart by name if most names allow it; other images are photos."""
    roles = {image: role_of(image.stem) for image in images}
    lr = [image for image in images if roles[image] == "LR"]
    hr = tuple(image for image in images if roles[image] == "HR")
    srf = re.search(r"/image_SRF_(\d)$", folder.absolute().as_posix())
    tree = "SelfExSR" if srf else "RealSR"
    rest = tuple(image for image in images if roles[image] is None)
    if not srf and not (lr and len(lr) + len(hr) > len(rest)):
        return
    if hr:
        named = set_names().get(folder.parent.name.lower()) if srf else None
        yield Place(folder, hr, tree, "HR", set_name=named, cut=int(srf[1]) if srf else 1)
    for scale in dict.fromkeys(scale_of(image.stem) for image in lr):
        yield Place(
            folder,
            tuple(image for image in lr if scale_of(image.stem) == scale),
            tree,
            "LR",
            scale=scale,
            hr_folder=folder,
            bicubic=True if srf else None,
        )
    if rest and not srf:
        yield Place(folder, rest)


def _hr_folder(tree: str, base: str, *, pieces: bool) -> Path:
    """The HR folder for an LR folder whose path begins with ``base``: ``<base>_HR``, ``<base>/HR``, ..."""
    if tree == "KAIR":
        return Path(f"{base}H")
    names = ("HR", "hr", "GT", "gt", "HQ")
    candidates = [Path(f"{base}_HR{'_sub' if pieces else ''}"), *(Path(base, name) for name in names)]
    candidates[1:1] = sorted(Path(base).glob("GTmod*"))
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])
