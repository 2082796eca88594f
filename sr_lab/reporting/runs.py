"""Run folders as rows; needs no torch."""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder, read_index


@dataclass(frozen=True)
class Run:
    """One run on disk: its results, or why there are none.

    Args:
        path: The run folder.
        values: Contents of ``metrics.json``, empty if the run is not finished.
        problem: ``""``, or one line: failed or pruned and why, or unfinished.
        settings: Contents of ``config.yaml``, which an unfinished run has, too.
        labels: The rows of a paper's table that the run is; none for other runs.
        overrides: The command line that it stands for, if it was the job of a sweep.
    """

    path: Path
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the table calls the run."""
        return str(self.values.get("run") or self.path.name.rpartition("-")[0] or self.path.name)

    def _said(self, key: str) -> object:
        """A result, or the setting of a run that has none."""
        return self.values.get(key, self.settings.get(key))

    @property
    def scale(self) -> int:
        """Enlargement; 0 if the run never said."""
        value = self._said("scale")
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    @property
    def seed(self) -> int | None:
        """Seed; ``None`` if the run never said."""
        value = self._said("seed")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def table(self) -> tuple[str, str] | None:
        """Paper and name of the table that the run belongs to."""
        value = self._said("table")
        if not isinstance(value, dict) or not {"paper", "name"} <= value.keys():
            return None
        return str(value["paper"]), str(value["name"])

    @property
    def sets(self) -> list[str]:
        """Test sets that were measured, in the order of the test."""
        return [
            key.split("/")[1] for key in self.values if key.startswith("test/") and key.endswith("/psnr_y")
        ]

    @functools.cached_property
    def record(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv`` without their holes; empty if the run was no training.

        A row that a kill has cut short has what it has, perhaps half a number.
        """
        try:
            rows = files.read_csv(RunFolder(self.path).record)
        except (OSError, ValueError):
            return []
        numbers = [{key: files.number(text) for key, text in row.items()} for row in rows]
        return [{key: value for key, value in row.items() if math.isfinite(value)} for row in numbers]

    @property
    def validation_psnr(self) -> float | None:
        """PSNR of the dataset's held-out images at the checkpoint that was kept, that of the best mean.

        In dB; ``None`` if the run has not validated.
        """
        validated = [row for row in self.record if "val/psnr_y" in row]
        if not validated:
            return None
        kept = max(validated, key=lambda row: row["val/psnr_y"])
        return kept.get("val/held_out/psnr_y", kept["val/psnr_y"])

    def number(self, key: str) -> float | None:
        """A figure, ``None`` where it is missing."""
        value = self.values.get(key)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read_run(path: Path) -> Run:
    """Read one run folder, finished or not."""
    folder = RunFolder(path)
    settings, values, problem = _settings(folder), None, ""
    try:
        values = folder.read_metrics()
    except (ValueError, OSError) as error:
        problem = f"metrics.json cannot be read: {error}"
    if values is not None and not isinstance(values, dict):
        values, problem = None, "metrics.json cannot be read: it holds no object"
    if values is None and not problem:
        problem = "unfinished"
        if folder.pruned.is_file():
            problem = f"pruned: {_said(folder.pruned).strip()}"
        elif folder.failed.is_file():
            lines = _said(folder.failed).split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            problem = "failed: " + re.sub(r"^sr_lab[.]errors[.]\w+: ", "", last)
    listed = [job for job in read_index(path.parent) if job.folder == path.name]
    # Rows of a table may be one and the same run; which they are stands in the list of the sweep.
    own = (values or {}).get("row", settings.get("row_label"))
    labels = [] if own is None else [own, *(job.label for job in listed)]
    told = tuple(dict.fromkeys(str(label) for label in labels if label is not None))
    return Run(path, values or {}, problem, settings, told, tuple(listed[-1].overrides) if listed else ())


def _said(file: Path) -> str:
    """What a short text says; nothing if it cannot be read."""
    try:
        return str(files.plain(files.read_text(file)))
    except (OSError, ValueError):
        return ""


def _settings(folder: RunFolder) -> Mapping[str, object]:
    try:
        settings = files.read_yaml(folder.config)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def find_runs(root: Path) -> list[Run]:
    """The run at ``root``, or every run below it, in the order of their names.

    Raises:
        ConfigError: There is no run.
    """
    marks = ("metrics.json", "failed.txt", "config.yaml")
    if any((root / mark).is_file() for mark in marks):
        return [read_run(root)]
    paths = [path for mark in marks for path in root.rglob(mark)] if root.is_dir() else []
    # W&B keeps a config.yaml of its own inside a run folder.
    found = sorted({path.parent for path in paths if "wandb" not in path.relative_to(root).parts})
    if not found:
        raise ConfigError(f"runs: no run folder in '{root}'; give a folder that a training has written")
    return [read_run(path) for path in found]
