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

from sr_lab.config import targets
from sr_lab.config.compose import to_yaml
from sr_lab.config.schema import Sweep, TrainConfig
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import Listed, RunFolder, write_index

IN_SWEEP = "SR_LAB_IN_SWEEP"  # process of the sweep; set for jobs, whose table comes at the end
RANK_OF = "SR_LAB_RANK_OF"  # process that started this one as a rank of its run, see `ranks`
_JOB = "SR_LAB_JOB"  # run folder of the job
_POLL = 0.1  # seconds between two looks at the processes
_GRACE = 30.0  # seconds that an interrupted job has to end
console = Console(highlight=False, soft_wrap=True)


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
    if config.resume == "never" or not job.folder.is_finished():
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
    """In a job: end when the sweep is killed, which cannot say so any more; in a rank, with its job."""
    parent, number = os.environ.get(IN_SWEEP), signal.SIGTERM
    if "LOCAL_RANK" in os.environ:  # one that waits for another rank hears no other signal
        parent, number = os.environ.get(RANK_OF), signal.SIGKILL
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        raise KeyboardInterrupt


def refused(why: str) -> None:
    """In a job: leave behind why it ended, if that was before its attempt began."""
    if (folder := os.environ.get(_JOB)) is not None:
        RunFolder(Path(folder)).refuse(why)


def run(jobs: Sequence[Job]) -> int:
    """Run every job that is left to do, keep going after a failure, print the collected table.

    Returns:
        0 if every job is finished, else 1.
    """
    list_jobs([(job.folder.path, job.config.row_label, job.overrides) for job in jobs])
    unique = list({job.folder.path: job for job in jobs}.values())  # rows may be one and the same run
    queue = Queue(unique, jobs[0].config.sweep)
    queue.work()
    return finish([job.folder.path for job in unique], queue.problems)


def list_jobs(jobs: Sequence[tuple[Path, str | None, Sequence[str]]]) -> None:
    """Write down beside the run folders which jobs there are.

    Args:
        jobs: Folder, row and command line of each.
    """
    for parent in dict.fromkeys(folder.parent for folder, *_ in jobs):
        listed = [Listed(f.name, label, list(given)) for f, label, given in jobs if f.parent == parent]
        write_index(parent, listed)


def finish(folders: Sequence[Path], problems: Sequence[str] = ()) -> int:
    """Print the table of all jobs, and what is wrong with those that did not finish."""
    from sr_lab.reporting.experiment import print_experiment  # imports scipy, for a table alone

    if folders:
        print_experiment(folders)
    for problem in problems:
        console.print(problem, markup=False)
    return 1 if problems else 0


@dataclass
class Running:
    """A job at work in a slot.

    Args:
        job: The job.
        process: Its process, the first of a group.
        slot: Its part of the machine.
        started: When, on the monotonic clock.
        ended: When it was asked to end.
        why: Why it was.
    """

    job: Job
    process: "subprocess.Popen[bytes]"
    slot: int
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    why: str = ""

    def send(self, number: int) -> None:
        """Signal the job with all its own processes: data workers and DDP ranks."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Queue:
    """Jobs on their way through the slots.

    Args:
        jobs: The jobs, in their order; `plan` may add to them.
        settings: How many at a time, and what of those that failed.
    """

    def __init__(self, jobs: Sequence[Job], settings: Sweep) -> None:
        self.jobs = list(jobs)
        self.settings = settings
        self.waiting = deque(jobs)
        self.running: list[Running] = []
        self.elsewhere: list[Job] = []  # another process is at work on them: another sweep, another machine
        self.free = list(range(self.settings.jobs))
        self.problems: list[str] = []
        self.gpus = _gpus() if self.settings.jobs > 1 else []
        self._looked = 0.0

    def plan(self) -> None:
        """A slot is free and no job waits: put further ones into ``jobs`` and ``waiting``, if there are."""

    def watch(self, running: Running) -> None:
        """Look at a job at work, several times a second."""

    def settled(self, job: Job) -> None:
        """A job has come to an end, or needs no start."""

    def place(self, job: Job) -> str:
        """Which of all jobs it is, at the beginning of its lines."""
        return f"[{self.jobs.index(job) + 1}/{self.count}]"

    @property
    def count(self) -> int:
        """How many jobs there are, or will be."""
        return len(self.jobs)

    @property
    def steps(self) -> int:
        """Optimizer steps of all jobs."""
        return sum(job.config.steps for job in self.jobs)

    def end(self, running: Running, why: str) -> None:
        """Ask a job to end before its last step; its run folder says why."""
        running.ended, running.why = time.monotonic(), why
        running.send(signal.SIGINT)

    def work(self) -> None:
        """Run all jobs; whatever ends the sweep ends them, too."""
        try:
            with self._shown() as show:
                while self._are_left():
                    while self.free and self.waiting:
                        self.start(self.waiting.popleft())
                    for running in list(self.running):
                        if (code := running.process.poll()) is not None:
                            self._settle(running, code)
                        elif running.ended is None:
                            self.watch(running)
                        elif time.monotonic() > running.ended + _GRACE:
                            running.send(signal.SIGKILL)
                    self._look_elsewhere()
                    show()
                    time.sleep(_POLL)
        finally:
            self._stop()

    def _are_left(self) -> bool:
        if self.free and not self.waiting:
            self.plan()
        return bool(self.waiting or self.running or self.elsewhere)

    def start(self, job: Job) -> None:
        """Give a job the first free slot, unless it is done."""
        folder, again = job.folder, job.config.resume == "never"
        if folder.refused:  # nothing was begun, and what it wanted may be there now
            folder.failed.unlink()
        state = folder.state()
        if state == "running":
            self.say(job, "another process is at work on it; waiting for that")
            self.elsewhere.append(job)
            return
        if state == "finished" and not again:
            self.say(job, "finished already")
            self.settled(job)
            return
        if state == "failed" and not again and not self.settings.retry_failed:
            why = reason(folder)
            self.say(job, f"failed the last time: {why}; sweep.retry_failed=true starts it again")
            self._note(f"failed: {job.name}: {why} (traceback in {folder.failed})")
            self.settled(job)
            return
        several = self.settings.jobs > 1
        self.say(job, f"{'goes on' if state == 'interrupted' else 'started'}" if several else "")
        slot = self.free.pop(0)
        # A group of its own: Ctrl-C comes to us, and what a killed job leaves behind can be ended.
        with folder.log.open("ab") if several else contextlib.nullcontext() as log:
            process = subprocess.Popen(
                command(folder.path),
                env=os.environ
                | {IN_SWEEP: str(os.getpid()), _JOB: str(folder.path)}
                | self._share(job, slot),
                stdin=subprocess.DEVNULL if several else None,
                stdout=log,
                stderr=subprocess.STDOUT if several else None,
                start_new_session=True,
            )
        self.running.append(Running(job, process, slot))

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

    def _settle(self, running: Running, code: int) -> None:
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
                self.say(job, f"finished in {time.monotonic() - running.started:.0f} s")
        elif code == 2 and state == "running":  # it came between our look and our start
            self.elsewhere.append(job)
            return
        elif running.why and state != "finished":
            folder.mark_pruned(running.why)
            self.say(job, f"pruned: {running.why}")
        elif state == "failed":
            self.say(job, f"failed: {reason(folder)}")
            left = "the same command tries again" if folder.refused else f"traceback in {folder.failed}"
            self._note(f"failed: {job.name}: {reason(folder)} ({left})")
        else:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            how += " (out of memory?)" if code == -signal.SIGKILL else ""
            how += f": {last}" if (last := self._last_line(folder)) and code > 0 else ""
            self.say(job, how)
            self._note(f"interrupted: {job.name}: {how}; the same command goes on with it")
        self.settled(job)

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

    def say(self, job: Job, what: str) -> None:
        """One line about a job."""
        place = f"{self.place(job)} {job.name}"
        console.print(f"{place}: {what}" if what else place, markup=False)

    def _note(self, problem: str) -> None:
        self.problems.append(problem)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[], None]]:
        """A bar over the steps of all jobs, where several run and somebody watches."""
        if self.settings.jobs == 1 or not console.is_terminal:
            yield lambda: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=self.steps)
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
                said = f"{len(at_work)} running, {len(done)} of {self.count} done"
                bar.update(task, completed=steps, total=self.steps, description=said)

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
    """Why a run failed, in the words of the error, or was ended."""
    problem = re.sub("^(failed|pruned): ", "", read_run(folder.path).problem)
    return re.sub(r"^sr_lab\.errors\.\w+: ", "", problem)
