"""Run folders as rows; needs no torch."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """One run on disk: its results, or why there are none.

    Args:
        path: The run folder.
        values: Contents of ``metrics.json``, empty if the run is not finished.
        problem: ``""``, or one line: failed and why, or unfinished.
    """

    path: Path
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""

    @property
    def name(self) -> str:
        """What the table calls the run."""
        return str(self.values.get("run") or self.path.name.rpartition("-")[0] or self.path.name)

    @property
    def scale(self) -> int:
        """Enlargement; 0 if the run never said."""
        value = self.values.get("scale", 0)
        return value if isinstance(value, int) else 0

    @property
    def sets(self) -> list[str]:
        """Test sets that were measured, in the order of the test."""
        return [
            key.split("/")[1] for key in self.values if key.startswith("test/") and key.endswith("/psnr_y")
        ]

    def number(self, key: str) -> float | None:
        """A figure, ``None`` where it is missing."""
        value = self.values.get(key)
        return float(value) if isinstance(value, (int, float)) else None


def read_run(path: Path) -> Run:
    """Read one run folder, finished or not."""
    folder = RunFolder(path)
    try:
        values = folder.read_metrics()
    except (json.JSONDecodeError, OSError) as error:
        return Run(path, problem=f"metrics.json cannot be read: {error}")
    if isinstance(values, dict):
        return Run(path, values)
    if values is not None:
        return Run(path, problem="metrics.json cannot be read: it holds no object")
    if folder.failed.is_file():
        lines = folder.failed.read_text().split("\n")
        return Run(path, problem=f"failed: {next((line for line in reversed(lines) if line.strip()), '')}")
    return Run(path, problem="unfinished")


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
