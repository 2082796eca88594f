"""``python -m sr_lab``: compose the configuration, run the task, report an error in one sentence.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from sr_lab.system import garbage, interrupts

if __name__ == "__main__":
    interrupts.end_at_once()
    garbage.collect_later()

import sys

from sr_lab.help import completion

if __name__ == "__main__" and completion.answered():  # before Hydra is imported, since the shell waits
    sys.exit()

import atexit
import contextlib
import gc
import io
import logging
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sr_lab import files, tasks
from sr_lab.config import hydra_guard
from sr_lab.config.compose import load
from sr_lab.config.identity import has_run_folder, register_resolvers, run_identity
from sr_lab.config.identity_record import refuse_another
from sr_lab.config.messages import explain
from sr_lab.config.overrides import given_to
from sr_lab.config.schema import Config, EvaluateConfig, PlanConfig, TrainConfig
from sr_lab.config.shorthand import for_help, understood
from sr_lab.errors import MACHINE_ERRORS, ConfigError, DistributedError
from sr_lab.run_folder import RunFolder
from sr_lab.runs import launchers, sweep


@dataclass
class CommandLine:
    """One command, and the work that its jobs postpone until Hydra has called all of them."""

    checked: bool = False  # Hydra's own settings have passed the guard
    # Training runs of a multirun; each gets its own process.
    queue: list[sweep.Job] = field(default_factory=list)
    searched: list[int] = field(default_factory=list)  # exit codes of searches
    # Other jobs of a multirun, which run in this process, each with its Hydra settings.
    others: list[tuple[sweep.Planned, HydraConf | None]] = field(default_factory=list)
    planned: list[PlanConfig] = field(default_factory=list)  # the jobs of task=plan
    # Overrides and chosen options of the first planned job.
    chosen: tuple[list[str], dict[str, str]] = field(default_factory=lambda: ([], {}))
    elsewhere: list[launchers.Outcome] = field(default_factory=list)  # jobs that another launcher ran
    errors: list[Exception] = field(default_factory=list)
    task: str = "train"  # task of the last job

    def compose_and_run(self) -> None:
        """Let Hydra compose the configuration and call `job` for each job of the command line."""

        @hydra.main(version_base="1.3", config_path=str(files.conf_dir()), config_name="config")
        def job(composed: DictConfig) -> launchers.Outcome | None:
            return self.job(composed)

        lines = for_help(understood(sys.argv[1:]))
        _quiet_hydra(sys.argv[1:])
        hydra_guard.answer_help(_help)
        launchers.watch(self.elsewhere.append)
        register_resolvers(_complete)
        try:
            for line in lines[:-1]:
                sys.argv[1:] = line
                with contextlib.suppress(SystemExit):  # after --help
                    job()
                print("\n")  # noqa: T201
            sys.argv[1:] = lines[-1]
            job()
        except Exception as error:  # a job's configuration does not compose
            self.errors.append(error)

    def composed(self, configuration: DictConfig) -> None:
        """Called with each composed configuration once its ``hydra`` node has passed the guard."""
        self.checked = True
        if not launchers.is_basic(configuration.hydra):
            interrupts.as_exception()  # the launcher has processes to terminate

    def job(self, composed: DictConfig) -> launchers.Outcome | None:
        """Run one job; in a multirun on this machine, queue a training run, which gets its own process."""
        assert self.checked, "this version of Hydra composes in a way that sr_lab does not guard"
        launchers.join_tasks()
        hydra_node = HydraConfig.get()
        overrides = given_to(hydra_node)
        folder = Path(hydra_node.runtime.output_dir)
        elsewhere = launchers.is_elsewhere(hydra_node)
        config: Config | None = None
        try:
            config = load(composed, overrides, hydra_node.runtime.choices)
            self.task = config.task
            if isinstance(config, PlanConfig):
                if elsewhere:
                    raise ConfigError(
                        "hydra/launcher: task=plan runs without a launcher; leave hydra/launcher out"
                    )
                if not self.planned:
                    self.chosen = overrides, dict(hydra_node.runtime.choices)
                self.planned.append(config)
                return None
            config = _complete(config, tuple(overrides))
            if has_run_folder(config):  # hydra.run.dir can name any folder
                refuse_another(RunFolder.at(folder), run_identity(config))
            in_multirun = hydra_node.mode == RunMode.MULTIRUN and not elsewhere
            if isinstance(config, TrainConfig) and config.hparams_search is not None:
                from sr_lab.runs import search  # imports Optuna, which only a search needs

                interrupts.as_exception()
                garbage.collect()
                self.searched.append(search.run(config, composed, folder, overrides))
            elif isinstance(config, TrainConfig) and in_multirun:
                self.queue.append(sweep.enqueue(config, folder, overrides))
            elif in_multirun:
                other = sweep.Planned(config, RunFolder(folder), tuple(overrides), run_identity(config))
                self.others.append((other, HydraConfig.instance().cfg))
            else:
                tasks.run(config, folder, overrides)
        except Exception as error:
            if not elsewhere:
                self.errors.append(error)  # if it were raised here, Hydra would print it again
                return None
            # If it were raised here, the multirun would end without the table of the other jobs.
            sentence = explain(error)
            print(f"error: {sentence}" if sentence else traceback.format_exc(), file=sys.stderr)  # noqa: T201
            problem = sentence or f"{type(error).__name__}: {error}"
            return launchers.Outcome(folder, config, problem, overrides)
        return launchers.Outcome(folder, config, "", overrides) if elsewhere else None

    def finish(self) -> int:
        """Do the work that the jobs postponed, and return the exit code."""
        garbage.collect()
        if self.errors:  # no job of a multirun starts if any of its configurations is wrong
            raise self.errors[0]
        if self.planned:
            from sr_lab.tasks import plan  # imports torch

            interrupts.as_exit()
            plan.run(self.planned, *self.chosen)
        if self.others:
            return tasks.run_all(self.others)
        if self.elsewhere:
            good = {job.folder: job.config for job in self.elsewhere if job.config and not job.problem}
            config = next(iter(good.values()), None)
            if config is None or isinstance(config, TrainConfig):
                return launchers.finish(self.elsewhere)
            tasks.finish(config, list(good))
            return sweep.finish([], launchers.problems(self.elsewhere))
        if self.queue:
            interrupts.as_exception()  # the sweep asks its jobs to stop
            return sweep.run(self.queue)
        return max(self.searched, default=0)


def _quiet_hydra(words: Sequence[str]) -> None:
    """Keep Hydra from listing the jobs of a multirun, unless its logging was chosen on the command line.

    The job's logging handles Hydra's lines too, because ``hydra/hydra_logging=none`` removes no handler.
    """
    if not any("hydra/hydra_logging" in word or "hydra.verbose" in word for word in words):
        logging.getLogger("hydra").setLevel(logging.WARNING)


def _help(composed: DictConfig, hydra_node: HydraConf) -> str:
    """The text of ``--help``."""
    from sr_lab.help.answer import answer  # no other command needs it

    return answer(composed, hydra_node)


def _complete(config: Config, overrides: tuple[str, ...]) -> Config:
    """Add to the configuration what identifies the run in addition to its settings."""
    if isinstance(config, PlanConfig):  # images may be missing
        return config
    validates = isinstance(config, TrainConfig) and (config.validation.sets or config.validation_images)
    if not (validates or isinstance(config, EvaluateConfig)):
        return config
    from sr_lab.runs import measurement  # imports torch

    return measurement.with_measured_identity(config, overrides)


def _after(task: str) -> str:
    """What to do after an interruption."""
    if task == "train":
        how = " without resume=never" if "resume=never" in sys.argv else ""
        return f"the same command{how} resumes from the last checkpoint"
    if task == "upscale":
        return "finished images are kept, and the same command upscales the others"
    if task == "evaluate":
        how = " without resume=never" if "resume=never" in sys.argv else ""
        return f"the values measured so far are kept, and the same command{how} measures the other images"
    return f"task={task} did not finish; start the same command again"


def _prints(error: Exception) -> bool:
    """Whether this process prints an error.

    If all processes hit the same error, the first process on each machine prints it; the loss of a process
    is reported by the process that started it.
    """
    if (os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "0")) == "0":
        return True
    shared = (ConfigError, DistributedError) if sweep.RANK_OF in os.environ else (ConfigError,)
    return not isinstance(error, shared)


def main() -> int:
    """Run the command line.

    Returns:
        0 on success, 1 if a job failed, 2 for a user error, 128 + n if signal n ended the program.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    command = CommandLine()
    try:
        if any(word.startswith("--e") for word in sys.argv[1:]):  # --experimental-rerun, or abbreviated
            raise ConfigError(
                "--experimental-rerun: would read a pickle, which can run code; start the run with "
                "--config-path <run folder> --config-name config"
            )
        sweep.end_with_sweep()
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        with hydra_guard.guarded(command.composed):
            command.compose_and_run()
            return command.finish()
    except BrokenPipeError:  # the reader has closed the pipe, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, SystemExit) as end:
        code = 130 if isinstance(end, KeyboardInterrupt) else end.code
        if not isinstance(code, int) or code <= 128:  # not a signal
            raise
        if sweep.IN_SWEEP not in os.environ:  # the sweep prints it once for all its jobs
            print(f"interrupted; {_after(command.task)}", file=sys.stderr)  # noqa: T201
        return code
    except Exception as error:
        sentence = explain(error)
        if not isinstance(error, MACHINE_ERRORS):
            sweep.refused(sentence or f"{type(error).__name__}: {error}")
        if sentence is None:
            raise
        if _prints(error):
            print(f"error: {sentence}", file=sys.stderr)  # noqa: T201 - output of the command line
        return 2
    return 0


def _end_at_once() -> None:
    """Collect no garbage at exit; with torch loaded, that would take seconds, and Slurm does not wait.

    Triton, which is installed with torch for GPUs, would print a page about objects that still exist.
    """
    gc.freeze()
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    atexit.register(_end_at_once)
    sys.exit(main())
