"""The run folder: its name, its files, who may write in it. Needs no torch.

config.yaml   resolved configuration            metrics.json  results, written last
metrics.csv   the record, flushed row by row    failed.txt    traceback of a run that died
log.txt      output of a job of several at a time   images.json  which images it was trained on
pruned.txt   why a search ended the run before its last step
checkpoints/{last,previous,best}.ckpt   images/   wandb/
checkpoints.old/   of the attempt before one with resume=never, until this one has saved

The last checkpoint becomes ``previous.ckpt`` when the next is on the disk; a damaged one is set aside as
``damaged.ckpt`` by the run that resumes from the one before.

Beside the run folders of a sweep lies ``sweep.json``, the list of its jobs.
"""

import contextlib
import csv
import fcntl
import json
import math
import os
import shutil
import time
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from sr_lab import files
from sr_lab.errors import MACHINE_ERRORS, CheckpointError, ConfigError

_BEGUN_BY = ".begun"

State: TypeAlias = Literal["finished", "running", "failed", "pruned", "interrupted", "waiting"]


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Results; there once the run is finished."""
        return self.path / "metrics.json"

    @property
    def record(self) -> Path:
        """Training record."""
        return self.path / "metrics.csv"

    @property
    def failed(self) -> Path:
        """Traceback, or why no attempt began; there while the last start is a failed one."""
        return self.path / "failed.txt"

    @property
    def refused(self) -> bool:
        """Whether the last start failed before its attempt, of which there is no traceback."""
        return self.failed.is_file() and not self.failed.read_text(errors="replace").startswith("Traceback")

    @property
    def pruned(self) -> Path:
        """Why a search ended the last attempt; there until there is another."""
        return self.path / "pruned.txt"

    @property
    def log(self) -> Path:
        """What the job said, if it was one of several at a time."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """Held by the process at work; holds the time at which the last attempt began."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """``last.ckpt``, ``previous.ckpt`` (the one before) and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def trained_on(self) -> Path:
        """Which images the run was trained on; there once the first attempt had prepared them."""
        return self.path / "images.json"

    @property
    def images(self) -> Path:
        """Example pictures."""
        return self.path / "images"

    @property
    def earlier(self) -> Path:
        """Checkpoints that `begin_anew` has set aside; the first save removes them."""
        return self.path / "checkpoints.old"

    def begin_anew(self, job: str) -> None:
        """Set what an earlier attempt could be resumed from aside, and remove its record.

        Args:
            job: Slurm's or torchrun's, which may start this command again: see `begun_by`.
        """
        # One that was killed before it saved has nothing to keep in the place of what was set aside.
        if any((self.checkpoints / name).exists() for name in ("last.ckpt", "previous.ckpt")):
            shutil.rmtree(self.earlier, ignore_errors=True)
            self.checkpoints.replace(self.earlier)
        self.record.unlink(missing_ok=True)
        files.write(self.path / _BEGUN_BY, job)

    def begun_by(self, job: str) -> bool:
        """Whether this job was the last to begin the run anew."""
        try:
            return files.read_text(self.path / _BEGUN_BY) == job
        except (OSError, ValueError):
            return False

    def state(self) -> State:
        """``waiting`` before the first attempt, ``interrupted`` after one that came to no end."""
        if self._is_locked():
            return "running"
        if self.is_finished():
            return "finished"
        if self.pruned.is_file():
            return "pruned"
        if self.failed.is_file():
            return "failed"
        return "interrupted" if self.lock.exists() else "waiting"

    def is_finished(self) -> bool:
        """Whether there are results; a file that a failing disk has emptied or spoilt holds none."""
        try:
            return isinstance(self.read_metrics(), dict)
        except (OSError, ValueError):
            return False

    def since(self) -> float | None:
        """When the last attempt began, in seconds since the epoch; ``None`` before the first."""
        try:
            return float(files.read_text(self.lock))
        except (OSError, ValueError):
            return None

    def progress(self) -> dict[str, str]:
        """The newest figure of each column of the record: ``step``, ``train/loss``, ``val/psnr_y``, ..."""
        newest: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            for row in files.read_csv(self.record):
                newest |= {key: str(files.plain(value)) for key, value in row.items() if key and value}
        return newest

    def validations(self) -> dict[int, float]:
        """``val/psnr_y`` of each validation in the record, by step, without a row that is being written."""
        values = {int(row["step"]): files.number(row.get("val/psnr_y")) for row in whole_rows(self.record)}
        return {step: value for step, value in values.items() if math.isfinite(value)}

    def read_metrics(self) -> dict[str, object] | None:
        """Results of a finished run, ``None`` of an unfinished one."""
        if not self.metrics.is_file():
            return None
        return typing.cast("dict[str, object]", files.read_json(self.metrics))

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, from which the run can be started again."""
        files.write(self.config, text)

    def write_metrics(self, values: Mapping[str, object]) -> None:
        """Write ``metrics.json``: the run's last act."""
        files.write(self.metrics, json.dumps(values, indent=2) + "\n")

    def mark_pruned(self, why: str) -> None:
        """Write down that the run was ended on purpose; the next attempt would go on with it."""
        files.write(self.pruned, why + "\n")

    def refuse(self, why: str) -> None:
        """Write down why no attempt begins; one that did begin has said itself how it ended."""
        if self.state() in ("waiting", "interrupted"):
            files.write(self.failed, why + "\n")

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One attempt at the run: no other process in the folder, and a traceback left behind if it dies.

        Raises:
            ConfigError: Another process is at work in the folder.
        """
        with self.holding("run; wait for it, or change the seed") as lock:
            with files.naming(self.lock):
                lock.truncate(0)
                os.write(lock.fileno(), f"{time.time()}\n".encode())  # of a full disk Python would tell twice
            for places in (self.path.glob("*"), self.checkpoints.glob("*"), self.images.rglob("*")):
                files.remove_leftovers(places)
            self.failed.unlink(missing_ok=True)
            self.pruned.unlink(missing_ok=True)
            try:
                yield
            except MACHINE_ERRORS:
                raise
            except Exception:  # not Ctrl-C: an interrupted run has not failed
                with contextlib.suppress(OSError):  # the disk may be what has failed
                    files.write(self.failed, traceback.format_exc())
                raise

    @contextlib.contextmanager
    def holding(self, what: str) -> Iterator[IO[str]]:
        """Keep every other process out of the folder.

        Args:
            what: What it is, and what to do if another process is in it, for the error message.

        Raises:
            ConfigError: Another process is at work in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # A folder that somebody made may lead its files anywhere: what a run writes would go there.
        for path in (self.lock, self.record, self.log, self.checkpoints, self.images):
            if path.is_symlink():
                raise ConfigError(
                    f"{path}: is a link, through which a run would overwrite another file; remove it"
                )
            if path.is_fifo():
                raise ConfigError(f"{path}: is a pipe, which a run would wait for; remove it")
        with self.lock.open("a") as lock:
            if not _locked(lock, fcntl.LOCK_EX, attempts=5):  # whoever asks for the state holds it, too
                raise ConfigError(f"{self.path}: another process is at work on this {what}")
            yield lock

    def _is_locked(self) -> bool:
        try:
            with open(self.lock, opener=files.at_once) as lock:
                return not _locked(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False


def checkpoint_file(path: str, key: str = "ckpt") -> Path:
    """The checkpoint that a path means; in a run folder the best one, or else the last.

    Args:
        path: A file or a run folder.
        key: The setting that names it, for error messages.

    Raises:
        CheckpointError: There is no such file.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (given / "checkpoints" / name).is_file():
                return given / "checkpoints" / name
        raise CheckpointError(
            f"{key}: '{given}' holds no checkpoints/best.ckpt or last.ckpt; give a run folder or a file"
        )
    if not given.is_file():
        raise CheckpointError(f"{key}: there is no file '{given}'; give a checkpoint file or a run folder")
    return given


def whole_rows(record: Path) -> list[dict[str, str]]:
    """Rows of a record, without one that is being written or that a full disk or a power cut has spoilt."""
    try:
        text = record.read_text(errors="replace")
    except FileNotFoundError:
        return []
    rows = []
    with contextlib.suppress(csv.Error):  # a field that a power cut has filled with rubbish
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            rows.append(row)
    rows = [row for row in rows if None not in row.values() and (row.get("step") or "").isdecimal()]
    return [row for row in rows if len(row["step"]) < 16]  # thousands of digits are no number for Python


def _locked(file: IO[str], kind: int, *, attempts: int = 1) -> bool:
    """Take a lock that the file's closing gives back; ``False`` if another process keeps it."""
    for attempt in range(attempts):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1 if attempt + 1 < attempts else 0)
        else:
            return True
    return False


@dataclass(frozen=True)
class Listed:
    """A job in the index of a sweep.

    Args:
        folder: Name of the run folder, which lies beside the index.
        label: The row that the job is, if it is one.
        overrides: The command line that the job stands for.
    """

    folder: str
    label: str | None
    overrides: list[str]


def read_index(parent: Path) -> list[Listed]:
    """The jobs of the sweeps that wrote into ``parent``, in their order; none if there was no sweep."""
    path = parent / "sweep.json"
    try:
        jobs = typing.cast("dict[str, list[dict[str, typing.Any]]]", files.read_json(path))["jobs"]
        listed = [Listed(**job) for job in jobs]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it, the next sweep writes it") from error
    for job in listed:
        if not isinstance(job.folder, str) or job.folder in ("", ".", "..") or "/" in job.folder:
            raise ConfigError(f"{path}: names a folder that is not beside it, got {job.folder!r}; remove it")
        texts = [job.label or "", *job.overrides] if isinstance(job.overrides, list) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{path}: has a job whose label or overrides are no texts; remove it")
    return listed


def write_index(parent: Path, jobs: Sequence[Listed]) -> None:
    """Write ``sweep.json``: these jobs, and those of earlier sweeps whose folders are still there."""
    told = {(job.folder, job.label) for job in jobs}
    kept = [
        job
        for job in read_index(parent)
        if (job.folder, job.label) not in told and (parent / job.folder).is_dir()
    ]
    values = {"version": 1, "jobs": [asdict(job) for job in [*kept, *jobs]]}
    files.write(parent / "sweep.json", json.dumps(values, indent=2) + "\n")
