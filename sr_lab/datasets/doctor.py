"""Whether images are what papers use: complete, whole, paired, shrunk as MATLAB shrinks."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sr_lab.datasets import facts
from sr_lab.datasets.facts import Fact, State, Verdict
from sr_lab.datasets.images import read_image
from sr_lab.datasets.install import missing
from sr_lab.datasets.layouts import Place, partner, places, unread
from sr_lab.datasets.resizers import MATLAB, Origin, origin
from sr_lab.errors import DataError

_WORKERS = 4  # each decodes one image at a time
_COMPARED = 8  # LR images of a large folder that are made again, spread over it
_SMALL = 20  # folders up to this size are compared whole
_LISTED = 20  # findings of a folder that are listed one by one
_SIDE_2K = 1500  # pixels; DIV2K's images have 2K on their longer side, half-size copies do not

Sizes = dict[Path, "tuple[int, int] | DataError"]


class Finding(NamedTuple):
    """One line of the report.

    Args:
        state: ``wrong``: figures would differ from papers'; ``note``: worth knowing.
        where: The folder or file.
        says: What is the matter.
    """

    state: State
    where: Path
    says: str


def examine(root: Path, *, count: Callable[[int], object] = lambda files: None) -> Iterator[Finding]:
    """Everything there is to say of a folder.

    Args:
        root: A folder of data, or any folder with images.
        count: Called with the number of images that were dealt with.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"doctor: there is no folder {root}; set folder=...")
    found = list(places(root))
    for path, what in unread(root):
        yield Finding("note", path, f"{what}, which nothing here reads; unpack it into a folder of images")
    if not found:
        yield Finding("wrong", root, "holds no images")
    for place in found:
        if place.role == "HR" and place.set_name is not None:
            yield from _test_set(place, place.set_name)
        elif place.role == "LR":
            yield from _lr(place)
        else:
            yield from _images(place)
        count(len(place.files))


def _test_set(place: Place, name: str) -> Iterator[Finding]:
    with ThreadPoolExecutor(_WORKERS) as pool:
        verdicts = list(pool.map(lambda file: _in_layout(place, file, name), place.files))
    covered = {verdict.fact for verdict in verdicts} | {
        facts.expected(file.stem, name) for file in place.files
    }
    absent = [fact for fact in facts.facts()[name] if fact not in covered]
    faults = Counter(verdict.kind for verdict in verdicts if verdict.state == "wrong")
    told = [f"{number} {kind}" for kind, number in faults.most_common()]
    told += [f"{len(absent)} missing"] if absent else []
    right = sum(verdict.state == "right" for verdict in verdicts)
    says = f"{place.tree}: {name}, {right} of {len(facts.facts()[name])} images right"
    if told:
        yield Finding("wrong", place.folder, f"{says}; {', '.join(told)}")
    elif right < len(verdicts):
        yield Finding("note", place.folder, f"{says}, {len(verdicts) - right} as told below")
    elif place.tree == "ours":
        yield Finding("right", place.folder, says)
    else:
        yield Finding("right", place.folder, f"{says}; to be read here it must be benchmarks/{name}/HR")
    yield from _listed(
        Finding(verdict.state, file, verdict.says)
        for file, verdict in zip(place.files, verdicts, strict=True)
        if verdict.state != "right"
    )
    yield from _listed(Finding("wrong", place.folder / fact.file, "missing") for fact in absent)


def _in_layout(place: Place, file: Path, name: str) -> Verdict:
    """The verdict on a file where its layout may have cropped it by design."""
    verdict = facts.judge(file, name)
    want = facts.expected(file.stem, name)
    if verdict.state == "note" and verdict.kind == "renamed" and place.tree == "SelfExSR":
        return verdict._replace(state="right")
    if verdict.kind != "cropped" or place.cut == 1 or not isinstance(want, Fact):
        return verdict
    height, width = read_image(file).shape[:2]
    if (height, width) != facts.cropped_to(want, place.cut):
        return verdict
    says = f"{verdict.says}, as this layout does; tables are measured on whole images"
    return verdict._replace(state="note", says=says)


def _images(place: Place) -> Iterator[Finding]:
    """A training set, pieces of one, or a folder of one's own: whole images, all of them."""
    sizes = _sizes(place.files)
    yield from _broken(sizes)
    good = [size for size in sizes.values() if not isinstance(size, DataError)]
    known = place.training
    label = "photos" if known is None else f"{place.tree}: {known.name}"
    says = f"{label}, {len(place.files)} images"
    if good:
        says += f", the smallest side {min(map(min, good))}"
    if known is None or place.role == "HR pieces":
        pieces = " cut into pieces; dataset=folder dataset.hr_dir=... reads them"
        yield Finding("right", place.folder, says + (pieces if place.role == "HR pieces" else ""))
        return
    absent = missing(known, {file.stem for file in place.files})
    extra = len(place.files) - (known.count - len(absent))
    if absent:
        yield Finding("wrong", place.folder, f"{says}; {len(absent)} missing, the first {absent[0]}")
    elif extra:
        yield Finding("wrong", place.folder, f"{says}; {extra} more than {known.name} has")
    else:
        yield Finding("right", place.folder, says)
    if known.name.startswith("DIV2K"):
        yield from _listed(
            Finding(
                "wrong", file, f"half-size or another image: {size[0]}x{size[1]}, and DIV2K has 2K pixels"
            )
            for file, size in sizes.items()
            if not isinstance(size, DataError) and max(size) < _SIDE_2K
        )


def _lr(place: Place) -> Iterator[Finding]:
    """LR images: each has an HR image of ``scale`` times its size, and is made of it by MATLAB's bicubic."""
    assert place.scale is not None  # of every LR folder
    assert place.hr_folder is not None
    scale = place.scale
    sizes = _sizes(place.files)
    broken = list(_broken(sizes))
    yield from broken
    hr_files = {}
    if place.hr_folder.is_dir():
        hr_files = {file.stem: file for one in places(place.hr_folder) for file in one.files}
    if not hr_files:
        yield Finding("wrong", place.folder, f"x{scale} LR images without HR images in {place.hr_folder}")
        return
    pairs, faults = [], list[Finding]()
    for lr_file, size in sizes.items():
        hr_file = hr_files.get(partner(lr_file, scale)) or hr_files.get(lr_file.stem)
        if hr_file is None:
            faults.append(Finding("wrong", lr_file, f"has no HR image in {place.hr_folder}"))
        elif not isinstance(size, DataError):
            pairs.append((hr_file, lr_file))
    hr_sizes = _sizes([hr_file for hr_file, _ in pairs])
    fitting = []
    for hr_file, lr_file in pairs:
        hr_size, lr_size = hr_sizes[hr_file], sizes[lr_file]
        if isinstance(hr_size, DataError) or isinstance(lr_size, DataError):
            continue
        if lr_size == (hr_size[0] // scale, hr_size[1] // scale):
            fitting.append((hr_file, lr_file))
        else:
            says = (
                f"{lr_size[0]}x{lr_size[1]} does not fit its HR image {hr_size[0]}x{hr_size[1]} at x{scale}"
            )
            faults.append(Finding("wrong", lr_file, says))
    lonely = len(hr_files) - len({hr_file for hr_file, _ in pairs}) if place.tree != "SelfExSR" else 0
    says = f"{place.tree}: x{scale} LR, {len(fitting)} of {len(place.files)} fit their HR images"
    if lonely:
        says += f", {lonely} HR images have none"
    state: State = "wrong" if faults or broken or lonely else "right"
    yield from _made_how(place, fitting, says, state)
    yield from _listed(faults)


def _made_how(place: Place, pairs: Sequence[tuple[Path, Path]], says: str, state: State) -> Iterator[Finding]:
    scale = place.scale
    assert scale is not None
    if not place.bicubic:
        yield Finding(state, place.folder, f"{says}; not bicubic, as the folder says")
        return
    chosen = pairs if len(pairs) <= _SMALL else pairs[:: -(-len(pairs) // _COMPARED)]
    with ThreadPoolExecutor(2) as pool:
        origins = list(pool.map(lambda pair: origin(pair[0], pair[1], scale), chosen))
    if not chosen:
        yield Finding(state, place.folder, says)
        return
    exact = sum(found.exact and found.name == MATLAB for found in origins)
    says += f"; {exact} of {len(chosen)} compared are MATLAB's bicubic bit for bit"
    others = [(pair, found) for pair, found in zip(chosen, origins, strict=True) if not _is_matlab(found)]
    notes = [found for found in origins if _is_matlab(found) and not (found.exact and found.name == MATLAB)]
    if others:
        state = "wrong"
    elif notes and state == "right":
        state = "note"
    for name, number in Counter(found.name for found in notes).most_common():
        says += f", {number} are {name}"
    yield Finding(state, place.folder, says)
    yield from _listed(Finding("wrong", pair[1], _not_matlab(found)) for pair, found in others)


def _is_matlab(found: Origin) -> bool:
    """Any of MATLAB's three forms, which papers use."""
    return found.exact and found.name.startswith(MATLAB)


def _not_matlab(found: Origin) -> str:
    distance = f"{found.psnr:.1f} dB from MATLAB's bicubic"
    if found.name.startswith(MATLAB):
        return f"recompressed, converted or shifted: {distance}"
    if found.name == "no bicubic":
        return f"made by no resize that is known here: {distance}"
    return f"made by {found.name}{'' if found.exact else ' or one like it'}: {distance}"


def _sizes(files: Sequence[Path]) -> Sizes:
    """Height and width of each image, or why it cannot be read; every one is decoded."""

    def size(file: Path) -> "tuple[int, int] | DataError":
        try:
            height, width, _ = read_image(file).shape
        except DataError as error:
            return error
        return height, width

    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(files, pool.map(size, files), strict=True))


def _broken(sizes: Sizes) -> Iterator[Finding]:
    return _listed(
        Finding("wrong", file, f"broken ({size})")
        for file, size in sizes.items()
        if isinstance(size, DataError)
    )


def _listed(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first so many, and how many more there are."""
    rest = list(findings)
    yield from rest[:_LISTED]
    if len(rest) > _LISTED:
        last = rest[_LISTED:]
        state: State = "wrong" if any(finding.state == "wrong" for finding in last) else "note"
        yield Finding(state, rest[0].where.parent, f"and {len(last)} more of this kind")
