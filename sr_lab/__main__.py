"""``python -m sr_lab``: compose, choose the task, say what went wrong in one sentence.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import DictConfig

from sr_lab import config as configuration
from sr_lab import sweep, tasks
from sr_lab.identity import register_resolvers

_queue: list[sweep.Job] = []  # jobs that wait for a process of their own
_done: dict[Path, configuration.Config] = {}  # jobs of a multirun that ran here
_errors: list[Exception] = []
_judged: list[bool] = []  # Hydra's settings were looked at


@hydra.main(version_base="1.3", config_path=str(configuration.conf_dir()), config_name="config")
def _job(composed: DictConfig) -> None:
    """One job: run it; or, in a multirun on this machine, write it down for a process of its own."""
    assert _judged, "this version of Hydra composes by another way than the one that is guarded"
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    folder = Path(hydra_config.runtime.output_dir)
    # Hydra's other launchers (joblib, submitit) have given the job a process already.
    ours = hydra_config.launcher._target_.endswith("BasicLauncher")
    multirun = ours and hydra_config.mode == RunMode.MULTIRUN
    try:
        config = configuration.load(composed, overrides, hydra_config.runtime.choices)
        if multirun and isinstance(config, configuration.TrainConfig):
            _queue.append(sweep.enqueue(config, folder, overrides))
            return
        tasks.run(config, folder, overrides)
        if multirun:
            _done[folder] = config
    except Exception as error:
        if not ours:
            raise
        _errors.append(error)  # raised by Hydra it would come out twice


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
        configuration.check_hydra(composed.hydra, overrides)
        _judged.append(True)
        return composed

    ConfigLoaderImpl.load_configuration = judged  # type: ignore[method-assign, assignment]


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


def main() -> int:
    """Run the command line; 0 done, 1 a job failed, 2 the user's mistake, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed by Hydra
    try:
        sweep.end_with_sweep()
        _guard_hydra()
        _hasten_hydra()
        register_resolvers()
        try:
            _job()
        except Exception as error:  # of composing a job; those before it are done
            _errors.append(error)
        if _done:
            tasks.finish(list(_done.values())[-1], list(_done))
        if _errors:  # of a training sweep none is started while one is wrong
            raise _errors[0]
        if _queue:
            return sweep.run(_queue)
    except BrokenPipeError:  # the reader has seen enough: `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if sweep.IN_SWEEP not in os.environ:  # there the sweep says so, once
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:
        sentence = configuration.explain(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
