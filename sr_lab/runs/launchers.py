"""Jobs that another Hydra launcher (joblib, submitit) runs: their processes and their outcomes."""

import functools
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.hydra import Hydra
from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig

from sr_lab.config.schema import Config
from sr_lab.runs import sweep


class Outcome(NamedTuple):
    """What a job reports to the process that waits for all jobs."""

    folder: Path
    config: Config | None  # None if the configuration is not valid
    problem: str  # why the job failed, or empty
    overrides: list[str]


def is_basic(hydra_node: DictConfig | HydraConf) -> bool:
    """Whether Hydra calls the jobs in this process, one after another."""
    return str(hydra_node.launcher._target_).endswith("BasicLauncher")


def is_elsewhere(hydra_node: DictConfig | HydraConf) -> bool:
    """Whether another launcher runs this job of a multirun in a process of its own."""
    return hydra_node.mode == RunMode.MULTIRUN and not is_basic(hydra_node)


def join_tasks() -> None:
    """Tell Lightning which of submitit's local tasks this process is; on Slurm, Lightning knows."""
    if int(os.environ.get("SUBMITIT_LOCAL_NTASKS", 1)) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["MASTER_ADDR"] = "127.0.0.1"


def watch(report: Callable[[Outcome], None]) -> None:
    """Report what the jobs of a multirun return, which Hydra discards."""
    multirun = Hydra.multirun

    @functools.wraps(multirun)
    def watched(*arguments: Any, **named: Any) -> Any:
        returned = multirun(*arguments, **named)
        for job in chain(*(returned or [])):
            if isinstance(job.return_value, Outcome):
                report(job.return_value)
        return returned

    Hydra.multirun = watched  # type: ignore[method-assign]


def finish(outcomes: Sequence[Outcome]) -> int:
    """Write the index of these jobs, and print their table and the reasons for failures.

    Returns:
        0 if every job is finished, else 1.
    """
    rows = [job.config.row_label if job.config is not None else None for job in outcomes]
    sweep.list_jobs([(job.folder, row, job.overrides) for job, row in zip(outcomes, rows, strict=True)])
    columns = next((job.config.columns for job in outcomes if job.config is not None), "auto")
    return sweep.finish(
        list(dict.fromkeys(job.folder for job in outcomes)), problems(outcomes), columns=columns
    )


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each job that failed."""
    return [f"failed: {job.folder.name}: {job.problem}" for job in outcomes if job.problem]
