"""``task=log``: the W&B run of a run folder, made anew of ``metrics.csv``.

W&B's offline file loses its last rows, about 100, when a run is killed, and all of them from when its process
is; the record has every one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console

from sr_lab.config.schema import LogConfig
from sr_lab.reporting.runs import Run, find_runs
from sr_lab.run_folder import RunFolder
from sr_lab.training.loggers import close_wandb


def run(config: LogConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write an offline run beside those of W&B for each run that has a record, and say how it is sent."""
    for found in find_runs(Path(config.runs)):
        if found.record:
            with RunFolder(found.path).holding("run; wait for it"):
                written = rebuild(found)
            Console(highlight=False, soft_wrap=True).print(
                f"{found.path.name}: {len(found.record)} rows; wandb sync {written}, not earlier ones",
                markup=False,
            )


def rebuild(found: Run) -> Path:
    """One run; it has the id of its folder, as when it was trained.

    Returns:
        The folder that ``wandb sync`` takes.
    """
    node = _wandb_node(found.settings.get("logger"))
    settings = wandb.Settings(silent=True, console="off")
    wandb.termsetup(settings, None)
    logger = WandbLogger(
        save_dir=str(found.path),
        name=found.name,
        id=found.path.name,
        project=str(node.get("project") or "sr_lab"),
        entity=None if node.get("entity") is None else str(node["entity"]),
        group=str(found.settings.get("experiment_name", "train")),
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


def _wandb_node(loggers: object) -> Mapping[str, object]:
    """Where the run was logged to, if it was."""
    nodes = loggers.values() if isinstance(loggers, dict) else ()
    return next(
        (n for n in nodes if isinstance(n, dict) and str(n.get("_target_")).endswith("WandbLogger")), {}
    )
