"""Dashboards: views of the run that can be missing or dead without harm; ``metrics.csv`` is the record."""

import netrc
import os
from collections.abc import Mapping

import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from sr_lab import targets
from sr_lab.config import Config
from sr_lab.run_folder import RunFolder


def build_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """The loggers of the ``logger`` group, each told which run this is.

    A W&B run has the id of its run folder, so that a resumed run goes on in the same one; the jobs of an
    experiment are one group.
    """
    loggers: list[Logger] = []
    for node in config.logger.values():
        assert isinstance(node, Mapping)
        arguments: dict[str, object] = {"save_dir": str(folder.path)}
        if str(node["_target_"]).endswith("WandbLogger"):
            # Our own lines say where the run lies; W&B's would stand between the rows of a sweep.
            settings = wandb.Settings(silent=True, console="off")
            wandb.termsetup(settings, None)
            arguments |= {
                "name": config.run_name,
                "id": folder.path.name,
                "group": config.experiment_name,
                "resume": "allow",
                "config": config.model_dump(exclude={"paths", "allow"}),
                "settings": settings,
                "offline": node.get("offline", not _has_wandb_key()),
            }
        elif "name" not in node:
            arguments["name"] = ""
        loggers.append(targets.build(node, **arguments))
    return loggers


def _has_wandb_key() -> bool:
    """Whether W&B could sync: a key in the environment or in ``~/.netrc``, and nobody said offline."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


@rank_zero_only
def close_wandb(values: Mapping[str, object] | None = None) -> None:
    """Put the results of ``metrics.json`` in the summary, if there are any, and end the W&B run.

    A process holds one W&B run at a time: one that is left open would swallow the next job's rows.
    """
    if wandb.run is None:
        return
    if values is not None:
        wandb.run.summary.update({key: value for key, value in values.items() if key != "images"})
    wandb.finish(exit_code=0 if values is not None else 1)
