"""Which HR, LR and SR images belong together, by the names that data sets and programs give them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Role: TypeAlias = Literal["HR", "LR", "SR"]

# Marks that a name may have in addition to the scene, and the role that each gives the image; # is a scale.
# Names are compared case-insensitively.
_MARKS: tuple[tuple[Role | None, str], ...] = (
    ("HR", r"_SRF_#_HR$"),  # SelfExSR: img_001_SRF_4_HR, img_001_SRF_4_LR, img_001_SRF_4_SRCNN
    ("LR", r"_SRF_#_LR$"),
    ("SR", r"_SRF_#_[a-z\d+]+$"),
    ("HR", r"[_-](HR|GT|HQ)$"),  # baby_HR, Kim's baby_GT, RealSR's Canon_001_HR
    ("LR", r"[_-](LR|LQ)(BI|BD|DN)?(x?#)?$"),  # baby_LR, RealSR's Canon_001_LR4, RCAN's baby_LRBI
    ("SR", r"[_-]SR(x?#)?$"),  # baby_SR
    ("HR", r"^(HR|GT)[_-]"),
    ("LR", r"^(LR|LQ)[_-]"),
    ("SR", r"^SR[_-]"),
    (None, r"[_-]?x#(?=(_s\d+)?$)"),  # 0001x4, baby_x4, BasicSR's 0001x4_s001
    (None, r"(?<!_\d)(?<!_\d\d)[_-]?x#(m|d|w\d?)$"),  # NTIRE 2018's 0001x2m, but not resnext50_32x4d
    (None, r"[_-]#x$"),
    (None, r"_x1$"),  # DRealSR: DSC_1286_x1 is the LR image of DSC_1286_x4
)
_PATTERNS = tuple((role, re.compile(mark.replace("#", r"(?P<scale>\d{1,2})"), re.I)) for role, mark in _MARKS)
# What a program appends to every name: baby_RCAN, 0001x4_SwinIR, 1out; but not a scale alone.
_ADDED = re.compile(r"(?![_-]?x\d+$)(?=.*[a-z])[a-z_-].*", re.IGNORECASE)
# Where a scene's name ends and the addition begins, if that can be told; in babyout it cannot.
_SEPARATE = re.compile(r"\d[a-z]|.[_-]|.x\d", re.IGNORECASE)

# A scale anywhere in a name. ``x4`` as in babyx4_IMDN, LBNet-X2, x4plus, x4v3, x4s48; digits next to it
# belong to a kernel or a size (3x3, 1280x720, x48), lower-case letters to a word (max4, box2, x4k).
_NUMBER = r"0?([2-9]|16)"
_AFTER = rf"(?<![0-9aeiou])[xX\u00d7]{_NUMBER}(?=plus|ema|[vs][0-9]|[^0-9a-zx\u00d7]|$)(?!\.[0-9])"
# ``x2x3x4``, one network for several scales.
_LIST = re.compile(r"(?<![0-9a-zA-Z])(?:x[2-9]){2,}(?![0-9a-zA-Z])")
# ``4x`` as in 4x-UltraSharp, 4xNomos, Model4x; v2x is a version.
_BEFORE = rf"(?<![0-9.vV]){_NUMBER}[xX\u00d7](?=[^0-9a-z]|$)"
_WORD = rf"(?i:scale|factor|srf)[ _=-]?{_NUMBER}(?![0-9]|\.[0-9])"
_STATED = re.compile("|".join((_AFTER, _BEFORE, _WORD)))
# pan_x4_ft_from_x2: the second scale is the scale of the network that it was fine-tuned from.
_ORIGIN = re.compile(r"(?:from|init)[ _-]?(x\d+|\d+x|scale[ _=-]?\d+)", re.IGNORECASE)


class Pairs(NamedTuple):
    """Which images belong together.

    Args:
        found: HR image -> its LR or SR image.
        lonely: HR images without a counterpart.
        left: LR or SR images without an HR image.
        doubtful: A sentence for each name that fits several images.
    """

    found: dict[Path, Path]
    lonely: list[Path]
    left: list[Path]
    doubtful: list[str]


def forms(stem: str, scale: int | None = None) -> list[str]:
    """A name, then the same name with fewer and fewer marks: ``0001x4_SR``, ``0001x4``, ``0001``.

    Args:
        stem: The name, without its extension.
        scale: Marks of this scale are removed, marks of other scales stay. ``None``: the marks of all
            scales are removed.
    """
    found = [stem]
    while (shorter := _without_mark(found[-1], scale)) is not None:
        found.append(shorter)
    return found


def is_scene(given: str, stem: str) -> bool:
    """Whether a name used in papers stands for an image: ``img011`` for ``img_011_SRF_4_HR``."""
    return _letters(given) in map(_letters, forms(stem))


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _without_mark(stem: str, scale: int | None) -> str | None:
    for _, pattern in _PATTERNS:
        mark = pattern.search(stem)
        if mark is not None and len(mark[0]) < len(stem) and scale in (None, _scale(mark) or scale):
            return stem[: mark.start()] + stem[mark.end() :]
    return None


def _scale(mark: re.Match[str]) -> int | None:
    text = mark.groupdict().get("scale")
    return int(text) if text else None


def scale_of(stem: str) -> int | None:
    """The scale that the marks of a name give; ``None`` if they give none."""
    marks = (pattern.search(name) for name in forms(stem) for _, pattern in _PATTERNS)
    return next((scale for mark in marks if mark is not None and (scale := _scale(mark))), None)


def stated_scales(name: str) -> tuple[int, ...]:
    """The different scales that a name of any kind states, in order, without the scale after "from"."""
    name = _LIST.sub(lambda together: together[0].replace("x", "_x"), name)
    found = _STATED.finditer(_ORIGIN.sub("_", name))
    return tuple(dict.fromkeys(int(number) for match in found for number in match.groups() if number))


def scale_of_result(stem: str, hr_stem: str) -> int | None:
    """The scale that a result's name gives in addition to the name of its HR image.

    Returns:
        The scale; ``None`` if the name gives none or several, as ``baby_x2_x4`` does.
    """
    scene = next((form for form in forms(hr_stem) if stem.startswith(form)), "")
    added = stem.removeprefix(scene)  # an ``x4`` in the scene's own name is not a scale
    stated = stated_scales(added)
    return stated[0] if len(stated) == 1 else None if stated else scale_of(added)


def role_of(stem: str) -> Role | None:
    """The role that a name gives the image; ``None`` if it gives none."""
    return next(
        (role for name in forms(stem) for role, mark in _PATTERNS if role and mark.search(name)), None
    )


def of_role(files: Sequence[Path], role: Role) -> list[Path]:
    """The files of a folder that can have a given role.

    RealSR and SelfExSR keep HR and LR images in one folder: if some files are named after the role, files
    named after another role are left out.
    """
    named = {file: role_of(file.stem) for file in files}
    is_mixed = role in named.values()
    return [file for file in files if not is_mixed or named[file] in (None, role)]


def pairs(hr_files: Sequence[Path], others: Sequence[Path], scale: int | None = None) -> Pairs:
    """Match each LR or SR image to an HR image by name, removing as few marks from the names as possible.

    If no name matches, the images may all have the same addition, such as the name of a program.

    Args:
        hr_files: HR images.
        others: Their LR or SR images.
        scale: See `forms`.
    """
    by_form: dict[str, list[tuple[Path, int]]] = {}
    for hr_file in hr_files:
        for removed, form in enumerate(forms(hr_file.stem, scale)):
            by_form.setdefault(form, []).append((hr_file, removed))
    fitting = {file: _nearest(file, by_form, scale) for file in others}
    if not any(fitting.values()):
        fitting = _with_addition(others, by_form)
    of_hr: dict[Path, list[Path]] = {}
    doubtful = []
    for file, candidates in fitting.items():
        for hr_file in candidates:
            of_hr.setdefault(hr_file, []).append(file)
        if len(candidates) > 1:
            doubtful.append(f"{file} fits {_listed(candidates)}")
    doubtful += [f"{hr} fits {_listed(several)}" for hr, several in of_hr.items() if len(several) > 1]
    found = {hr: of_hr[hr][0] for hr in hr_files if len(of_hr.get(hr, ())) == 1}
    lonely = [file for file in hr_files if file not in of_hr]
    return Pairs(found, lonely, [file for file in others if not fitting[file]], doubtful)


def _nearest(file: Path, by_form: Mapping[str, list[tuple[Path, int]]], scale: int | None) -> list[Path]:
    """The HR images whose names match an image's name after the fewest marks are removed."""
    removals: dict[Path, int] = {}
    for removed, form in enumerate(forms(file.stem, scale)):
        for hr_file, removed_there in by_form.get(form, ()):
            # "matrix2" is not the result for "matrix3", but DRealSR's "_x1" belongs to "_x4".
            scales = {scale_of(file.stem), scale_of(hr_file.stem)} - {None, 1}
            if len(scales) < 2 or not (removed and removed_there):
                removals.setdefault(hr_file, removed + removed_there)
    return [hr_file for hr_file, number in removals.items() if number == min(removals.values())]


def _with_addition(
    others: Sequence[Path], by_form: Mapping[str, list[tuple[Path, int]]]
) -> dict[Path, list[Path]]:
    """Match names that are the name of an HR image plus an ending, if they all have the same ending.

    An ending that begins in the middle of a word (``babyout``) counts only if several names have it.
    """
    fitting: dict[Path, list[Path]] = {}
    additions = set()
    for file in others:
        ends = ((file.stem[:end], file.stem[end:]) for end in range(len(file.stem), 0, -1))
        form, added = next(((f, a) for f, a in ends if f in by_form and _ADDED.fullmatch(a)), ("", ""))
        fitting[file] = [hr_file for hr_file, _ in by_form.get(form, ())]
        additions |= {(added, bool(_SEPARATE.match(form[-1] + added[:2])))} if added else set()
    several = sum(map(bool, fitting.values())) > 1
    is_same = len({added for added, _ in additions}) == 1
    is_plain = several or all(separate for _, separate in additions)
    return fitting if is_same and is_plain else {file: [] for file in others}


def _listed(files: Iterable[Path]) -> str:
    return " and ".join(map(str, files))
