"""The images that runs save from their tests, so that a report needs no dataset.

images/<Set>/<image>.{lr,bicubic,sr,hr}.png     full-size versions of a few images of each set
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sr_lab.errors import ConfigError
from sr_lab.reporting.labels import labels
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import RunFolder

Kind: TypeAlias = Literal["lr", "bicubic", "sr", "hr"]
Pixels: TypeAlias = NDArray[np.uint8]


def safe(name: str) -> str:
    """A file name for any name: unusual characters become ``_``, and a hash keeps such names distinct."""
    plain = re.sub(r"[^A-Za-z0-9_+=,-]", "_", name)
    if plain == name and 0 < len(name) <= 100:
        return name
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
    return f"{plain[:80]}-{digest[:6]}"


def place(images: Path, set_name: str, image: str, kind: Kind) -> Path:
    """The file of an image in a run folder's ``images``."""
    return images / safe(set_name) / f"{safe(image)}.{kind}.png"


@dataclass(frozen=True)
class Result:
    """An image as upscaled by one method."""

    name: str
    file: Path  # the SR image
    psnr: float = math.nan  # in dB, of the whole image, with the run's protocol; ``nan`` if unknown
    ssim: float = math.nan  # of the whole image too; ``nan`` if unknown
    protocol: str = ""  # the protocol with which both were measured


@dataclass(frozen=True)
class Picture:
    """An image of a test set with the results of all methods."""

    set_name: str
    image: str
    scale: int
    lr: Path
    hr: Path
    results: tuple[Result, ...]  # bicubic first, then the runs


def load(path: Path) -> Pixels:
    """Pixels of a PNG, ``(H, W, 3)``; a grey image has equal channels.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders raise many exception types
        raise ConfigError(f"{path}: cannot be read: {error}; remove it") from error


def _are_whole(files: Sequence[Path], scale: int) -> bool:
    """Whether the LR, bicubic, SR and HR images are undamaged PNGs of matching sizes."""
    try:
        sizes = []
        for file in files:
            with Image.open(file, formats=("PNG",)) as picture:
                picture.verify()
                sizes.append(picture.size)
    except Exception:  # decoders raise many exception types
        return False
    (width, height), *large = sizes
    return {(width * scale, height * scale)} == set(large)


def names(runs: Sequence[Run]) -> list[str]:
    """A short, distinct name for each run: what differs from the others, with a suffix if needed."""
    costs = [run for run in runs if run.is_cost]
    others = [run for run in runs if not run.is_cost]
    # The suffix of cost runs lets training runs of the same rows keep their names.
    called = dict(zip(map(id, others), labels(others, seeds=True), strict=True))
    suffix = " (costs)" if others else ""
    called |= {id(run): f"{name}{suffix}" for run, name in zip(costs, labels(costs, seeds=True), strict=True)}
    found = [called[id(run)] for run in runs]
    ways: tuple[Callable[[Run], str], ...] = (
        lambda run: f"x{run.scale}",
        lambda run: f"seed {run.seed}",
        lambda run: run.folder,
        lambda run: str(run.path),
    )
    for more in ways:
        for name in {name for name in found if found.count(name) > 1}:
            places = [index for index, other in enumerate(found) if other == name]
            texts = [more(runs[index]) for index in places]
            if len(set(texts)) > 1:
                for index, text in zip(places, texts, strict=True):
                    found[index] = f"{name} ({text})"
    return found


def find(runs: Sequence[Run], say: Callable[[str], object] = lambda line: None) -> list[Picture]:
    """Every image that a run has saved, with sets and images in the order of the test.

    Args:
        runs: Finished or unfinished runs.
        say: Called with a line for each image left out because two runs saved different pixels of it.
    """
    found: dict[tuple[str, str, int], Picture] = {}
    different: set[tuple[str, str, int]] = set()
    for run, name in zip(runs, names(runs), strict=True):
        protocol = str(run.values.get("protocol", ""))
        for values in run.images:
            set_name, image = str(values.get("set_name")), str(values.get("image"))
            lr, bicubic, sr, hr = (
                place(RunFolder(run.path).images, set_name, image, kind)
                for kind in ("lr", "bicubic", "sr", "hr")
            )
            if not _are_whole((lr, bicubic, sr, hr), run.scale):
                continue
            key = (set_name, image, run.scale)
            baseline = Result("bicubic", bicubic, *_scores(values, "bicubic_"), protocol)
            known = found.get(key, Picture(set_name, image, run.scale, lr, hr, (baseline,)))
            # Protocols round LR images differently.
            pairs = [(known.hr, hr), *([(known.lr, lr)] if known.results[0].protocol == protocol else [])]
            if key not in different and (other := [pair for pair in pairs if not _are_equal(*pair)]):
                different.add(key)
                kind = "HR" if other[0] == (known.hr, hr) else "LR"
                sizes = " and ".join(f"{w}x{h}" for h, w, _ in (load(file).shape for file in other[0]))
                say(
                    f"{set_name} {image} x{run.scale}: '{known.results[1].name}' and '{name}' were measured "
                    f"on different {kind} images of this name ({sizes} pixels), so the image is left "
                    "out of the figures"
                )
            results = (*known.results, Result(name, sr, *_scores(values, ""), protocol))
            found[key] = Picture(set_name, image, run.scale, known.lr, known.hr, results)
    for key in different:
        del found[key]
    sets = list(dict.fromkeys(key[0] for key in found))
    return sorted(found.values(), key=lambda picture: (sets.index(picture.set_name), picture.scale))


def _are_equal(one: Path, other: Path) -> bool:
    return one == other or one.read_bytes() == other.read_bytes() or np.array_equal(load(one), load(other))


def _scores(values: dict[str, object], prefix: str) -> tuple[float, float]:
    psnr, ssim = (values.get(f"{prefix}{metric}") for metric in ("psnr_y", "ssim_y"))
    number = [float(v) if isinstance(v, (int, float)) else float("nan") for v in (psnr, ssim)]
    return number[0], number[1]
