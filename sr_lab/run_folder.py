"""The run folder: its files, its state and its lock. This module does not import torch.

config.yaml   resolved configuration            metrics.json  results, written last
metrics.csv   the record, flushed row by row    failed.txt    traceback, or why no attempt began
log.txt       output, when several jobs run     images.json   which images it was trained on
identity.json what identifies the run, written when it begins
figures.<process>.json   values that an unfinished evaluation has measured so far
pruned.txt    why a search ended the run early  images/       example images
checkpoints/{last,previous,best}.ckpt           wandb/
checkpoints.old/   checkpoints of the attempt before resume=never, until the new attempt has saved

The last checkpoint becomes ``previous.ckpt`` once the next one is on the disk. A run that finds its last
checkpoint damaged renames it to ``damaged.ckpt`` and resumes from the previous one.

``sweep.json``, next to the run folders of a sweep, lists its jobs.
"""

import contextlib
import csv
import json
import math
import os
import shutil
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from sr_lab import files
from sr_lab.errors import MACHINE_ERRORS, CheckpointError, ConfigError
from sr_lab.system.unix import at_once, locked, not_elsewhere
from sr_lab.zoo import published, shipped

_STARTED_BY = ".begun"
_LOG_OF_WANDB = "wandb/*/logs/debug-core.log"  # W&B's link into its cache; nothing is written through it

State: TypeAlias = Literal["finished", "running", "failed", "pruned", "interrupted", "waiting"]


class RunFolder:
    """One run on disk; the docstring of this module lists its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.json"
        self.record = path / "metrics.csv"
        self.failed = path / "failed.txt"  # exists if the last attempt failed or could not begin
        self.pruned = path / "pruned.txt"  # removed by the next attempt
        self.log = path / "log.txt"
        self.lock = path / ".lock"  # locked by the running process; contains the start of the last attempt
        self.checkpoints = path / "checkpoints"
        self.earlier = path / "checkpoints.old"
        self.identity = path / "identity.json"
        self.trained_on = path / "images.json"
        self.images = path / "images"

    @classmethod
    def at(cls, path: Path) -> "RunFolder":
        """The run folder at a path, made absolute; a link is kept, so that `refuse_links` can refuse it."""
        return cls(path.absolute() if path.is_symlink() else path.resolve())

    @property
    def refused(self) -> bool:
        """Whether the last start failed before its attempt began; such a failure has no traceback."""
        if not self.failed.is_file():
            return False
        return not self.failed.read_text(encoding="utf-8", errors="replace").startswith("Traceback")

    def start_over(self, job: str) -> None:
        """Set aside the checkpoints of an earlier attempt, and remove its record.

        Args:
            job: The Slurm or torchrun job, which may start this command again (see `started_over_by`).
        """
        # An attempt killed before its first save leaves no checkpoint to replace those set aside.
        if any((self.checkpoints / name).exists() for name in ("last.ckpt", "previous.ckpt")):
            shutil.rmtree(self.earlier, ignore_errors=True)
            self.checkpoints.replace(self.earlier)
        self.record.unlink(missing_ok=True)
        files.write(self.path / _STARTED_BY, job)

    def started_over_by(self, job: str) -> bool:
        """Whether this job was the last to start the run from scratch."""
        try:
            return files.read_text(self.path / _STARTED_BY) == job
        except (OSError, ValueError):
            return False

    def state(self) -> State:
        """``waiting`` before the first attempt, ``interrupted`` after an unfinished one."""
        if self._is_locked():
            return "running"
        if self.is_finished():
            return "finished"
        if self.pruned.is_file():
            return "pruned"
        if self.failed.is_file():
            return "failed"
        return "interrupted" if self.lock.exists() else "waiting"

    def has_begun(self) -> bool:
        """Whether any attempt has written files."""
        return any(path.exists() for path in (self.lock, self.metrics, self.checkpoints))

    def is_finished(self) -> bool:
        """Whether there are results; a file that a failing disk has damaged does not count."""
        try:
            return isinstance(self.read_metrics(), dict)
        except (OSError, ValueError):
            return False

    def since(self) -> float | None:
        """When the last attempt began, in seconds since the epoch; ``None`` if unknown."""
        try:
            begun = files.number(files.read_text(self.lock))
        except (OSError, ValueError):
            return None
        return begun if math.isfinite(begun) else None

    def progress(self) -> dict[str, str]:
        """The latest value in each column of the record: ``step``, ``train/loss``, ``val/psnr_y``, ..."""
        newest: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            for row in files.read_csv(self.record):
                newest |= {key: str(files.plain(value)) for key, value in row.items() if key and value}
        return newest

    def validations(self) -> dict[int, float]:
        """``val/psnr_y`` of each validation in the record, by step, ignoring a half-written row."""
        values = {int(row["step"]): files.number(row.get("val/psnr_y")) for row in whole_rows(self.record)}
        return {step: value for step, value in values.items() if math.isfinite(value)}

    def read_metrics(self) -> dict[str, object] | None:
        """Results of a finished run, ``None`` for an unfinished one."""
        if not self.metrics.is_file():
            return None
        return typing.cast("dict[str, object]", files.read_json(self.metrics))

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, from which the run can be started again."""
        files.write(self.config, text)

    def figures(self, process: int) -> Path:
        """Where a process of an evaluation keeps its measured values until the run is finished."""
        return self.path / f"figures.{process}.json"

    def kept_figures(self) -> list[Path]:
        """The files with the values that the processes of an earlier attempt have kept."""
        return sorted(self.path.glob("figures.*.json"))

    def write_metrics(self, values: Mapping[str, object]) -> None:
        """Write ``metrics.json``, the last thing that a run does. Infinity and NaN become ``null``."""
        files.write(self.metrics, json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")

    def mark_pruned(self, why: str) -> None:
        """Record that the run was stopped on purpose; a new attempt would resume the run."""
        files.write(self.pruned, why + "\n")

    def refuse(self, why: str) -> None:
        """Record why no attempt began; an attempt that did begin has recorded its own end."""
        if self.state() in ("waiting", "interrupted"):
            files.write(self.failed, why + "\n")

    @contextlib.contextmanager
    def attempt(self, *, wait: Callable[[], object] | None = None) -> Iterator[bool]:
        """One attempt at the run: it keeps other processes out, and writes a traceback if it fails.

        Args:
            wait: Called once if another process is running in the folder; the attempt then waits for it.

        Yields:
            Whether nothing remains to be done: the process that was waited for has written the results.

        Raises:
            ConfigError: Another process is running in the folder, and there is no ``wait``.
        """
        waited = False

        def waiting() -> None:
            nonlocal waited
            waited = True
            assert wait is not None
            wait()

        with self.holding("run; wait for it", None if wait is None else waiting) as lock:
            begun = self.since() if waited else None
            if begun is not None and self.is_finished() and self.metrics.stat().st_mtime >= begun:
                yield True
                return
            with files.naming(self.lock):
                lock.truncate(0)
                # A write through Python's buffer would report a full disk twice.
                os.write(lock.fileno(), f"{time.time()}\n".encode())
            for places in (self.path.glob("*"), self.checkpoints.glob("*"), files.below(self.images)):
                files.remove_leftovers(places)
            self.failed.unlink(missing_ok=True)
            self.pruned.unlink(missing_ok=True)
            try:
                yield False
            except MACHINE_ERRORS:
                raise
            except Exception:  # not Ctrl-C: an interrupted run has not failed
                with contextlib.suppress(OSError):  # the disk may be what failed
                    files.write(self.failed, traceback.format_exc())
                raise

    @contextlib.contextmanager
    def holding(self, what: str, wait: Callable[[], object] | None = None) -> Iterator[IO[str]]:
        """Keep every other process out of the folder.

        Args:
            what: What runs here, and what to do if another process runs it, for the error message.
            wait: Called once if another process is running in the folder; the attempt then waits for it.

        Raises:
            ConfigError: Another process is running in the folder, and there is no ``wait``.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.refuse_links()
        with self.lock.open("a", encoding="utf-8") as lock, contextlib.ExitStack() as stack:
            # `state` takes the lock for a moment too.
            if not stack.enter_context(locked(lock, attempts=5)):
                if wait is None:
                    raise ConfigError(f"{self.path}: another process is running this {what}")
                wait()
                while not stack.enter_context(locked(lock)):
                    time.sleep(0.1)
            yield lock

    def refuse_links(self) -> None:
        """Refuse links and pipes, which in an untrusted folder could redirect the run's output anywhere.

        Raises:
            ConfigError: The folder is a link, contains a link to a place outside, or contains a pipe.
        """
        if self.path.is_symlink():
            raise ConfigError(
                f"{self.path}: is a link, and the run would write into the folder it points to; "
                "remove the link"
            )
        for path in (self.lock, self.record, self.log):
            if path.is_fifo():
                raise ConfigError(f"{path}: is a pipe, on which the run would wait forever; remove it")
        for path in files.below(self.path):
            if path.relative_to(self.path).match(_LOG_OF_WANDB):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(self.path.resolve()):
                raise ConfigError(f"{path}: is a link out of the run folder; remove it")

    def _is_locked(self) -> bool:
        try:
            with open(self.lock, "rb", opener=at_once) as lock, locked(lock, shared=True) as is_free:
                return not is_free
        except FileNotFoundError:
            return False


def checkpoint_file(path: str, key: str = "ckpt") -> Path:
    """The checkpoint that a path refers to; in a run folder, the best checkpoint or else the last.

    Args:
        path: A file, a run folder, or the name of weights: published ones, which have been downloaded, or
            those in the package.
        key: The setting that contains the path, for error messages.

    Raises:
        CheckpointError: There is no such file.
    """
    weights = published.named(path, key)
    named = shipped.file_of(path, key) if weights is None else weights.file()
    given = Path(path).expanduser() if named is None else named
    if given.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (given / "checkpoints" / name).is_file():
                return given / "checkpoints" / name
        raise CheckpointError(
            f"{key}: '{given}' contains no checkpoints/best.ckpt or last.ckpt; give a run folder or a file"
        )
    if not given.is_file():
        raise CheckpointError(f"{key}: there is no file '{given}'; give a checkpoint file or a run folder")
    return given


def whole_rows(record: Path) -> list[dict[str, str]]:
    """Rows of a record, except those half-written or damaged by a full disk or a power cut."""
    try:
        text = record.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    rows = []
    with contextlib.suppress(csv.Error):  # a power cut has left garbage in a field
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            rows.append(row)
    rows = [row for row in rows if None not in row.values() and (row.get("step") or "").isdecimal()]
    return [row for row in rows if len(row["step"]) < 16]  # Python refuses to parse thousands of digits


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Listed:
    """A job in the index of a sweep."""

    folder: str  # name of the run folder, which is next to the index
    label: str | None  # label of the job's row, if it has one
    overrides: list[str]


def read_index(parent: Path) -> list[Listed]:
    """The jobs of the sweeps that wrote into ``parent``, in order; empty if there was no sweep."""
    path = parent / "sweep.json"
    try:
        jobs = typing.cast("dict[str, list[dict[str, typing.Any]]]", files.read_json(path))["jobs"]
        listed = [Listed(**job) for job in jobs]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it and start the sweep again") from error
    for job in listed:
        if not isinstance(job.folder, str) or job.folder in ("", "..") or Path(job.folder).name != job.folder:
            raise ConfigError(
                f"{path}: must name run folders next to the file, got {job.folder!r}; remove the file"
            )
        texts = [job.label or "", *job.overrides] if isinstance(job.overrides, list) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{path}: has a job whose label or overrides are not strings; remove the file")
    return listed


def write_index(parent: Path, jobs: Sequence[Listed]) -> None:
    """Write these jobs to ``sweep.json``; earlier sweeps' jobs stay in it while their folders exist.

    Raises:
        ConfigError: The existing index cannot be read, or another process has locked it for a minute.
    """
    parent.mkdir(parents=True, exist_ok=True)
    place = parent / ".sweep.lock"
    # Several sweeps may start at the same time; each adds its jobs to what the others have written.
    with open(place, "ab", opener=not_elsewhere) as lock, locked(lock, attempts=600) as is_ours:
        if not is_ours:
            raise ConfigError(f"{place}: another process keeps it locked; end that process, and try again")
        _add_to_index(parent, jobs)


def _add_to_index(parent: Path, jobs: Sequence[Listed]) -> None:
    given = {(job.folder, job.label) for job in jobs}
    kept = [
        job
        for job in read_index(parent)
        if (job.folder, job.label) not in given and (parent / job.folder).is_dir()
    ]
    values = {"version": 1, "jobs": [asdict(job) for job in [*kept, *jobs]]}
    files.write(parent / "sweep.json", json.dumps(values, indent=2) + "\n")
