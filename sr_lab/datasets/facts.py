"""Published facts about the benchmark images: their sizes and the SHA-256 of their pixels."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sr_lab.datasets.images import is_grey, read_image
from sr_lab.datasets.names import forms
from sr_lab.datasets.registry import OTHER_NAMES
from sr_lab.errors import DataError

State: TypeAlias = Literal["right", "note", "wrong"]

_MODULI = (2, 3, 4, 6, 8, 12)  # the multiples that pipelines crop to: a scale, or 12 for all scales
_FRACTIONS = {2: "half-size", 3: "third-size", 4: "quarter-size"}
_KINDS = {  # wording of each kind of verdict, after "3 images"
    "another image": "of another set",
    "broken": "that cannot be read",
    "cropped": "cropped",
    "half-size": "of half the size",
    "other size": "of another size",
    "quarter-size": "of a quarter of the size",
    "mirrored": "mirrored",
    "recompressed": "with other pixels",
    "rotated": "rotated",
    "superfluous": "that the set does not have",
    "third-size": "of a third of the size",
}
_WORKERS = 4
_MAX_CROP = 16  # pixels; cropping to a multiple removes at most this many


class Fact(NamedTuple):
    """One image of a set, a row of `benchmark_pixels.csv`.

    ``sha256`` is the hash of the ASCII text ``HxWxC`` followed by the 8-bit pixels in row-major HWC order.
    """

    set_name: str
    file: str
    height: int
    width: int
    channels: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.set_name}/{self.file}"


class Verdict(NamedTuple):
    """The result of checking an image file.

    Args:
        state: Whether PSNR and SSIM measured on the image can be compared with papers.
        kind: Short name of the fault, for counting.
        detail: The fault in detail.
        fact: The benchmark image that has the same pixels, perhaps rotated or mirrored; ``None`` if no
            benchmark has them.
    """

    state: State
    kind: str
    detail: str
    fact: Fact | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"

    @property
    def has_right_pixels(self) -> bool:
        """Whether the image is as published, whatever its name."""
        return self.kind in ("right", "renamed")


@cache
def facts() -> dict[str, tuple[Fact, ...]]:
    """The images of each set, sorted by name."""
    text = (files("sr_lab.datasets") / "benchmark_pixels.csv").read_text(encoding="utf-8")
    by_set: dict[str, list[Fact]] = {}
    for row in csv.DictReader(text.splitlines()):
        height, width, channels = (int(row[key]) for key in ("height", "width", "channels"))
        fact = Fact(row["set"], row["file"], height, width, channels, row["sha256"])
        by_set.setdefault(fact.set_name, []).append(fact)
    return {name: tuple(sorted(images, key=lambda fact: fact.file)) for name, images in by_set.items()}


@cache
def set_names() -> dict[str, str]:
    """Name of a folder in lower case -> name of the published set that belongs in it."""
    return {name.lower(): name for name in facts()} | OTHER_NAMES


@cache
def by_hash() -> dict[str, Fact]:
    """Every image of every set, by the hash of its pixels."""
    return {fact.sha256: fact for images in facts().values() for fact in images}


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of an image ``(H, W, C)``, as in `Fact`."""
    text = "x".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(text + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def identify(pixels: NDArray[np.uint8]) -> Fact | None:
    """The benchmark image with these pixels ``(H, W, 3)``; three equal channels also match a grey image."""
    candidates = [pixels]
    if (pixels == pixels[..., :1]).all():
        candidates.append(pixels[..., :1])
    found = (by_hash().get(pixel_hash(candidate)) for candidate in candidates)
    return next((fact for fact in found if fact is not None), None)


def _turned(pixels: NDArray[np.uint8]) -> Verdict | None:
    """The verdict on a benchmark image that is rotated or mirrored; ``None`` for any other image."""
    for kind, image in (("rotated", pixels), ("mirrored", pixels[:, ::-1])):
        for quarters in range(4):
            if (found := identify(np.rot90(image, quarters))) is not None:
                also = " and rotated" if kind == "mirrored" and quarters else ""
                by = f"{also} clockwise by {90 * quarters} degrees" if quarters else ""
                return Verdict("wrong", kind, f"this is {found}, {kind}{by}", found)
    return None


def expected(stem: str, set_name: str) -> Fact | None:
    """The image of a set that a file is named after, found by name, or else by number (`numbered`)."""
    return _named(stem, set_name) or numbered(stem, set_name)


def numbered(stem: str, set_name: str) -> Fact | None:
    """The image at a position in the sorted names: SelfExSR's ``img_003_SRF_4_HR`` is the third image."""
    found = re.fullmatch(r"img_(\d{1,4})", forms(stem)[-1])
    return dict(enumerate(facts()[set_name], 1)).get(int(found[1])) if found is not None else None


def _named(stem: str, set_name: str) -> Fact | None:
    def key(name: str) -> str:
        return re.sub(r"[\W_]+", "", forms(name)[-1]).lower()

    return next((fact for fact in facts()[set_name] if key(Path(fact.file).stem) == key(stem)), None)


def judge(file: Path, set_name: str, *, cut: int = 1) -> Verdict:
    """Whether an HR image of a test set is unchanged, and if not, how it was changed.

    Args:
        file: The image.
        set_name: The set that the image's folder is named after.
        cut: The multiple to which the folder's layout crops images.
    """
    try:
        pixels, grey = read_image(file), is_grey(file)
    except DataError as error:
        return Verdict("wrong", "broken", str(error).removeprefix("images: "))
    want, found = _named(file.stem, set_name), identify(pixels)
    if found is None:
        if (turned := _turned(pixels)) is not None:
            return turned
        want = want or numbered(file.stem, set_name)
        if want is None:
            return Verdict("wrong", "superfluous", f"{set_name} has no image of this name")
        return _altered(file, pixels.shape[0], pixels.shape[1], want, cut)
    if found.set_name != set_name:
        return Verdict("wrong", "another image", f"these are the pixels of {found}", found)
    if (found.channels == 1) != grey:
        channels = "one channel" if grey else "three equal channels"
        detail = f"right pixels in {channels} instead of {found.channels}, which changes classic_y"
        return Verdict("note", "other channels", detail, found)
    if want != found and (want is not None or numbered(file.stem, set_name) is None):
        return Verdict("note", "renamed", f"right, under another name: this is {found}", found)
    return Verdict("right", "right", "", found)


def compare(
    set_name: str, files: Sequence[Path], *, cut: int = 1
) -> tuple[list[Verdict], list[Fact], list[Fact]]:
    """Compare a test set with its published pixels.

    Args:
        set_name: Name of a set in `facts`.
        files: Its HR images.
        cut: See `judge`.

    Returns:
        The verdict on each file, the missing images, and the images that occur twice.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        verdicts = list(pool.map(lambda file: judge(file, set_name, cut=cut), files))
    there = {
        verdict.fact if verdict.fact in facts()[set_name] else expected(file.stem, set_name)
        for file, verdict in zip(files, verdicts, strict=True)
    }
    good = Counter(verdict.fact for verdict in verdicts if verdict.state != "wrong" and verdict.fact)
    twice = [fact for fact, number in good.items() if number > 1]
    return verdicts, [fact for fact in facts()[set_name] if fact not in there], twice


def as_published(set_name: str, files: Sequence[Path]) -> str:
    """Describe the images of a test set for the head of a table.

    Returns:
        ``B100, 100 of 100 as published``, ``not the published B100: 100 images of another size``, or, where
        no pixels are published, the number of images.
    """
    set_name = set_names().get(set_name.lower(), set_name)
    if set_name not in facts():
        return f"{set_name}, {len(files)} images"
    verdicts, absent, twice = compare(set_name, files)
    kinds = Counter(verdict.kind for verdict in verdicts if verdict.fact is None or verdict.state == "wrong")
    right = len(verdicts) - kinds.total()
    if not (kinds or absent or twice):
        other = sum(verdict.kind == "other channels" for verdict in verdicts)
        remark = f" ({other} with another number of channels, which changes classic_y)" if other else ""
        return f"{set_name}, {right} of {len(facts()[set_name])} as published{remark}"
    says = [f"{number} image{'s' * (number > 1)} {_KINDS[kind]}" for kind, number in kinds.most_common()]
    says += [f"{len(absent)} missing"] if absent else []
    says += [f"{len(twice)} present twice"] if twice else []
    says += [f"{right} as published"] if right else []
    return f"not the published {set_name}: {', '.join(says)}"


def _altered(file: Path, height: int, width: int, want: Fact, cut: int) -> Verdict:
    """The verdict on an image that has the name of a benchmark image but other pixels."""
    size, full = (height, width), (want.height, want.width)
    sizes = f"{width}x{height} instead of {want.width}x{want.height} pixels"
    if size == full:
        how = "JPEG " if file.suffix.lower() in (".jpg", ".jpeg") else ""
        return Verdict("wrong", "recompressed", f"{how}{width}x{height}, the right size, but other pixels")
    for factor, kind in _FRACTIONS.items():
        if all(abs(side * factor - whole) < factor for side, whole in zip(size, full, strict=True)):
            return Verdict("wrong", kind, sizes)
    if all(0 <= whole - side <= _MAX_CROP for side, whole in zip(size, full, strict=True)):
        fits = [m for m in (cut, *_MODULI) if size == tuple(side - side % m for side in full)]
        if cut > 1 and cut in fits:
            detail = f"to a multiple of {cut}: {sizes}, as in this layout; papers measure whole images"
            return Verdict("note", "cropped", detail)
        return Verdict("wrong", "cropped", f"to a multiple of {fits[0]}: {sizes}" if fits else sizes)
    return Verdict("wrong", "other size", sizes)
