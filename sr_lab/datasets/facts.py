"""What is known of the benchmark images: their sizes and the SHA-256 of their pixels."""

import csv
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sr_lab.datasets.images import is_grey, read_image
from sr_lab.errors import DataError

State: TypeAlias = Literal["right", "note", "wrong"]

_MODULI = (2, 3, 4, 6, 8, 12)  # what pipelines crop to: a scale, or 12 for all of them at once
_MAX_CROP = 16  # pixels; what misses more of the image is more than a crop to a multiple


class Fact(NamedTuple):
    """One image of a set, as `benchmark_pixels.csv` has it.

    ``sha256`` is taken over the ASCII text ``HxWxC`` and the 8-bit pixels in row-major HWC order.
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
    """What an image file turned out to be.

    Args:
        state: Whether figures measured on it can be compared with papers.
        kind: In a word, to count images of the same fault.
        says: In a sentence's part, beginning with the fault.
        fact: The image whose pixels these are, ``None`` where no benchmark has them.
    """

    state: State
    kind: str
    says: str
    fact: Fact | None = None


@cache
def facts() -> dict[str, tuple[Fact, ...]]:
    """The images of each set, in the order of their names."""
    text = (files("sr_lab.datasets") / "benchmark_pixels.csv").read_text()
    by_set: dict[str, list[Fact]] = {}
    for row in csv.DictReader(text.splitlines()):
        height, width, channels = (int(row[key]) for key in ("height", "width", "channels"))
        fact = Fact(row["set"], row["file"], height, width, channels, row["sha256"])
        by_set.setdefault(fact.set_name, []).append(fact)
    return {name: tuple(sorted(images, key=lambda fact: fact.file)) for name, images in by_set.items()}


@cache
def by_hash() -> dict[str, Fact]:
    """Every image of every set under the hash of its pixels."""
    return {fact.sha256: fact for images in facts().values() for fact in images}


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of an image ``(H, W, C)``, as in `Fact`."""
    text = "x".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(text + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def identify(pixels: NDArray[np.uint8]) -> Fact | None:
    """The benchmark image that has these pixels ``(H, W, 3)``; grey ones may stand for a single channel."""
    candidates = [pixels]
    if (pixels == pixels[..., :1]).all():
        candidates.append(pixels[..., :1])
    found = (by_hash().get(pixel_hash(candidate)) for candidate in candidates)
    return next((fact for fact in found if fact is not None), None)


def expected(stem: str, set_name: str) -> Fact | None:
    """The image of a set that a file is by its name; SelfExSR's ``img_003_SRF_4_HR`` is the third."""
    stem = re.sub(r"(_SRF_\d)?_HR$", "", stem)
    key = _key(stem)
    found = next((fact for fact in facts()[set_name] if _key(Path(fact.file).stem) == key), None)
    number = re.fullmatch(r"img_(\d+)", stem)
    if found is None and number is not None and 1 <= int(number[1]) <= len(facts()[set_name]):
        found = facts()[set_name][int(number[1]) - 1]
    return found


def _key(stem: str) -> str:
    return re.sub(r"[\W_]+", "", stem).lower()


def judge(file: Path, set_name: str) -> Verdict:
    """What an HR image of a test set is: right, or what has been done to it.

    Args:
        file: The image.
        set_name: The set that its folder is named after.
    """
    try:
        pixels, grey = read_image(file), is_grey(file)
    except DataError as error:
        return Verdict("wrong", "broken", f"broken ({error})")
    want, found = expected(file.stem, set_name), identify(pixels)
    if found is not None:
        return _known(found, want, set_name, grey)
    if want is None:
        return Verdict("wrong", "superfluous", f"superfluous: {set_name} has no image of this name")
    return _altered(file, pixels.shape[0], pixels.shape[1], want)


def _known(found: Fact, want: Fact | None, set_name: str, grey: bool) -> Verdict:
    """An image whose pixels are a benchmark's."""
    if found.set_name != set_name:
        return Verdict("wrong", "another image", f"another image: these are the pixels of {found}", found)
    if want is not None and want != found:
        return Verdict("wrong", "another image", f"renamed: these are the pixels of {found}", found)
    if want is None:
        return Verdict("note", "renamed", f"renamed: this is {found}", found)
    if (found.channels == 1) != grey:
        channels = "one channel" if grey else "three equal channels"
        says = f"right pixels, saved with {channels} instead of {found.channels}; classic_y tells them apart"
        return Verdict("note", "other channels", says, found)
    return Verdict("right", "right", "right", found)


def _altered(file: Path, height: int, width: int, want: Fact) -> Verdict:
    """An image whose name is a benchmark's and whose pixels are not."""
    sizes = f"{height}x{width} instead of {want.height}x{want.width}"
    if (height, width) == (want.height, want.width):
        how = "JPEG " if file.suffix.lower() in (".jpg", ".jpeg") else ""
        says = f"recompressed or converted: {how}{height}x{width} as it should be, but other pixels"
        return Verdict("wrong", "recompressed", says)
    if (height, width) == (want.width, want.height):
        return Verdict("wrong", "turned", f"turned by 90 degrees: {sizes}")
    for factor, kind in ((2, "half-size"), (3, "third-size"), (4, "quarter-size"), (8, "eighth-size")):
        if all(
            abs(side * factor - full) < factor for side, full in ((height, want.height), (width, want.width))
        ):
            return Verdict("wrong", kind, f"{kind}: {sizes}")
    if 0 <= want.height - height <= _MAX_CROP and 0 <= want.width - width <= _MAX_CROP:
        modulus = next((m for m in _MODULI if cropped_to(want, m) == (height, width)), None)
        what = f" to a multiple of {modulus}" if modulus is not None else ""
        return Verdict("wrong", "cropped", f"cropped{what}: {sizes}")
    if height <= want.height and width <= want.width:
        return Verdict("wrong", "cropped or shrunk", f"cropped or shrunk: {sizes}")
    return Verdict("wrong", "other size", f"of another size: {sizes}")


def cropped_to(fact: Fact, modulus: int) -> tuple[int, int]:
    """Height and width of an image after cropping to multiples of ``modulus``."""
    return fact.height - fact.height % modulus, fact.width - fact.width % modulus
