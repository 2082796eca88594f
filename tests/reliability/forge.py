"""Train in separate processes, which are forked from one that has already imported torch.

The child does what ``python -m sr_lab`` does once the configuration is composed (`sr_lab.tasks.train.run`).
"""

import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from PIL import Image

from sr_lab.system import garbage
from tests import prepared
from tests.reliability import plugins

INTERVAL = 5  # steps between two checkpoints
# 24 steps of two accumulated batches, a validation every 5 steps (within a pass), averaged weights and warm
# restarts.
TINY = (
    *("trainer=cpu", "logger=none", "num_workers=0", "model=fsrcnn", "+model.num_feat=8", "allow=[tests]"),
    *("+model.num_shrunk=4", "+model.num_block=1", "scale=2", "ema_decay=0.9"),
    *("budget=smoke", "budget.max_steps=24", f"budget.max_validation_interval={INTERVAL}"),
    *("dataset=folder", "dataset.val_count=1", "benchmark.sets=[Tiny]"),
    *("dataset.lr_patch_size=16", "trainer.accumulate_grad_batches=2", "batch_size=2"),
    "+callbacks.noise._target_=tests.reliability.plugins.Noise",
    "+callbacks.witness._target_=tests.reliability.plugins.Witness",
)
RESTARTS = ("schedule=cosine_restart", "schedule.interval=step", "schedule.scheduler.T_0=7")


TWO = ("dataset.val_count=2", "budget.max_validation_count=2")  # validation images


class Outcome(NamedTuple):
    """The result of a training run."""

    code: int  # exit code of the first process; the negated signal number if a signal killed it
    seconds: float
    said: str
    codes: tuple[int, ...]  # exit codes of all processes


class Forge:
    """Handle of the process that forks the training runs.

    Args:
        stream: Connection to the forking process, which reads and writes JSON lines.
        folder: Folder for the image cache and the output of the children.
    """

    def __init__(self, stream: TextIO, folder: Path) -> None:
        self.stream = stream
        self.folder = folder

    def train(
        self,
        folder: Path,
        *overrides: str,
        kill_after: float | None = None,
        end_at: int | None = None,
        ranks: int = 1,
        breaks: str | None = None,
        schedule: Sequence[str] = RESTARTS,
        **environment: str,
    ) -> Outcome:
        """Run one attempt at a training run.

        Args:
            folder: The run folder.
            overrides: Overrides in addition to `TINY`.
            kill_after: Seconds after which the process is killed.
            end_at: Number of the file operation before which the process kills itself; with 0, it only lists
                the operations, in ``operations.txt`` next to the folder.
            ranks: Number of processes, which get the environment that torchrun would set.
            breaks: How the disk fails from the start; see `plugins.break_files`.
            schedule: Overrides that choose the schedule.
            environment: Environment variables of this attempt.
        """
        request = {
            "overrides": [
                *TINY,
                *schedule,
                f"paths.cache_dir={self.folder}/cache",
                f"paths.data_dir={self.folder}/data",
                f"dataset.hr_dir={self.folder}/images",
                *overrides,
            ],
            "folder": str(folder),
            "end_at": end_at,
            "ranks": ranks,
            "breaks": breaks,
        }
        return self._ask(request, kill_after, environment)

    def save_for_ever(self, folder: Path, mebibytes: int, kill_after: float, **environment: str) -> Outcome:
        """Run `plugins.save_for_ever` and kill it after ``kill_after`` seconds."""
        return self._ask({"save": [str(folder), mebibytes]}, kill_after, environment)

    def prepare(self, images: Path, cache: Path, kill_after: float | None = None) -> Outcome:
        """Build the cache for a folder of images."""
        return self._ask({"prepare": [str(images), str(cache)]}, kill_after, {})

    def _ask(
        self, request: dict[str, object], kill_after: float | None, environment: Mapping[str, str]
    ) -> Outcome:
        request |= {
            "kill_after": kill_after,
            "said": str(self.folder / "said.txt"),
            "environment": environment,
        }
        print(json.dumps(request), file=self.stream, flush=True)
        codes, seconds = json.loads(self.stream.readline())
        return Outcome(codes[0], seconds, (self.folder / "said.txt").read_text(), tuple(codes))


def small_images(folder: Path) -> None:
    """Write four training images, the last for validation, to ``images``, and two test images to ``data``."""
    for place, count in ((folder / "images", 4), (folder / "data" / "benchmarks" / "Tiny" / "HR", 2)):
        place.mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (12, 15, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((60, 48), Image.Resampling.BICUBIC)
            image.save(place / f"{number}.png")


@contextlib.contextmanager
def forging(folder: Path) -> Iterator[Forge]:
    """Start the process that forks the training runs."""
    small_images(folder)
    with prepared.connect("tests.reliability.forge:serve") as stream:
        yield Forge(stream, folder)


def serve(stream: TextIO) -> None:
    """Fork a training run for each line of a stream, and answer with its exit codes and its seconds."""
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    import sr_lab.tasks.train
    from sr_lab.config import identity
    from sr_lab.tasks import common
    from tests.composing import compose

    identity.WATCHING += ("tests.reliability.",)  # a run continues without the faults of an earlier attempt
    composed = {}
    garbage.collect()  # otherwise, garbage collection in the runs would copy memory shared with this process
    for line in stream:
        request = json.loads(line)
        overrides = tuple(request.get("overrides", ()))
        if overrides and overrides not in composed:
            composed[overrides] = compose(*overrides)
        started = time.perf_counter()
        Path(request["said"]).write_text("")
        world, port = request.get("ranks", 1), find_free_network_port()
        children = []
        for rank in range(world):
            children.append(os.fork())
            if children[-1] == 0:
                request["environment"] |= _torchrun(rank, world, port) if world > 1 else {}
                common.console.quiet = rank > 0
                _work(sr_lab.tasks.train.run, composed.get(overrides), request)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            for child in children:
                os.kill(child, signal.SIGKILL)  # not reaped yet, so the id is valid
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps([codes, time.perf_counter() - started]), file=stream, flush=True)


def _torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for a process on one machine."""
    return {
        "TORCHELASTIC_RUN_ID": "forge",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GROUP_RANK": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }


def _work(train, config, request: dict) -> None:
    """Do the work of the child; never returns."""
    code = 1
    try:
        said = os.open(request["said"], os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ |= request["environment"]
        tempfile.tempdir = None  # makes tempfile read the environment again
        if "save" in request:
            plugins.save_for_ever(*request["save"])
        if "prepare" in request:
            plugins.prepare(*request["prepare"])
            os._exit(0)
        if request["breaks"] is not None:
            number, *how = request["breaks"].split()
            plugins.break_files(getattr(errno, number), *how)
        folder = Path(request["folder"])
        if request["end_at"] is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            plugins.count_operations(folder, end_at=request["end_at"], log=folder.parent / "operations.txt")
        train(config, folder, request["overrides"])
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
