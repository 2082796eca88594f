"""The numbers that papers print in their tables: ``experiments/<paper>/expected.csv``."""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figure:
    """One printed number."""

    paper: str  # folder of ``experiments/``
    table: str  # the paper's table, e.g. ``table1``
    row: str  # its row, as printed
    model: str  # the value for ``model=``, or ``not implemented``
    scale: int | None  # upscaling factor, ``None`` if the paper gives no scale
    set_name: str  # test set, empty for a number about the network alone
    metric: str  # ``psnr_y``, ``ssim_y``, ``num_params_k``, ``multi_adds_g`` and so on
    value: float
    text: str = ""  # as printed, digit by digit

    @property
    def decimals(self) -> int:
        """Number of printed decimals."""
        return len(self.text.partition(".")[2])


def experiments_dir() -> Path:
    """Folder of the papers' printed numbers: inside the package if installed, next to it in a checkout."""
    inside = _PACKAGE / "experiments"
    return inside if inside.is_dir() else _PACKAGE.parent / "experiments"


@functools.cache
def figures() -> tuple[Figure, ...]:
    """Every printed number of every paper."""
    found = []
    for path in sorted(experiments_dir().glob("*/expected.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                scale = int(row["scale"]) if row["scale"] else None
                value = float(row["value"])
                names = (path.parent.name, row["table"], row["row"], row["model"])
                found.append(Figure(*names, scale, row["set"], row["metric"], value, row["value"]))
    return tuple(found)


def papers() -> tuple[str, ...]:
    """Folders of `experiments_dir` that belong to a paper."""
    return tuple(sorted({figure.paper for figure in figures()}))


def table(paper: str, name: str) -> tuple[Figure, ...]:
    """The numbers of one table in printed order; empty for an unknown table."""
    return tuple(figure for figure in figures() if (figure.paper, figure.table) == (paper, name))


@functools.cache
def comparisons() -> tuple[Figure, ...]:
    """The numbers of tables that compare networks; ablations, which compare few networks, are left out."""
    models: dict[tuple[str, str], set[str]] = {}
    for figure in figures():
        models.setdefault((figure.paper, figure.table), set()).add(figure.model)
    # Rows such as "CARN + GGAS" and "CARN cos_lr minus step_lr" print gains.
    gain = re.compile(r"\+|minus")
    return tuple(f for f in figures() if len(models[f.paper, f.table]) > 3 and not gain.search(f.row))
