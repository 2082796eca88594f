"""One task, one file: ``sr_lab/tasks/<name>.py`` with a function ``run``."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from sr_lab.config import Config


def run(config: Config, folder: Path, overrides: Sequence[str]) -> None:
    """Run the task that the configuration names.

    Args:
        config: Validated configuration.
        folder: The run's folder; for ``report`` the folder of runs.
        overrides: Overrides of the command line.
    """
    importlib.import_module(f"sr_lab.tasks.{config.task}").run(config, folder, overrides)
