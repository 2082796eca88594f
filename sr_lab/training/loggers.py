"""Dashboards are views of a run, and may be missing or fail; the record is ``metrics.csv``."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from sr_lab.config import targets
from sr_lab.config.schema import Config
from sr_lab.config.untrusted import below
from sr_lab.reporting.labels import of_job
from sr_lab.reporting.rows import budget, compared_with_paper
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import RunFolder
from sr_lab.system.devices import rank

if TYPE_CHECKING:
    import wandb


def build_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """The loggers of the ``logger`` group.

    A W&B run uses the name of its run folder as its id, so that a resumed run continues it. A job of a sweep
    is named after what differs between the jobs. The jobs of an experiment are one group; the config of each
    contains its row of the table and the paper's values for it.
    """
    loggers: list[Logger] = []
    for node in config.logger.values():
        assert isinstance(node, Mapping)
        arguments: dict[str, object] = {"save_dir": str(folder.path)}
        if str(node["_target_"]).endswith("WandbLogger"):
            if os.environ.get("WANDB_MODE") == "disabled":
                continue
            import wandb  # takes half a second, and other loggers do not need it

            has_key = has_wandb_key()
            # We print where the run is; W&B's own lines would come between the rows of a sweep.
            settings = wandb.Settings(silent=True, console="off")
            wandb.termsetup(settings, None)
            if not has_key and os.environ.get("WANDB_MODE") == "online" and rank() == 0:
                _warn("offline, since WANDB_MODE is online but there is no API key; run `wandb login`")
            if (unused := sorted(_OURS & os.environ.keys())) and rank() == 0:
                _warn(
                    f"{', '.join(unused)}: not used, since a run's id and place come from its run folder, so "
                    "that it can resume; paths.output_dir moves the folder"
                )
            name = of_job(folder.path) or config.run_name
            said = names(node, name=name, group=config.experiment_name)
            arguments |= said | {
                "id": folder.path.name,
                "job_type": config.task,
                "tags": _tags(config, said["tags"]),
                "resume": "allow",
                "config": config.model_dump(exclude={"paths", "allow", "rows", "row_label"}) | _row(config),
                "settings": settings,
                "offline": node.get("offline", not has_key),
            }
        else:
            arguments["name"] = ""
        described = below(folder.path, {k: v for k, v in node.items() if k not in arguments})
        logger = targets.build("logger", described, config.allow, **arguments)
        if arguments.get("offline") is False and rank() == 0:
            try:
                _ = logger.experiment
            except wandb.errors.Error as error:
                reason = " ".join(str(error).split())
                _warn(
                    f"offline, since its server cannot be reached or refuses the key ({reason}); upload "
                    f"the run later with wandb sync {folder.path}/wandb/offline-run-*"
                )
                wandb.teardown()  # W&B's process still uses the run's id
                logger = targets.build("logger", described, config.allow, **arguments | {"offline": True})
        loggers.append(logger)
    return loggers


# W&B's variables that are ignored, since a resumed run could not keep their values.
_OURS = {"WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"}


def _warn(line: str) -> None:
    print(f"W&B: {line}", file=sys.stderr)  # noqa: T201 - once per run, if at all


def names(node: Mapping[str, object], *, name: str = "", group: str = "") -> dict[str, Any]:
    """Names, tags and notes of a W&B run: from ``logger.wandb``, else W&B's variable, else our default.

    Args:
        node: ``logger.wandb``.
        name: The default name.
        group: The default group.
    """
    tags = node.get("tags") or [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    defaults = {"project": "sr_lab", "name": name, "group": group, "entity": None, "notes": None}
    found: dict[str, Any] = {
        key: node.get(key) or os.environ.get(_VARIABLES.get(key, f"WANDB_{key.upper()}")) or default
        for key, default in defaults.items()
    }
    return found | {"tags": [str(tag) for tag in (tags if isinstance(tags, list) else [tags]) if tag]}


_VARIABLES = {"group": "WANDB_RUN_GROUP"}


def _tags(config: Config, own: object) -> list[str]:
    """The user's tags, then tags for finding runs: paper, table, scale, budget."""
    table = [config.table.paper, config.table.name] if config.table is not None else []
    said = [*(own if isinstance(own, list) else []), *table, f"x{config.scale}"]
    return list(dict.fromkeys([*said, budget({"budget": config.budget.name})]))


def _row(config: Config) -> dict[str, object]:
    """Label of the job's row in the table, and the paper's values for it."""
    label = config.row_label
    run = Run(Path(), settings=config.model_dump(), labels=() if label is None else (label,))
    return {"row": label, **compared_with_paper(run)}


def log_to_dashboards(trainer: lightning.Trainer, log: Callable[[Logger], None]) -> None:
    """Call ``log`` with every dashboard, and drop a dashboard that fails, e.g. because it was killed."""
    for logger in list(trainer.loggers):
        try:
            log(logger)
        except Exception as error:  # any error: a dashboard is only a view
            trainer.loggers = [other for other in trainer.loggers if other is not logger]
            print(  # noqa: T201 - once per run, if at all
                f"{type(logger).__name__}: lost ({error or type(error).__name__}); the training continues, "
                "metrics.csv has every row, and task=log turns it into a W&B run",
                file=sys.stderr,
            )


class RowInSummary(lightning.Callback):
    """Puts the row of a job into W&B's summary at the start; W&B's table of runs takes columns from there."""

    def __init__(self, config: Config) -> None:
        row = {key: value for key, value in _row(config).items() if value is not None}
        self.values = row | {"scale": config.scale, "budget": config.budget.name}

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Update the summary of the W&B run, which is open by now."""
        if (run := _wandb_run()) is not None:
            run.summary.update(self.values)


def _wandb_run() -> "wandb.Run | None":
    """The W&B run of this process, or ``None``, found without importing the library."""
    return getattr(sys.modules.get("wandb"), "run", None)


def has_wandb_key() -> bool:
    """Whether W&B can sync: its library finds a key for its server and is neither offline nor disabled."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    import wandb

    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"  # otherwise W&B prints where it found the key
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error:  # W&B explains a malformed key when the run starts
        return True
    finally:
        wandb.teardown()  # otherwise W&B ignores WANDB_MODE, which is set later
        del os.environ["WANDB_SILENT"]
        os.environ |= {} if before is None else {"WANDB_SILENT": before}


@rank_zero_only
def close_wandb(values: Mapping[str, object] | None = None) -> None:
    """Put the results of ``metrics.json`` and the paper's values into the summary, and end the W&B run.

    A process has one W&B run at a time; if it stayed open, it would receive the rows of the next job.

    Args:
        values: The results, ``None`` if the run has failed.
    """
    if (run := _wandb_run()) is None:
        return
    import wandb

    with contextlib.suppress(OSError, wandb.errors.Error):  # `log_to_dashboards` has reported it
        if values is not None:
            labels = (str(values["row"]),) if "row" in values else ()
            own = {key: value for key, value in values.items() if key != "images"}
            run.summary.update(own | compared_with_paper(Run(Path(), dict(values), labels=labels)))
        run.finish(exit_code=0 if values is not None else 1)
