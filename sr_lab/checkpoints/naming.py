"""The scale in the name of a checkpoint or of a folder around it."""

import re
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = 3  # authors write FDIWNx4/model/model_best.pt

# ``x4`` as in IMDN_x4, PANx4_DF2K, SRx4, LBNet-X2, x4plus, x4v3. Digits next to it belong to a kernel, a
# size or a list (3x3, 1280x720, x48, x2x4), and lower-case letters to a word (max4, box2, x4k).
_AFTER = r"(?<![0-9aeiou])[xX\u00d7]([2-9])(?=plus|v[0-9]|[^0-9a-zx\u00d7]|$)(?!\.[0-9])"
# ``4x`` at the start of a word, as in 4x-UltraSharp and 4xNomos.
_BEFORE = r"(?<![0-9A-Za-z.])([2-9])[xX\u00d7](?=[^0-9a-z]|$)"
_WORD = r"(?i:scale|factor)[ _=-]?([2-9])(?![0-9]|\.[0-9])"
_PATTERNS = tuple(map(re.compile, (_AFTER, _BEFORE, _WORD)))


@dataclass(frozen=True)
class NamedScale:
    """A scale, and the name that contains it."""

    scale: int
    part: str


def named_scale(path: Path) -> NamedScale | None:
    """The scale in a file's name, or else in the name of one of three folders around it, nearest first.

    A name with several scales (``vdsr_x2_x4``) gives none, and folders further out are then ignored.
    """
    whole = path.absolute()
    for part in (whole.stem, *(folder.name for folder in list(whole.parents)[:_FOLDERS])):
        found = {int(match[1]) for pattern in _PATTERNS for match in pattern.finditer(part)}
        if found:
            return NamedScale(found.pop(), part) if len(found) == 1 else None
    return None
