"""``python -m sr_lab``: compose, choose the task, say what went wrong in one sentence.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from sr_lab.system import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()

import atexit
import functools
import gc
import io
import os
import sys
import traceback
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig

from sr_lab import tasks
from sr_lab.config import hydra_guard as hydra_settings
from sr_lab.config import schema as configuration
from sr_lab.config.identity import register_resolvers
from sr_lab.config.messages import explain
from sr_lab.errors import MACHINE_ERRORS, ConfigError, DistributedError
from sr_lab.runs import sweep

_queue: list[sweep.Job] = []  # jobs that wait for a process of their own
_codes: list[int] = []  # what searches ended with
_done: dict[Path, configuration.Config] = {}  # jobs of a multirun that ran here
_elsewhere: list["_Ended"] = []  # jobs of a multirun that another launcher ran
_errors: list[Exception] = []
_judged: list[bool] = []  # Hydra's settings were looked at


class _Ended(NamedTuple):
    """What a job that another launcher ran tells the process that waits for all of them."""

    folder: Path
    config: configuration.Config | None
    problem: str
    overrides: list[str]


@hydra.main(version_base="1.3", config_path=str(hydra_settings.conf_dir()), config_name="config")
def _job(composed: DictConfig) -> _Ended | None:
    """One job: run it; or, in a multirun on this machine, write it down for a process of its own."""
    assert _judged, "this version of Hydra composes by another way than the one that is guarded"
    _join_tasks()
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    folder = Path(hydra_config.runtime.output_dir)
    # Hydra's other launchers (joblib, submitit) have given the job a process already.
    ours = hydra_config.launcher._target_.endswith("BasicLauncher") or hydra_config.mode != RunMode.MULTIRUN
    multirun = ours and hydra_config.mode == RunMode.MULTIRUN
    config: configuration.Config | None = None
    try:
        config = configuration.load(composed, overrides, hydra_config.runtime.choices)
        if isinstance(config, configuration.TrainConfig) and config.hparams_search is not None:
            from sr_lab.runs import search  # imports Optuna, which only a search needs

            interrupts.as_exception()
            _codes.append(search.run(config, composed, folder, overrides))
            return None
        if multirun and isinstance(config, configuration.TrainConfig):
            _queue.append(sweep.enqueue(config, folder, overrides))
            return None
        tasks.run(config, folder, overrides)
        if multirun:
            _done[folder] = config
    except Exception as error:
        if not ours:  # raised, it would end the multirun without the table of the others
            sentence = explain(error)
            print(f"error: {sentence}" if sentence else traceback.format_exc(), file=sys.stderr)  # noqa: T201
            return _Ended(folder, config, sentence or f"{type(error).__name__}: {error}", overrides)
        _errors.append(error)  # raised by Hydra it would come out twice
        return None
    return None if ours else _Ended(folder, config, "", overrides)


def _join_tasks() -> None:
    """Say to Lightning which of submitit's local tasks this is; on Slurm it knows."""
    if int(os.environ.get("SUBMITIT_LOCAL_NTASKS", 1)) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["MASTER_ADDR"] = "127.0.0.1"


def _speaks(error: Exception) -> bool:
    """Whether this process says what is wrong: of a mistake that all make the first one of each machine.

    That a process is lost is said by the one that started it.
    """
    if (os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "0")) == "0":
        return True
    told = (ConfigError, DistributedError) if sweep.RANK_OF in os.environ else (ConfigError,)
    return not isinstance(error, told)


def _guard_hydra() -> None:
    """Judge Hydra's own settings between composing and using them.

    Hydra builds callbacks and logging before it calls us, and any file on its search path can name them.
    """
    compose = ConfigLoaderImpl.load_configuration

    @functools.wraps(compose)
    def judged(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **named: Any
    ) -> DictConfig:
        composed = compose(loader, config_name, overrides, *rest, **named)
        hydra_settings.check_hydra(composed.hydra, overrides)
        _judged.append(True)
        if not composed.hydra.launcher._target_.endswith("BasicLauncher"):
            interrupts.as_exception()  # it has processes to end
        return composed

    ConfigLoaderImpl.load_configuration = judged  # type: ignore[method-assign, assignment]
    Plugins.instance()  # executes each module of a plugin again: only then is a class the one that is used
    files = SourcesRegistry.instance().resolve("file")
    load = files.load_config

    @functools.wraps(load)
    def bounded(source: ConfigSource, config_path: str) -> ConfigResult:
        path = Path(source.path, source._normalize_file_name(config_path))
        if path.is_file():
            hydra_settings.check_file(path)
        return load(source, config_path)

    files.load_config = bounded  # type: ignore[method-assign, assignment]


def _hasten_hydra() -> None:
    """Ask for the options of a group without a copy of all configurations, of which --help would make 150."""
    options = ConfigLoaderImpl.get_group_options

    @functools.wraps(options)
    def asked(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name is None and not overrides:  # whose search path would change what is found
            return loader.repository.get_group_options(group_name, results_filter)
        return options(loader, group_name, results_filter, config_name, overrides)

    ConfigLoaderImpl.get_group_options = asked  # type: ignore[method-assign, assignment]


def _watch_launchers() -> None:
    """Keep what the jobs of other launchers return, which Hydra drops."""
    multirun = Hydra.multirun

    @functools.wraps(multirun)
    def watched(*arguments: Any, **named: Any) -> Any:
        returned = multirun(*arguments, **named)
        _elsewhere.extend(job.return_value for job in chain(*(returned or [])) if job.return_value)
        return returned

    Hydra.multirun = watched  # type: ignore[method-assign]


def _finish_elsewhere() -> int:
    """The table of the jobs that another launcher ran, and what is wrong with those that failed."""
    problems = [f"failed: {job.folder.name}: {job.problem}" for job in _elsewhere if job.problem]
    well = {job.folder: job.config for job in _elsewhere if job.config is not None and not job.problem}
    config = next(iter(well.values()), None)
    if config is not None and not isinstance(config, configuration.TrainConfig):
        tasks.finish(config, list(well))
        return sweep.finish([], problems)
    labels = [job.config.row_label if job.config is not None else None for job in _elsewhere]
    sweep.list_jobs(
        [(job.folder, label, job.overrides) for job, label in zip(_elsewhere, labels, strict=True)]
    )
    return sweep.finish(list(dict.fromkeys(job.folder for job in _elsewhere)), problems)


def main() -> int:
    """Run the command line; 0 done, 1 a job failed, 2 the user's mistake, 128 + n ended by signal n."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed by Hydra
    try:
        sweep.end_with_sweep()
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        _guard_hydra()
        _hasten_hydra()
        _watch_launchers()
        register_resolvers()
        try:
            _job()
        except Exception as error:  # of composing a job; those before it are done
            _errors.append(error)
        if _done:
            tasks.finish(list(_done.values())[-1], list(_done))
        if _errors:  # of a training sweep none is started while one is wrong
            raise _errors[0]
        if _elsewhere:
            return _finish_elsewhere()
        if _queue:
            interrupts.as_exception()  # its jobs are told to end
            return sweep.run(_queue)
        if _codes:
            return max(_codes)
    except BrokenPipeError:  # the reader has seen enough: `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, SystemExit) as end:
        code = 130 if isinstance(end, KeyboardInterrupt) else end.code
        if not isinstance(code, int) or code <= 128:  # no signal
            raise
        if sweep.IN_SWEEP not in os.environ:  # there the sweep says so, once
            how = " without resume=never" if "resume=never" in sys.argv else ""
            print(f"interrupted; the same command{how} goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return code
    except Exception as error:
        sentence = explain(error)
        if not isinstance(error, MACHINE_ERRORS):
            sweep.refused(sentence or f"{type(error).__name__}: {error}")
        if sentence is None:
            raise
        if _speaks(error):
            print(f"error: {sentence}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return 2
    return 0


if __name__ == "__main__":
    # At its end Python would search all of torch for garbage, a second or more, and Slurm waits for no one.
    atexit.register(gc.freeze)
    sys.exit(main())
