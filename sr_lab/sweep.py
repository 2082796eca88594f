"""The queue of a multirun: Hydra expands, we run, one process a job, ``sweep.jobs`` at a time.

Hydra's basic launcher runs jobs in one process, where they share a CUDA context, W&B's global run and a
random state, and where Lightning's DDP children would replay ``-m``.

What is done is read from the run folders alone, so the same command after any interruption, of a job or of
the sweep, does what is left.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sr_lab import targets
from sr_lab.config import TrainConfig, to_yaml
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import Listed, RunFolder, write_index

IN_SWEEP = "SR_LAB_IN_SWEEP"  # process of the sweep; set for jobs, whose table comes at the end
_POLL = 0.1  # seconds between two looks at the processes
_GRACE = 30.0  # seconds that an interrupted job has to end
_console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Job:
    """A training that waits for a process of its own."""

    config: TrainConfig
    folder: RunFolder
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the sweep's lines call the job."""
        return self.folder.path.name


def enqueue(config: TrainConfig, folder: Path, overrides: Sequence[str]) -> Job:
    """Write a job down in its run folder, from which it can be started."""
    job = Job(config, RunFolder(folder.resolve()), tuple(overrides))
    if config.resume == "never" or not job.folder.metrics.is_file():
        job.folder.write_config(to_yaml(config))
    # The command line trusted these packages; a file may not say so again in the job's process.
    extra = [name for name in targets.trusted_packages(config.allow) if name not in targets.TRUSTED]
    if extra:
        os.environ["SR_LAB_ALLOW"] = ",".join(dict.fromkeys(extra))
    return job


def command(folder: Path) -> list[str]:
    """The command that runs a written job; DDP ranks replay exactly this."""
    return [
        *(sys.executable, "-m", "sr_lab"),
        *("--config-path", str(folder), "--config-name", "config"),
        *(f"hydra.run.dir='{folder}'", "hydra.output_subdir=null", "hydra/job_logging=stdout"),
    ]


def end_with_sweep() -> None:
    """In a job: end when the sweep is killed, which cannot say so any more."""
    sweep = os.environ.get(IN_SWEEP)
    if sweep is None or "LOCAL_RANK" in os.environ:  # ranks end with their job
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sweep):
        raise KeyboardInterrupt


def run(jobs: Sequence[Job]) -> int:
    """Run every job that is left to do, keep going after a failure, print the collected table.

    Returns:
        0 if every job is finished, else 1.
    """
    for parent in dict.fromkeys(job.folder.path.parent for job in jobs):
        write_index(
            parent,
            [
                Listed(job.name, job.config.row_label, list(job.overrides))
                for job in jobs
                if job.folder.path.parent == parent
            ],
        )
    unique = list({job.folder.path: job for job in jobs}.values())  # rows may be one and the same run
    queue = _Queue(unique)
    queue.work()
    return finish([job.folder.path for job in unique], queue.problems)


def finish(folders: Sequence[Path], problems: Sequence[str] = ()) -> int:
    """Print the table of all jobs, and what is wrong with those that did not finish."""
    from sr_lab.reporting.experiment import print_experiment  # imports scipy, for a table alone

    print_experiment(folders)
    for problem in problems:
        _console.print(problem, markup=False)
    return 1 if problems else 0


@dataclass
class _Running:
    job: Job
    process: "subprocess.Popen[bytes]"
    slot: int
    started: float = field(default_factory=time.monotonic)

    def send(self, number: int) -> None:
        """Signal the job with all its own processes: data workers and DDP ranks."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class _Queue:
    """Jobs on their way through the slots."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.settings = jobs[0].config.sweep
        self.waiting = deque(jobs)
        self.running: list[_Running] = []
        self.elsewhere: list[Job] = []  # another process is at work on them: another sweep, another machine
        self.free = list(range(self.settings.jobs))
        self.problems: list[str] = []
        self.gpus = _gpus() if self.settings.jobs > 1 else []
        self._looked = 0.0

    def work(self) -> None:
        """Run all jobs; whatever ends the sweep ends them, too."""
        try:
            with self._shown() as show:
                while self.waiting or self.running or self.elsewhere:
                    while self.waiting and self.free:
                        self._start(self.waiting.popleft())
                    for running in list(self.running):
                        if (code := running.process.poll()) is not None:
                            self._settle(running, code)
                    self._look_elsewhere()
                    show()
                    time.sleep(_POLL)
        finally:
            self._stop()

    def _start(self, job: Job) -> None:
        folder, again = job.folder, job.config.resume == "never"
        state = folder.state()
        if state == "running":
            self._say(job, "another process is at work on it; waiting for that")
            self.elsewhere.append(job)
            return
        if state == "finished" and not again:
            self._say(job, "finished already")
            return
        if state == "failed" and not again and not self.settings.retry_failed:
            why = reason(folder)
            self._say(job, f"failed the last time: {why}; sweep.retry_failed=true starts it again")
            self._note(f"failed: {job.name}: {why} (traceback in {folder.failed})")
            return
        several = self.settings.jobs > 1
        self._say(job, f"{'goes on' if state == 'interrupted' else 'started'}" if several else "")
        slot = self.free.pop(0)
        # A group of its own: Ctrl-C comes to us, and what a killed job leaves behind can be ended.
        with folder.log.open("ab") if several else contextlib.nullcontext() as log:
            process = subprocess.Popen(
                command(folder.path),
                env=os.environ | {IN_SWEEP: str(os.getpid())} | self._share(job, slot),
                stdin=subprocess.DEVNULL if several else None,
                stdout=log,
                stderr=subprocess.STDOUT if several else None,
                start_new_session=True,
            )
        self.running.append(_Running(job, process, slot))

    def _share(self, job: Job, slot: int) -> dict[str, str]:
        """Environment that gives a slot its part of the GPUs and cores."""
        jobs = self.settings.jobs
        if jobs == 1:
            return {}
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
        if len(self.gpus) > 1 and job.config.trainer.accelerator != "cpu":
            own = self.gpus[slot::jobs] or [self.gpus[slot % len(self.gpus)]]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return share

    def _settle(self, running: _Running, code: int) -> None:
        """A process has ended: say how."""
        self.running.remove(running)
        self.free.append(running.slot)
        self.free.sort()
        job, folder = running.job, running.job.folder
        if code != 0:
            running.send(signal.SIGKILL)
        state = folder.state()
        if code == 0 and state == "finished":
            if self.settings.jobs > 1:
                self._say(job, f"finished in {time.monotonic() - running.started:.0f} s")
        elif code == 2 and state == "running":  # it came between our look and our start
            self.elsewhere.append(job)
        elif state == "failed":
            self._say(job, f"failed: {reason(folder)}")
            self._note(f"failed: {job.name}: {reason(folder)} (traceback in {folder.failed})")
        else:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            how += " (out of memory?)" if code == -signal.SIGKILL else ""
            how += f": {last}" if (last := self._last_line(folder)) and code > 0 else ""
            self._say(job, how)
            self._note(f"interrupted: {job.name}: {how}; the same command goes on with it")

    def _look_elsewhere(self) -> None:
        """Take back the jobs that other processes have let go of, once a second."""
        if not self.elsewhere or time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        free = [job for job in self.elsewhere if job.folder.state() != "running"]
        self.elsewhere = [job for job in self.elsewhere if job not in free]
        self.waiting.extend(free)

    def _stop(self) -> None:
        """End what still runs: asked first, then forced after a while or at a second Ctrl-C."""
        for running in self.running:
            running.send(signal.SIGINT)
        try:
            end = time.monotonic() + _GRACE
            for running in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(timeout=max(0.0, end - time.monotonic()))
        finally:
            for running in self.running:
                running.send(signal.SIGKILL)
                running.process.wait()

    def _last_line(self, folder: RunFolder) -> str:
        if self.settings.jobs == 1:  # it stands above, on the terminal
            return ""
        lines = folder.log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")

    def _say(self, job: Job, what: str) -> None:
        place = f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.name}"
        _console.print(f"{place}: {what}" if what else place, markup=False)

    def _note(self, problem: str) -> None:
        self.problems.append(problem)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[], None]]:
        """A bar over the steps of all jobs, where several run and somebody watches."""
        if self.settings.jobs == 1 or not _console.is_terminal:
            yield lambda: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=_console, transient=True) as bar:
            task = bar.add_task("", total=sum(job.config.steps for job in self.jobs))
            drawn = 0.0

            def show() -> None:
                nonlocal drawn
                if time.monotonic() - drawn < 1:
                    return
                drawn = time.monotonic()
                at_work = [running.job for running in self.running]
                done = [j for j in self.jobs if j not in at_work and j not in self.waiting]
                steps = sum(job.config.steps for job in done)
                steps += sum(int(job.folder.progress().get("step", 0)) for job in at_work)
                said = f"{len(at_work)} running, {len(done)} of {len(self.jobs)} done"
                bar.update(task, completed=steps, description=said)

            yield show


def _gpus() -> list[str]:
    """GPUs that jobs can be given, without loading CUDA here: what is visible, or what the driver lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def reason(folder: RunFolder) -> str:
    """Why a run failed, in the words of the error."""
    problem = read_run(folder.path).problem.removeprefix("failed: ")
    return re.sub(r"^sr_lab\.errors\.\w+: ", "", problem)
