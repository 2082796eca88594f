"""``task=log``: rewrite the W&B run of a run folder from ``metrics.csv``.

W&B's offline file loses about its last 100 rows when a run is killed, and all later rows when W&B's own
process is killed; ``metrics.csv`` has every row.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger

from sr_lab.config.schema import ReadingConfig
from sr_lab.reporting.labels import of_job
from sr_lab.reporting.runs import Run, find_runs
from sr_lab.reporting.terminal import Terminal
from sr_lab.run_folder import RunFolder
from sr_lab.training.loggers import close_wandb, names


def run(config: ReadingConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write an offline W&B run for each run that has a record, and print the command that uploads it."""
    for found in find_runs(Path(config.runs)):
        if found.record:
            with RunFolder(found.path).holding("run; wait for it"):
                written = rebuild(found)
            Terminal(highlight=False, soft_wrap=True).print(
                f"{found.path.name}: {len(found.record)} rows; "
                f"upload only this run: `wandb sync {shlex.quote(str(written))}`",  # to be copied to a shell
                markup=False,
            )


def rebuild(found: Run) -> Path:
    """Write the W&B run with the same id as in training.

    Returns:
        The folder for ``wandb sync``.
    """
    node = found.wandb or {}
    settings = wandb.Settings(silent=True, console="off")
    wandb.termsetup(settings, None)
    logger = WandbLogger(
        save_dir=str(found.path),
        id=found.path.name,
        **names(
            node,
            name=of_job(found.path) or found.name,
            group=str(found.settings.get("experiment_name", "train")),
        ),
        config={key: value for key, value in found.settings.items() if key not in ("paths", "allow", "rows")},
        settings=settings,
        resume="allow",
        offline=True,
    )
    for row in found.record:
        values = {key: value for key, value in row.items() if key not in ("step", "time")}
        logger.log_metrics(values, step=int(row["step"]))
    written = Path(logger.experiment.dir).parent
    close_wandb(found.values)
    return written
