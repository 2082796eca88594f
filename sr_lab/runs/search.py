"""Hyper-parameter search: Optuna proposes trials, the queue runs them and ends those that fall behind.

A search is identified by its training configuration and its space. Its folder contains ``study.db`` (Optuna's
SQLite storage), ``trials.csv`` and the run folder of each trial. After any interruption, the same command
continues the search up to the requested number of trials.

The values of a trial depend on the seed, the trial's number and the trials before it, never on the state of a
random generator, so an interrupted search proposes the same trials as an uninterrupted one.
"""

import contextlib
import re
import shlex
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.markup import escape
from rich.table import Table
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from sr_lab import files
from sr_lab.config.compose import NOT_OF_A_ROW, load_trial, without_search
from sr_lab.config.identity import folder_name, run_identity
from sr_lab.config.identity_record import code_note, record
from sr_lab.config.overrides import only_typed
from sr_lab.config.schema import HparamsSearch, TrainConfig
from sr_lab.config.shorthand import as_typed
from sr_lab.errors import ConfigError, SRLabError
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.terminal import print_wide
from sr_lab.run_folder import Listed, RunFolder, write_index
from sr_lab.runs import sweep, trained_on

_GOAL = "val/psnr_y"
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "interrupted",
    TrialState.WAITING: "waiting",
}
# Settings that a trial must not change, and settings that change what val/psnr_y is measured on.
_NOT_OF_A_TRIAL = NOT_OF_A_ROW | {
    *("task", "paths", "logger", "callbacks", "debug", "resume", "run_name", "num_workers", "seed"),
}
_MEASURE = {"scale", "benchmark", "validation", "dataset"}

# Maps the values of a trial to its training configuration and its overrides.
Make: TypeAlias = Callable[[Mapping[str, str]], tuple[TrainConfig, list[str]]]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; integers if both are integers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """The lowest and the highest value."""
        return self.text(self.low), self.text(self.high)

    def suggest(self, trial: Trial, key: str) -> str:
        """The trial's value, as it is written on the command line."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = 1 if self.step is None else int(self.step)
            return str(trial.suggest_int(key, self.low, self.high, step=step, log=self.log))
        return self.text(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log))

    def text(self, value: object) -> str:
        """A value as text; four digits are enough for a recipe and for the name of a run."""
        if isinstance(value, int):
            return str(value)
        assert isinstance(value, float)
        rounded = float(f"{value:.4g}" if self.step is None else f"{value:.10g}")
        return repr(min(max(rounded, float(self.low)), float(self.high)))


@dataclass(frozen=True)
class Choices:
    """A list of values, as they are written on the command line."""

    ends: tuple[str, ...]

    def suggest(self, trial: Trial, key: str) -> str:
        """The trial's value."""
        return self.text(trial.suggest_categorical(key, self.ends))

    def text(self, value: object) -> str:
        """A value as text."""
        return str(value)


Space: TypeAlias = dict[str, Range | Choices]


def read_space(values: Mapping[str, object], given: Sequence[str] = ()) -> Space:
    """The search space that a configuration describes.

    Args:
        values: ``hparams_search.space``: a range or choices for each key.
        given: Overrides of the command line, which must not set a searched key.

    Raises:
        ConfigError: A trial must not set one of the keys, or a value is neither a range nor choices.
    """
    space: Space = {}
    set_already = {override.lstrip("+~").partition("=")[0] for override in given}
    for key, value in values.items():
        place = f"hparams_search.space.{key}"
        if not re.fullmatch(r"\w+([./]\w+)*", key):
            raise ConfigError(f"{place}: is not a key; write it as on the command line, without + or =")
        top = re.split("[./]", key)[0]
        if top in _NOT_OF_A_TRIAL or only_typed(key):
            raise ConfigError(f"{place}: is not a setting that a trial may change; remove it")
        if top in _MEASURE and key != "dataset.lr_patch_size":
            raise ConfigError(
                f"{place}: changes what {_GOAL} is measured on; search for each value separately"
            )
        if key in set_already:
            raise ConfigError(f"{place}: is also set on the command line; leave out one of the two")
        space[key] = _choices(place, value) if isinstance(value, list) else _range(place, value)
    return space


def _choices(place: str, value: list[object]) -> Choices:
    texts = tuple(map(_override_text, value))
    if len(set(texts)) < max(2, len(texts)):
        raise ConfigError(f"{place}: needs at least two choices, all different, got {value!r}")
    return Choices(texts)


def _override_text(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_override_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_override_text(child)}' for key, child in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(place: str, value: object) -> Range:
    parts = {"low", "high", "log", "step"}
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= parts:
        raise ConfigError(
            f"{place}: must be a range {{low: a, high: b}}, optionally with log or step, or choices [a, b], "
            f"got {value!r}"
        )
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    for name, number in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not np.isfinite(number):
            raise ConfigError(f"{place}.{name}: must be a number, got {number!r}")
    if not isinstance(log, bool):
        raise ConfigError(f"{place}.log: must be true or false, got {log!r}")
    if low >= high:
        raise ConfigError(f"{place}: low must be below high, got low={low} and high={high}")
    if log and low <= 0:
        raise ConfigError(f"{place}: with log, low must be above 0, got {low}")
    if log and step is not None:
        raise ConfigError(f"{place}: takes log or step, got both; remove one")
    if step is not None and (step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-6):
        raise ConfigError(f"{place}: step must divide the range from {low} to {high}, got {step}")
    if step is not None and isinstance(low, int) and isinstance(high, int) and not isinstance(step, int):
        low, high = float(low), float(high)
    return Range(low, high, log, step)


def run(config: TrainConfig, composed: DictConfig, folder: Path, overrides: Sequence[str]) -> int:
    """Start or continue a search.

    Returns:
        0 if there are as many trials as requested and at least one of them is finished, else 1.

    Raises:
        ConfigError: The search space is empty, one of its values is not allowed, or another process is
            searching.
    """
    settings = config.hparams_search
    assert settings is not None
    hydra_config = HydraConfig.get()
    choices = hydra_config.runtime.choices
    name = f"{config.experiment_name}/{folder.name}"

    def make(values: Mapping[str, str]) -> tuple[TrainConfig, list[str]]:
        # ++: an argument of a class need not be in its yaml.
        words = [f"{key}={value}" if key in choices else f"++{key}={value}" for key, value in values.items()]
        trial = load_trial(composed, overrides, words, name)  # a trial must not change the validation
        return trial.model_copy(update={"validation_images": config.validation_images}), words

    try:
        if hydra_config.mode == RunMode.MULTIRUN:
            raise ConfigError(
                "hparams_search: varies the settings of one training run, got a multirun; leave out -m "
                "(for a row of a table: hydra.mode=RUN row=<position>)"
            )
        if config.resume == "never":
            raise ConfigError(
                f"resume: must be auto for a search, got never; remove {folder} to start from scratch"
            )
        space = read_space(settings.space, overrides)
        _check_ends(space, make)
    except SRLabError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # Hydra created it
        raise
    place, searched = RunFolder.at(folder), run_identity(config)
    if note := code_note(searched, place):
        sweep.console.print(note)
    trials = [RunFolder(path.parent) for path in sorted(place.path.glob("*/metrics.json"))]
    if others := trained_on.changed_since(config, trials):
        raise ConfigError(
            f"hparams_search: {others[0]}, so old and new trials could not be compared; restore the "
            f"images, or remove '{place.path}' to search again"
        )
    with place.holding("search; wait for it"):
        record(place, searched, resumed=(place.path / "study.db").exists())
        study = _open(place.path / "study.db", _pruner(settings, config))
        _Queue(study, config, place.path, space, make, overrides).work()
    best = _print_trials(study, space, place.path)
    if best is not None:
        again = [override for override in hydra_config.overrides.hydra if "searchpath" in override]
        again += map(as_typed, without_search(overrides))
        again += make({key: space[key].text(value) for key, value in best.params.items()})[1]
        sweep.console.print(shlex.join(["python", "-m", "sr_lab", *again]))
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    if left:
        trials_are = "1 trial is" if len(left) == 1 else f"{len(left)} trials are"
        sweep.console.print(f"{trials_are} unfinished; the same command resumes the search")
    return 0 if not left and best is not None else 1


def _check_ends(space: Space, make: Make) -> None:
    """Refuse a space with a value that is not allowed in a training run."""
    for key, parameter in space.items():
        for value in parameter.ends:
            try:
                make({key: value})
            except SRLabError as error:
                raise ConfigError(f"hparams_search.space.{key}: {error}") from error


def _open(path: Path, pruner: BasePruner) -> optuna.Study:
    """The study in a file, in which Optuna stores only numbers, names and JSON."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        url = URL.create("sqlite", database=str(path)).render_as_string()  # quotes special characters
        return optuna.create_study(
            storage=RDBStorage(url, engine_kwargs={"poolclass": NullPool}),  # keeps no connection open
            study_name="search",  # a fixed name, since the folder may be moved
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    except Exception as error:  # from SQLite, SQLAlchemy, Alembic or Optuna
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"'{path}' cannot be used ({reason}); remove the file: a new search finds the runs of old trials"
        ) from error


def _pruner(settings: HparamsSearch, config: TrainConfig) -> BasePruner:
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_steps)
    if settings.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, settings.warmup_steps, config.validation.interval))
    return NopPruner()


def _sampler(settings: HparamsSearch, seed: int, number: int) -> BaseSampler:
    """The sampler of one trial; without its number in the seed, a resumed search would repeat values."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return RandomSampler(seed=own)
    return TPESampler(seed=own, n_startup_trials=settings.startup_trials)


@dataclass(frozen=True, eq=False)
class _TrialJob(sweep.Job):
    """The training run of a trial."""

    trial: Trial
    reported: set[int] = field(default_factory=set)  # steps whose score was reported to the study
    checked: set[int] = field(default_factory=set)  # steps at which the pruner was asked


class _Queue(sweep.Queue):
    """Runs trials as the jobs of a queue."""

    def __init__(
        self,
        study: optuna.Study,
        config: TrainConfig,
        folder: Path,
        space: Space,
        make: Make,
        overrides: Sequence[str],
    ) -> None:
        super().__init__((), config.sweep)
        assert config.hparams_search is not None
        self.study = study
        self.config = config
        self.search = config.hparams_search
        self.folder = folder
        self.space = space
        self.make = make
        self.overrides = overrides
        begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self._begun = deque(Trial(study, trial._trial_id) for trial in begun)  # by an interrupted search
        self._complete = False
        if self.settings.retry_failed:
            self._retry()

    def _retry(self) -> None:
        """Add a copy of each failed trial; Optuna does not reopen trials."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in retried:
                self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})

    def plan(self) -> None:
        """Add the next trial: an unfinished one, a planned one, or a new one."""
        while not self.waiting and (trial := self._next()) is not None:
            self._propose(trial)

    def _next(self) -> Trial | None:
        if self._begun:
            return self._begun.popleft()
        if self._complete:
            return None
        trials = self.study.get_trials(deepcopy=False)
        planned = any(trial.state == TrialState.WAITING for trial in trials)
        self._complete = not planned and _asked_for(trials) >= self.search.trials
        if self._complete:
            return None
        self.study.sampler = _sampler(self.search, self.config.seed, len(trials))
        return self.study.ask()

    def _propose(self, trial: Trial) -> None:
        """Give a trial its values and queue its run; the trial fails if the values are not allowed."""
        values = {key: parameter.suggest(trial, key) for key, parameter in self.space.items()}
        try:
            config, words = self.make(values)
            path = self.folder / folder_name(config, self.folder)
        except SRLabError as error:
            trial.set_user_attr("problem", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            sweep.console.print(f"[trial {trial.number}] failed: {error}")
            self._write()
            return
        trial.set_user_attr("run", path.name)
        scores = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        job = _TrialJob(
            **vars(sweep.enqueue(config, path, [*self.overrides, *words])), trial=trial, reported=set(scores)
        )
        job.write()
        self.jobs.append(job)
        write_index(self.folder, [Listed(job.name, None, words)])
        self.waiting.append(job)

    def start(self, job: sweep.Job) -> None:
        """Start a trial, unless it was pruned, or was about to be pruned, when the search was interrupted."""
        assert isinstance(job, _TrialJob)
        state = job.folder.state()
        if state == "interrupted" and (why := self._verdict(job)):
            job.folder.mark_pruned(why)
            state = "pruned"
        if state == "pruned":
            self.say(job, f"already pruned: {sweep.reason(job.folder)}")
            self.settled(job)
        else:
            super().start(job)

    def watch(self, running: sweep.Running) -> None:
        """Stop a trial that has fallen behind the others."""
        assert isinstance(running.job, _TrialJob)
        if why := self._verdict(running.job):
            self.end(running, why)

    def _verdict(self, job: _TrialJob) -> str:
        """Report new validations to the study, and return why the trial should stop, or an empty string.

        A trial is never stopped after its last step, when only the test remains.
        """
        why = ""
        for step, value in job.folder.validations().items():
            if step in job.checked:
                continue
            job.checked.add(step)
            if step not in job.reported:
                job.trial.report(value, step)
                job.reported.add(step)
            if not why and step < job.config.steps and job.trial.should_prune():
                why = f"{_GOAL} {value:.2f} dB at step {step} is behind other trials"
        return why

    def settled(self, job: sweep.Job) -> None:
        """Tell the study how a trial ended; the next command resumes an interrupted trial."""
        assert isinstance(job, _TrialJob)
        self._verdict(job)
        state = job.folder.state()
        if state == "finished":
            # Report the best validation, since its checkpoint was tested.
            self.study.tell(job.trial, max(job.folder.validations().values()))
        elif state == "pruned":
            self.study.tell(job.trial, state=TrialState.PRUNED)
        elif state == "failed":
            job.trial.set_user_attr("problem", sweep.reason(job.folder))
            self.study.tell(job.trial, state=TrialState.FAIL)
        self._write()

    def _write(self) -> None:
        columns = ["trial", "state", _GOAL, "step", *self.space, "run", "problem"]
        files.write(self.folder / "trials.csv", csv_text(columns, _rows(self.study, self.space)))

    def place(self, job: sweep.Job) -> str:
        """Optuna's number of the trial, counted from 0."""
        assert isinstance(job, _TrialJob)
        return f"[trial {job.trial.number}]"

    @property
    def count(self) -> int:
        """Number of trials in this session, including future ones."""
        trials = self.study.get_trials(deepcopy=False)
        return len(self.jobs) + len(self._begun) + max(0, self.search.trials - _asked_for(trials))

    @property
    def steps(self) -> int:
        """Optimizer steps of these trials in total."""
        return self.count * self.config.steps


def _asked_for(trials: Sequence[FrozenTrial]) -> int:
    """Number of trials; a failed trial and its retry count as one."""
    return sum("retry_of" not in trial.user_attrs for trial in trials)


def _rows(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """A row of ``trials.csv`` for each trial."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        values = trial.intermediate_values
        rows.append(
            {"trial": trial.number, "state": _STATES[trial.state]}
            | {_GOAL: max(values.values(), default=None), "step": max(values, default=None)}
            | {key: space[key].text(given) for key, given in trial.params.items() if key in space}
            | {name: trial.user_attrs.get(name) for name in ("run", "problem")}
        )
    return rows


def _print_trials(study: optuna.Study, space: Space, folder: Path) -> FrozenTrial | None:
    """Print the trials with the best one in bold, and return the best."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = max(finished, key=lambda trial: trial.values[0], default=None)
    table, rows = Table(), _rows(study, space)
    titles = ("trial", *space, _GOAL, "step", "state", "run")
    for title in titles:
        right = title in ("trial", _GOAL, "step")
        table.add_column(title, no_wrap=True, justify="right" if right else "left")
    for row in rows:
        value, run = row[_GOAL], row["run"] or ""
        shown = row | {_GOAL: None if value is None else f"{value:.2f}", "run": run.rpartition("-")[2]}
        cells = ["" if shown.get(title) is None else escape(str(shown[title])) for title in titles]
        table.add_row(*cells, style="bold" if best is not None and row["trial"] == best.number else None)
    counts = Counter(row["state"] for row in rows)
    summary = ", ".join(f"{counts[name]} {name}" for name in _STATES.values() if counts[name])
    lines = [f"trial {row['trial']} failed: {row['problem']}" for row in rows if row["problem"] is not None]
    lines.append(f"trials: {folder / 'trials.csv'}")
    if best is not None:
        lines.append(f"best: trial {best.number}, {_GOAL} {best.values[0]:.2f} dB")
    console = print_wide(table, [f"{len(rows)} trial{'' if len(rows) == 1 else 's'}: {summary}"], None)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    return best
