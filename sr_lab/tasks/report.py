"""``task=report``: finished runs to one table, on the terminal and beside the runs."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config import ReportConfig
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.table import print_table, to_csv, to_markdown


def run(config: ReportConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write ``table.md`` and ``table.csv`` into the folder of runs and print the table."""
    root = Path(config.runs)
    runs = find_runs(root)
    files.write(root / "table.md", to_markdown(runs))
    files.write(root / "table.csv", to_csv(runs))
    print_table(runs)
