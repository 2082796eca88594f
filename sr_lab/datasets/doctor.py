"""Check that images are the ones that papers use: complete, undamaged, paired, downscaled as in MATLAB."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sr_lab.datasets import facts
from sr_lab.datasets.facts import State
from sr_lab.datasets.images import read_image
from sr_lab.datasets.layouts import Place, places, unread
from sr_lab.datasets.names import pairs
from sr_lab.datasets.resizers import MATLAB, UNKNOWN, Origin, origin
from sr_lab.errors import DataError

_WORKERS = 4  # threads; each decodes one image at a time
_COMPARED = 20  # LR images that are compared per folder, evenly spread
_LISTED = 20  # findings that are listed one by one per folder
_SIDE_2K = 1500  # pixels; the longer side is about 2040 in DIV2K's images and 1020 in half-size copies

_EXACT = f"are bit for bit {MATLAB}"  # the phrases for all three MATLAB forms begin like this

Sizes = dict[Path, tuple[int, int]]


class Finding(NamedTuple):
    """One line of the report.

    Args:
        state: ``wrong`` if PSNR and SSIM would differ from those in papers, ``note`` if the finding is only
            worth knowing.
        where: The folder or file.
        says: What was found.
    """

    state: State
    where: Path
    says: str


def examine(root: Path, *, count: Callable[[int], object] = lambda files: None) -> Iterator[Finding]:
    """Yield all findings about a folder.

    Args:
        root: A data folder, or any folder with images.
        count: Called after each folder with the number of its images.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"doctor: there is no folder {root}; set folder=...")
    found = list(places(root))
    for path, what in unread(root):
        yield Finding("note", path, f"{what}, which cannot be read here; unpack it into a folder of images")
    if not found:
        yield Finding("wrong", root, "holds no images")
    for place in found:
        if place.set_name is not None:
            yield from benchmark_set(place)
        elif place.role == "LR":
            yield from _lr(place)
        else:
            yield from _images(place)
        count(len(place.files))


def benchmark_set(place: Place) -> Iterator[Finding]:
    """Compare the HR images of a test set with its published pixels; the first finding covers the folder."""
    assert place.set_name is not None
    name, known = place.set_name, facts.facts()[place.set_name]
    verdicts, absent, twice = facts.compare(name, place.files, cut=place.cut)
    faults = Counter(verdict.kind for verdict in verdicts if verdict.state == "wrong")
    counts = [f"{number} {kind}" for kind, number in faults.most_common()]
    counts += [f"{', '.join(fact.file for fact in twice)} twice"] if twice else []
    counts += [f"{len(absent)} missing"] if absent else []
    right = {verdict.fact for verdict in verdicts if verdict.has_right_pixels}
    renamed = len(right - {verdict.fact for verdict in verdicts if verdict.state == "right"})
    others = sum(not verdict.has_right_pixels for verdict in verdicts)
    says = f"{name} in {place.layout}: {len(right)} of {len(known)} images right"
    says += f", {renamed} of them under other names" if renamed else ""
    if counts:
        yield Finding("wrong", place.folder, f"{says}; {', '.join(counts)}")
    elif others:
        yield Finding("note", place.folder, f"{says}; notes on the other {others} follow")
    else:
        elsewhere = "" if place.tree == "ours" else f"; to use it, move it to benchmarks/{name}/HR"
        yield Finding("right", place.folder, says + elsewhere)
    yield from _listed(
        Finding(verdict.state, file, str(verdict))
        for file, verdict in zip(place.files, verdicts, strict=True)
        if verdict.state != "right"
    )
    yield from _listed(Finding("wrong", place.folder / fact.file, "missing") for fact in absent)


def _images(place: Place) -> Iterator[Finding]:
    """Check a training set, pieces of a training set, or photos for missing and broken images."""
    sizes, broken = _decoded(place.files)
    known = place.training
    says = "photos" if known is None else f"{known.name} in {place.layout}"
    says += f": {len(place.files)} images"
    says += f", smallest side {min(map(min, sizes.values()))}" if sizes else ""
    state: State = "right"
    if place.role == "HR pieces":
        says += ", cut into pieces; dataset=folder dataset.hr_dir=... reads them"
    elif known is not None:
        absent = known.missing(place.files)
        extra = len(place.files) - (known.count - len(absent))
        if absent:
            state, says = "wrong", f"{says}; {len(absent)} missing, starting with {absent[0]}"
        elif extra:
            state, says = "wrong", f"{says}; {extra} more than {known.name} has"
        if known.name.startswith("DIV2K"):
            broken += [
                Finding("wrong", file, f"half-size or another image: {width}x{height}; DIV2K has 2K images")
                for file, (height, width) in sizes.items()
                if max(height, width) < _SIDE_2K
            ]
    if broken:
        state, says = "wrong", f"{says}; {len(broken)} wrong"
    yield Finding(state, place.folder, says)
    yield from _listed(broken)


def _lr(place: Place) -> Iterator[Finding]:
    """Check LR images: each must be MATLAB's bicubic downscaling of an HR image ``scale`` times as large."""
    assert place.hr_folder is not None
    hr_files: list[Path] = []
    if place.hr_folder.is_dir():
        hr_files = [file for one in places(place.hr_folder) if one.role != "LR" for file in one.files]
    known = "" if place.scale is None else f"x{place.scale} "
    if not hr_files:
        yield Finding("wrong", place.folder, f"{known}LR images without HR images in {place.hr_folder}")
        return
    sizes, faults = _decoded(place.files)
    paired = pairs(hr_files, list(sizes), place.scale)
    faults += [Finding("wrong", file, f"has no HR image in {place.hr_folder}") for file in paired.left]
    faults += [Finding("wrong", place.folder, text) for text in paired.doubtful]
    hr_sizes, _ = _decoded(list(paired.found))
    scale = place.scale or _ratio(
        [(hr_sizes[hr], sizes[lr]) for hr, lr in paired.found.items() if hr in hr_sizes]
    )
    fitting = []
    for hr_file, lr_file in paired.found.items():
        height, width = hr_sizes.get(hr_file, (0, 0))
        if sizes[lr_file] == (height // scale, width // scale):
            fitting.append((lr_file, hr_file))
        else:
            says = f"{_size(sizes[lr_file])} does not fit its HR image {_size((height, width))} at x{scale}"
            faults.append(Finding("wrong", lr_file, says))
    says = f"x{scale} LR images in {place.layout}: {len(fitting)} of {len(place.files)} fit their HR images"
    lonely = len(paired.lonely)
    says += f", and {lonely} HR images have no LR image" if lonely else ""
    state: State = "wrong" if faults or lonely else "right"
    if place.bicubic is False:
        says += "; not bicubic according to the name of the folder"
    elif fitting and scale > 1:
        made, how = _made(fitting, scale)
        if place.bicubic is None and made == "wrong":
            made = "note"
        says, state = f"{says}; {how}", "wrong" if "wrong" in (state, made) else made
    yield Finding(state, place.folder, says)
    yield from _listed(faults)


def _ratio(sizes: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> int:
    """The most frequent ratio of HR and LR heights, rounded to an integer; 1 if nothing is paired."""
    ratios = Counter(max(1, round(hr[0] / lr[0])) for hr, lr in sizes)
    return ratios.most_common(1)[0][0] if ratios else 1


def _made(pairs: Sequence[tuple[Path, Path]], scale: int) -> tuple[State, str]:
    """How LR images were made, judging by pairs ``(lr, hr)``."""
    chosen = pairs[:: -(-len(pairs) // _COMPARED)]
    with ThreadPoolExecutor(2) as pool:
        origins = list(pool.map(lambda pair: origin(pair[1], pair[0], scale), chosen))
    kinds: dict[str, list[int]] = {}
    for index, found in enumerate(origins):
        kinds.setdefault(_in_words(found), []).append(index)
    says = []
    for kind, indices in kinds.items():
        worst = min(indices, key=lambda index: origins[index].psnr)
        distance = f" ({chosen[worst][0].name}: {origins[worst].psnr:.1f} dB against MATLAB's)"
        says.append(f"{len(indices)} of {len(chosen)} {kind}{'' if kind.startswith(_EXACT) else distance}")
    if all(kind.startswith(_EXACT) for kind in kinds):
        return "right" if set(kinds) == {_EXACT} else "note", ", ".join(says)
    return "wrong", ", ".join(says)


def _in_words(found: Origin) -> str:
    if found.exact:
        return f"are bit for bit {found.name}"
    if found.name == MATLAB:
        return "are recompressed, converted or shifted"
    return f"are made by {found.name}{'' if found.name == UNKNOWN else ' or a similar resize'}"


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"


def _decoded(files: Sequence[Path]) -> tuple[Sizes, list[Finding]]:
    """Height and width of each image that can be fully decoded, and a finding for every other image."""

    def size(file: Path) -> "tuple[int, int] | DataError":
        try:
            height, width, _ = read_image(file).shape
        except DataError as error:
            return error
        return height, width

    with ThreadPoolExecutor(_WORKERS) as pool:
        found = dict(zip(files, pool.map(size, files), strict=True))
    sizes = {file: size for file, size in found.items() if not isinstance(size, DataError)}
    broken = [
        Finding("wrong", file, f"broken: {str(size).removeprefix('images: ')}")
        for file, size in found.items()
        if file not in sizes
    ]
    return sizes, broken


def _listed(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first findings, then a finding with the number of remaining findings."""
    rest = list(findings)
    yield from rest[:_LISTED]
    if len(rest) > _LISTED:
        last = rest[_LISTED:]
        state: State = "wrong" if any(finding.state == "wrong" for finding in last) else "note"
        yield Finding(state, rest[0].where.parent, f"and {len(last)} more of this kind")
