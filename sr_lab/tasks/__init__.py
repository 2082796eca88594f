"""Each task is one file, ``sr_lab/tasks/<name>.py``, with a function ``run``."""

import importlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig

from sr_lab.config.identity import has_run_folder, run_identity, writes_own_folder
from sr_lab.config.identity_record import hash8, record
from sr_lab.config.messages import explain
from sr_lab.config.schema import Config, TrainConfig
from sr_lab.run_folder import RunFolder
from sr_lab.runs import sweep
from sr_lab.system import garbage, interrupts


def run(config: Config, folder: Path, overrides: Sequence[str]) -> None:
    """Run the task that the configuration names, and record in its folder which run it is.

    Args:
        config: Validated configuration.
        folder: The run folder, already checked by `refuse_another`; for ``report``, the folder of runs.
        overrides: Overrides of the command line.
    """
    task = importlib.import_module(f"sr_lab.tasks.{config.task}")
    garbage.collect()
    _quiet_libraries()  # after Lightning is imported, since it sets its own level
    if isinstance(config, TrainConfig):  # a training run ends after its step, see `system.signals`
        interrupts.as_exception()
    else:
        interrupts.as_exit()
    task.run(config, folder, overrides)
    if has_run_folder(config) and not isinstance(config, TrainConfig):  # a training run records it earlier
        from sr_lab.system.devices import rank  # imports torch, which only some tasks need

        if rank() == 0:
            record(RunFolder(folder), run_identity(config))


def _quiet_libraries() -> None:
    """Silence Lightning's tips and progress lines, and torch's warnings about Lightning's code."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",
        ".*does not have many workers",
        ".*It is recommended to use `self.log.*sync_dist=True",
        ".*metric MeanOverImages was called before the ``update``",
        "Grad strides do not match bucket view strides",
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", message)


def run_all(jobs: Sequence[tuple[sweep.Planned, HydraConf | None]]) -> int:
    """Run the jobs of a multirun in this process, one after another, and print a table of their results.

    Args:
        jobs: The jobs, each with its Hydra configuration.

    Returns:
        0, or the highest exit code of the jobs that could not do all their work.

    Raises:
        ConfigError: Two different jobs have the same folder; no job was started.
        Exception: The first error of a job, raised after all jobs have run.
    """
    for line in sweep.shared_folders([job for job, _ in jobs if writes_own_folder(job.config)]):
        sweep.console.print(line)
    distinct = {(job.folder.path, hash8(job.known.values)): (job, node) for job, node in jobs}
    done: dict[Path, Config] = {}
    errors: list[tuple[sweep.Planned, Exception]] = []
    code = 0
    for job, node in distinct.values():
        HydraConfig.instance().cfg = node
        try:
            run(job.config, job.folder.path, job.overrides)
            done[job.folder.path] = job.config
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code > 128:  # a signal
                raise
            code = max(code, end.code)
        except Exception as error:
            errors.append((job, error))
    if done:
        finish(list(done.values())[-1], list(done))
    for job, other in errors[1:]:
        sweep.console.print(f"failed: {job.folder.path.name}: {explain(other) or repr(other)}")
    if errors:
        raise errors[0][1]
    return code


def finish(config: Config, folders: Sequence[Path]) -> None:
    """End a multirun whose jobs ran here: call the task's own ``collect``, or print a table of results."""
    task = importlib.import_module(f"sr_lab.tasks.{config.task}")
    if hasattr(task, "collect"):
        task.collect(config, folders)
    elif has_run_folder(config):
        sweep.finish(folders, columns=config.columns)
