"""One task, one file: ``sr_lab/tasks/<name>.py`` with a function ``run``."""

import importlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from sr_lab.config.schema import Config
from sr_lab.runs import sweep
from sr_lab.system import interrupts


def run(config: Config, folder: Path, overrides: Sequence[str]) -> None:
    """Run the task that the configuration names.

    Args:
        config: Validated configuration.
        folder: The run's folder; for ``report`` the folder of runs.
        overrides: Overrides of the command line.
    """
    task = importlib.import_module(f"sr_lab.tasks.{config.task}")
    _quiet_libraries()  # after Lightning's import, which sets its own level
    interrupts.as_exception()
    task.run(config, folder, overrides)


def _quiet_libraries() -> None:
    """Silence Lightning's tips and progress lines, and warnings that its code causes in torch."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=r".*It is recommended to use `self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=r".*metric MeanOverImages was called before the ``update``.*")
    warnings.filterwarnings("ignore", message=r"Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty.*")


def finish(config: Config, folders: Sequence[Path]) -> None:
    """End a multirun whose jobs ran here: the task's own ``collect``, or a table.

    Args:
        config: Configuration of the last job.
        folders: Run folders of the jobs that succeeded.
    """
    task = importlib.import_module(f"sr_lab.tasks.{config.task}")
    if hasattr(task, "collect"):
        task.collect(config, folders)
    else:
        sweep.finish(folders)
