"""Dashboards: views of the run that can be missing or dead without harm; ``metrics.csv`` is the record."""

import contextlib
import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lightning
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from sr_lab.config import targets
from sr_lab.config.schema import Config
from sr_lab.reporting.rows import budget, compared_with_paper
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import RunFolder
from sr_lab.system.devices import rank

if TYPE_CHECKING:
    import wandb


def build_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """The loggers of the ``logger`` group, each told which run this is.

    A W&B run has the id of its run folder, so that a resumed run goes on in the same one; the jobs of an
    experiment are one group, and each says in its config which row it is and what the paper prints of it.
    """
    loggers: list[Logger] = []
    for node in config.logger.values():
        assert isinstance(node, Mapping)
        arguments: dict[str, object] = {"save_dir": str(folder.path)}
        if str(node["_target_"]).endswith("WandbLogger"):
            import wandb  # half a second, which other loggers need not wait for

            # Our own lines say where the run lies; W&B's would stand between the rows of a sweep.
            settings = wandb.Settings(silent=True, console="off")
            wandb.termsetup(settings, None)
            arguments |= {
                "name": config.run_name,
                "id": folder.path.name,
                "group": config.experiment_name,
                "job_type": config.task,
                "tags": _tags(config, node.get("tags")),
                "resume": "allow",
                "config": config.model_dump(exclude={"paths", "allow", "rows", "row_label"}) | _row(config),
                "settings": settings,
                "offline": node.get("offline", not has_wandb_key()),
            }
        elif "name" not in node:
            arguments["name"] = ""
        logger = targets.build(node, **arguments)
        if arguments.get("offline") is False and rank() == 0:
            try:
                _ = logger.experiment
            except wandb.errors.Error as error:
                said = " ".join(str(error).split())
                print(  # noqa: T201 - once a run, if at all
                    f"W&B: offline, since it cannot be reached or refuses the key ({said}); later: "
                    f"wandb sync {folder.path}/wandb/offline-run-*",
                    file=sys.stderr,
                )
                wandb.teardown()  # its process holds the run id
                logger = targets.build(node, **arguments | {"offline": True})
        loggers.append(logger)
    return loggers


def _tags(config: Config, own: object) -> list[str]:
    """The user's tags, then what sweeps are looked for by: paper, table, scale, budget."""
    table = [config.table.paper, config.table.name] if config.table is not None else []
    said = [*(own if isinstance(own, list) else []), *table, f"x{config.scale}"]
    return list(dict.fromkeys([*said, budget({"budget": config.budget.name})]))


def _row(config: Config) -> dict[str, object]:
    """Label of the row that a job is, and what the paper prints of it."""
    label = config.row_label
    run = Run(Path(), settings=config.model_dump(), labels=() if label is None else (label,))
    return {"row": label, **compared_with_paper(run)}


class RowInSummary(lightning.Callback):
    """Says from the beginning which row a job is, in W&B's summary: there the runs table has its columns."""

    def __init__(self, config: Config) -> None:
        row = {key: value for key, value in _row(config).items() if value is not None}
        self.values = row | {"scale": config.scale, "budget": config.budget.name}

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The W&B run is open by now."""
        if (run := _wandb_run()) is not None:
            run.summary.update(self.values)


def _wandb_run() -> "wandb.Run | None":
    """The W&B run of this process; ``None`` if there is none, for which the library need not be imported."""
    return getattr(sys.modules.get("wandb"), "run", None)


def has_wandb_key() -> bool:
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
    """Put the results of ``metrics.json`` in the summary, beside the paper's figures, and end the W&B run.

    Args:
        values: The results, ``None`` if the run has failed.

    A process holds one W&B run at a time: one that is left open would swallow the next job's rows.
    """
    if (run := _wandb_run()) is None:
        return
    import wandb

    with contextlib.suppress(OSError, wandb.errors.Error):  # its process was killed: `callbacks.show` said so
        if values is not None:
            labels = (str(values["row"]),) if "row" in values else ()
            own = {key: value for key, value in values.items() if key != "images"}
            run.summary.update(own | compared_with_paper(Run(Path(), dict(values), labels=labels)))
        run.finish(exit_code=0 if values is not None else 1)
