"""What papers print about a network: ``experiments/<paper>/expected.csv``. Needs no torch."""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figure:
    """One printed figure.

    Args:
        paper: Folder of ``experiments/``.
        table: The paper's table, as in ``table1``.
        row: Its row, as printed.
        model: What ``model=`` takes, or ``not implemented``.
        scale: Upscaling factor, ``None`` where the paper says none.
        set_name: Test set, empty for a figure of the network alone.
        metric: ``psnr_y``, ``ssim_y``, ``num_params_k``, ``multi_adds_g`` and so on.
        value: The figure.
        text: The figure as printed, digit for digit.
    """

    paper: str
    table: str
    row: str
    model: str
    scale: int | None
    set_name: str
    metric: str
    value: float
    text: str = ""

    @property
    def decimals(self) -> int:
        """How many are printed."""
        return len(self.text.partition(".")[2])


def experiments_dir() -> Path:
    """The papers' figures: beside the code in an installed wheel, one folder up in a checkout."""
    inside = _PACKAGE / "experiments"
    return inside if inside.is_dir() else _PACKAGE.parent / "experiments"


@functools.cache
def figures() -> tuple[Figure, ...]:
    """Every printed figure of every paper."""
    found = []
    for path in sorted(experiments_dir().glob("*/expected.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file, strict=True):
                scale = int(row["scale"]) if row["scale"] else None
                value = float(row["value"])
                names = (path.parent.name, row["table"], row["row"], row["model"])
                found.append(Figure(*names, scale, row["set"], row["metric"], value, row["value"]))
    return tuple(found)


def papers() -> tuple[str, ...]:
    """Folders of `experiments_dir` that are a paper's."""
    return tuple(sorted({figure.paper for figure in figures()}))


def table(paper: str, name: str) -> tuple[Figure, ...]:
    """The figures of one table, in their order; none where nothing is printed."""
    return tuple(figure for figure in figures() if (figure.paper, figure.table) == (paper, name))


def psnr(model: str, scale: int, set_name: str) -> float | None:
    """The PSNR in dB that most papers print for a network, of equally many the highest, if any does.

    Args:
        model: What ``model=`` takes.
        scale: Upscaling factor.
        set_name: Test set.
    """
    values = [
        figure.value
        for figure in comparisons()
        if (figure.model, figure.scale, figure.set_name) == (model, scale, set_name)
        and figure.metric == "psnr_y"
    ]
    return max(values, key=lambda value: (values.count(value), value)) if values else None


@functools.cache
def comparisons() -> tuple[Figure, ...]:
    """Figures of tables that set whole networks side by side; in an ablation all rows are of one or two."""
    models: dict[tuple[str, str], set[str]] = {}
    for figure in figures():
        models.setdefault((figure.paper, figure.table), set()).add(figure.model)
    # "CARN + GGAS" and "CARN cos_lr minus step_lr" print what something gained.
    gain = re.compile(r"\+|minus")
    return tuple(f for f in figures() if len(models[f.paper, f.table]) > 3 and not gain.search(f.row))
