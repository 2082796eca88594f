"""The run folder: its name, its files, who may write in it. Needs no torch.

config.yaml   resolved configuration            metrics.json  results, written last
metrics.csv   the record, flushed row by row    failed.txt    traceback of a run that died
checkpoints/{last,best}.ckpt   images/   wandb/
"""

import contextlib
import fcntl
import json
import shutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sr_lab import files
from sr_lab.errors import ConfigError


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
        """Traceback; there while the last attempt is a failed one."""
        return self.path / "failed.txt"

    @property
    def checkpoints(self) -> Path:
        """``last.ckpt`` and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Example pictures."""
        return self.path / "images"

    def clear(self, *, results_only: bool) -> None:
        """Remove an earlier attempt's results, and unless ``results_only`` what it could be resumed from.

        An attempt that fails must not leave the numbers of the one before it.
        """
        self.metrics.unlink(missing_ok=True)
        if not results_only:
            self.record.unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def read_metrics(self) -> dict[str, object] | None:
        """Results of a finished run, ``None`` of an unfinished one."""
        if not self.metrics.is_file():
            return None
        values: dict[str, object] = json.loads(self.metrics.read_text())
        return values

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, from which the run can be started again."""
        files.write(self.config, text)

    def write_metrics(self, values: Mapping[str, object]) -> None:
        """Write ``metrics.json``: the run's last act."""
        files.write(self.metrics, json.dumps(values, indent=2) + "\n")

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One attempt at the run: no other process in the folder, and a traceback left behind if it dies.

        Raises:
            ConfigError: Another process is at work in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.path}: another process is at work on this run; wait for it, or change the seed"
                ) from None
            self.failed.unlink(missing_ok=True)
            try:
                yield
            except Exception:  # not Ctrl-C: an interrupted run has not failed
                files.write(self.failed, traceback.format_exc())
                raise
