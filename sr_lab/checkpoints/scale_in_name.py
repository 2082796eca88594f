"""The scale in the name of a checkpoint or of a folder around it."""

from dataclasses import dataclass
from pathlib import Path

from sr_lab.datasets.names import stated_scales

_FOLDERS = 3  # authors write FDIWNx4/model/model_best.pt


@dataclass(frozen=True)
class NamedScale:
    """The scales that a name states, at least one."""

    scales: tuple[int, ...]
    part: str

    @property
    def scale(self) -> int | None:
        """The scale, if the name states only one."""
        return self.scales[0] if len(self.scales) == 1 else None


def named_scale(path: Path) -> NamedScale | None:
    """The scale in a file's name, or else in the name of one of three folders around it, nearest first.

    If the nearest name that states a scale states several (``vdsr_x2_x4``), the folders above it can only
    choose among those.
    """
    whole = path.absolute()
    parts = (whole.stem, *(folder.name for folder in list(whole.parents)[:_FOLDERS]))
    stated = [NamedScale(scales, part) for part in parts if (scales := stated_scales(part))]
    if not stated:
        return None
    nearest = stated[0]
    outer = next((named for named in stated if named.scale is not None), nearest)
    return outer if outer.scale in nearest.scales else nearest
