"""Speed goals, comparison with stored figures, and the README of ``experiments/benchmarks``.

A table is the content of ``benchmark.json``: facts about the machine, and each figure's median and quartiles.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeAlias, cast

from sr_lab import files
from sr_lab.reporting.markdown import escape, fill
from sr_lab.reporting.published import experiments_dir

Table: TypeAlias = Mapping[str, object]
Figure: TypeAlias = Mapping[str, float]

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
_TOLERANCE = 0.10


@dataclass(frozen=True)
class Goal:
    """Whether a figure should be high or low, and the value to reach, if there is one."""

    better: Literal["higher", "lower"]
    value: float | None = None

    def met(self, median: float) -> bool | None:
        """Whether a figure reaches the goal; ``None`` if there is no value to reach."""
        if self.value is None:
            return None
        return median >= self.value if self.better == "higher" else median <= self.value

    def __str__(self) -> str:
        if self.value is None:
            return ""
        return f"{'≥' if self.better == 'higher' else '≤'} {number(self.value)}"


# Pattern of keys -> goal; the first match counts. A ratio without a goal is shown, but not compared.
GOALS = {
    "loader.pairs_per_s": Goal("higher", 6000),
    "loader.ratio_to_png": Goal("higher", 50),
    "loader.share_of_memcpy": Goal("higher", 0.12),
    "step.overhead_ms": Goal("lower", 0.4),
    "step.ratio_to_bare_loop": Goal("lower", 1.03),
    "gpu_*.best_ratio_to_fp32": Goal("higher", 4),
    "gpu_*.share_of_roofline": Goal("higher", 0.35),
    "gpu_*.data_wait": Goal("lower", 0.02),
    "ssim.ratio_to_skimage": Goal("higher", 3),
    "ssim.gpu_ratio_to_skimage": Goal("higher", 20),
    "ssim.ratio_to_kornia": Goal("higher"),
    "evaluate.share_outside_network": Goal("lower", 0.10),
    "start.ratio_to_import": Goal("lower", 1.5),
    "start.help_ratio_to_import_hydra": Goal("lower", 4),
    "tiling.ratio_to_whole": Goal("lower", 1.25),
    "backend.onnxruntime_ratio_to_eager": Goal("higher", 2),
    "backend.openvino_ratio_to_eager": Goal("higher", 4),
    "psnr.ratio_to_skimage": Goal("higher"),
    "fold.*_ratio_to_unfolded": Goal("lower"),
    "degradation.*_share_of_step": Goal("lower"),
    "gpu_*.ratio_to_fp32.*": Goal("higher"),
}


def goal(key: str) -> Goal | None:
    """The goal of a figure, if it has one."""
    return next((goal for pattern, goal in GOALS.items() if fnmatch(key, pattern)), None)


def number(value: float) -> str:
    """Three significant digits; large numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figures(table: Table) -> dict[str, Figure]:
    """The figures among the entries of a table."""
    return {
        key: cast(Figure, entry)
        for key, entry in table.items()
        if isinstance(entry, Mapping) and "median" in entry
    }


def fallen(now: Table, stored: Table, asked: Collection[str]) -> list[str]:
    """Figures that are worse than the stored ones by more than 10 % and beyond the stored quartiles.

    Only ratios are compared, since a rate depends on the machine. A share that should be small may grow by
    three percentage points: 8 % of the time outside the network does not count as worse than 7 %.

    Args:
        now: The new figures.
        stored: The figures to compare with.
        asked: Benchmarks that were requested; each of their stored figures must have been measured.

    Returns:
        One sentence for each figure.
    """
    measured, sentences = figures(now), []
    for key, before in comparable(stored).items():
        old = before["median"]
        if key.partition(".")[0] not in asked:
            continue
        if key not in measured:
            sentences.append(f"{key}: not measured, stored {number(old)}")
            continue
        new, slack, wanted = measured[key]["median"], _TOLERANCE * old, goal(key)
        if wanted is not None and wanted.better == "higher":
            worse = new < min(old - slack, before["q1"])
        else:
            worse = new > max(old + slack, before["q3"], old + 0.03 if "share" in key else 0)
        if worse:
            change = f"{abs(new / old - 1):.0%} {'lower' if new < old else 'higher'}"
            sentences.append(f"{key}: {number(new)}, stored {number(old)}: {change}")
    return sentences


def comparable(table: Table) -> dict[str, Figure]:
    """The ratios of a table that have a goal."""
    return {
        key: figure for key, figure in figures(table).items() if goal(key) and re.search("ratio|share", key)
    }


def stored_at(device: str, root: Path) -> Path:
    """Path of a device's table, which may not exist; ``root`` is the folder of tables."""
    return root / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def benchmarks_dir() -> Path:
    """Folder of the stored tables."""
    return experiments_dir() / "benchmarks"


def store(table: Table, root: Path) -> Path:
    """Put figures into their device's table and update the README; other benchmarks' figures stay unchanged.

    Every figure keeps the date and commit of the run that measured it.
    """
    path = stored_at(str(table["device"]), root)
    origin = {key: table[key] for key in ("date", "commit") if key in table}
    measured = {key: {**figure, **origin} for key, figure in figures(table).items()}
    before = figures(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    names = {key.partition(".")[0] for key in measured}
    kept = {key: figure for key, figure in before.items() if key.partition(".")[0] not in names}
    facts = {key: entry for key, entry in table.items() if key not in measured}
    files.write(path, json.dumps(facts | dict(sorted((kept | measured).items())), indent=1) + "\n")
    readme = root / "README.md"
    if readme.is_file():
        files.write(readme, filled(readme.read_text(encoding="utf-8"), root))
    return path


def facts(table: Table) -> list[str]:
    """Lines about the machine and the versions behind the figures."""
    versions = table.get("versions")
    given = [(key, table.get(key)) for key in ("device", "threads", "clocks")]
    if isinstance(versions, Mapping):
        given.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if table.get("commit"):
        changed = " with local changes" if table.get("dirty") else ""
        given.append(("commit", f"{str(table['commit'])[:8]}{changed}"))
    given.append(("date", table.get("date")))
    return [f"{name}: {value}" for name, value in given if value is not None]


def rows(table: Table) -> list[tuple[str, str, str, str, bool | None]]:
    """Key, median, quartiles and goal of every figure, and whether the goal is met."""
    found = []
    for key, figure in figures(table).items():
        wanted = goal(key)
        median, q1, q3 = (figure[name] for name in ("median", "q1", "q3"))
        quartiles = f"{number(q1)} to {number(q3)}"
        met = wanted.met(median) if wanted is not None else None
        found.append((key, number(median), quartiles, str(wanted or ""), met))
    return found


def section(root: Path) -> str:
    """The stored tables in Markdown."""
    parts: list[str] = []
    for path in sorted(root.glob("*.json")):
        table: Table = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {escape(str(table['device']))}", ""]
        parts += [f"{escape(line)}  " for line in facts(table)[1:]]
        parts += ["", "| figure | median | quartiles | goal | commit |", "|---|---:|---:|---:|---|"]
        for key, median, quartiles, wanted, met in rows(table):
            reached = {True: " (met)", False: " (not met)", None: ""}[met]
            commit = str(figures(table)[key].get("commit", ""))[:8]
            parts.append(f"| {escape(key)} | {median} | {quartiles} | {wanted}{reached} | {commit} |")
        parts.append("")
    return "\n".join(parts).strip() or "Nothing is stored yet."


def filled(text: str, root: Path) -> str:
    """The text of a README with the stored tables between its markers.

    Raises:
        ConfigError: The markers are missing.
    """
    return fill(text, f"\n{section(root)}\n", begin=BEGIN, end=END, where=str(root / "README.md"))
