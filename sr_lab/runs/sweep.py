"""The queue of a multirun: it runs each of Hydra's jobs in its own process, ``sweep.jobs`` at a time.

Hydra's basic launcher runs all jobs in one process, where they would share a CUDA context, W&B's global run
and a random state, and where Lightning's DDP children would replay ``-m``.

Which jobs are done is read from the run folders alone, so the same command finishes the remaining jobs after
any interruption of a job or of the sweep.
"""

import contextlib
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

from sr_lab.config import targets
from sr_lab.config.compose import to_yaml
from sr_lab.config.identity import run_identity
from sr_lab.config.identity_record import RunIdentity, code_note, hash8, record
from sr_lab.config.overrides import typed_again
from sr_lab.config.schema import Config, ShardConfig, Sweep, TrainConfig
from sr_lab.config.shorthand import as_typed
from sr_lab.errors import ConfigError
from sr_lab.reporting.progress import Progress
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.shown_columns import Columns
from sr_lab.reporting.terminal import Terminal
from sr_lab.run_folder import Listed, RunFolder, write_index
from sr_lab.system.unix import KILL, OWN_GROUP, cores, end_with_parent, signal_group

IN_SWEEP = "SR_LAB_IN_SWEEP"  # process id of the sweep, set for its jobs; the sweep prints one table for all
RANK_OF = "SR_LAB_RANK_OF"  # process id of the job that started this process, see `system.distributed`
_JOB = "SR_LAB_JOB"  # run folder of the job
_POLL = 0.1  # seconds between two checks of the processes
_GRACE = 30.0  # seconds within which an interrupted job must end
console = Terminal(markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Planned:
    """A job of a multirun, before any of its jobs has started."""

    config: Config
    folder: RunFolder
    overrides: tuple[str, ...]
    known: RunIdentity = field(compare=False)


@dataclass(frozen=True)
class Job(Planned):
    """A training run that will get its own process."""

    config: TrainConfig

    @property
    def name(self) -> str:
        """Name of the job in the sweep's output."""
        return self.folder.path.name

    def write(self) -> None:
        """Write the job's configuration into its run folder, from which the job can be started."""
        if self.config.resume == "never" or not self.folder.is_finished():
            self.folder.refuse_links()  # the job's output goes to log.txt before the job can refuse links
            if not self.folder.has_begun():  # the job refuses code that has changed meanwhile
                record(self.folder, self.known)
            self.folder.write_config(to_yaml(self.config))


def enqueue(config: TrainConfig, folder: Path, overrides: Sequence[str]) -> Job:
    """A queued job; nothing is written yet."""
    job = Job(config, RunFolder.at(folder), tuple(map(as_typed, overrides)), run_identity(config))
    # The command line trusted these packages; the job reads a file, which must not grant trust.
    if packages := targets.trusted_packages(config.allow):
        os.environ["SR_LAB_ALLOW"] = ",".join(packages)
    return job


def command(folder: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The command that runs a job from its folder; DDP ranks repeat exactly this command.

    Args:
        folder: The run folder.
        overrides: The overrides of the job; only those that `typed_again` selects are passed on.
    """
    return [
        *(sys.executable, "-m", "sr_lab"),
        *("--config-path", str(folder), "--config-name", "config"),
        f"hydra.run.dir='{folder}'",
        *typed_again(overrides),
    ]


def end_with_sweep() -> None:
    """End when the process that started this one ends: a job with its sweep, a rank with its job."""
    parent, number = os.environ.get(IN_SWEEP), int(signal.SIGTERM)
    if "LOCAL_RANK" in os.environ:  # a rank that waits for another rank ignores other signals
        parent, number = os.environ.get(RANK_OF), KILL
    if parent is not None:
        end_with_parent(int(parent), number)


def refused(why: str) -> None:
    """In a job, record why it was refused before its attempt began."""
    if (folder := os.environ.get(_JOB)) is not None:
        RunFolder(Path(folder)).refuse(why)


def run(jobs: Sequence[Job]) -> int:
    """Run every job that is not finished, continue after failures, and print the table of all jobs.

    Returns:
        0 if every job is finished, else 1.

    Raises:
        ConfigError: Two different runs have the same folder.
    """
    for line in shared_folders(jobs):
        console.print(line)
    notes = [*(code_note(job.known, job.folder) for job in jobs), *_about_finished(jobs)]
    for note in dict.fromkeys(filter(None, notes)):
        console.print(note)
    for job in jobs:
        job.write()
    list_jobs([(job.folder.path, job.config.row_label, job.overrides) for job in jobs])
    unique = list({job.folder.path: job for job in jobs}.values())  # several rows may be the same run
    queue = Queue(unique, jobs[0].config.sweep)
    queue.work()
    for note in dict.fromkeys(_about_finished(jobs)):
        if note and note not in notes:  # e.g. the jobs of two benchmarks are one training run
            console.print(note)
    return finish([job.folder.path for job in unique], queue.problems, columns=jobs[0].config.columns)


def _about_finished(jobs: Sequence[Job]) -> list[str]:
    """Lines on finished jobs that were trained or measured on images other than those asked for now."""
    finished = [job for job in jobs if job.config.resume != "never" and job.folder.is_finished()]
    if not finished:
        return []
    from sr_lab.runs import measurement, trained_on  # these import torch

    others = [words for job in finished for words in trained_on.changed_since(job.config, [job.folder])]
    return [
        *(f"dataset: {words}; {trained_on.REMEDY}" for words in others),
        *(measurement.not_measured(job.config, job.folder, job.overrides) for job in finished),
    ]


def shared_folders(jobs: Sequence[Planned]) -> list[str]:
    """A line for each run that several jobs of a multirun share; it is run once.

    Raises:
        ConfigError: Jobs that are different runs have the same folder.
    """
    if not jobs:
        return []
    by_folder: dict[Path, list[Planned]] = {}
    for job in jobs:
        by_folder.setdefault(job.folder.path, []).append(job)
    lines = []
    everywhere = set.intersection(*(set(job.overrides) for job in jobs))
    for folder, same in by_folder.items():
        own = [" ".join(given for given in job.overrides if given not in everywhere) for job in same]
        names = [
            f"'{job.config.row_label or words or job.config.run_name}'"
            for job, words in zip(same, own, strict=True)
        ]
        if len({hash8(job.known.values) for job in same}) > 1:
            shards = isinstance(same[0].config, ShardConfig)
            remedy = (
                "give each job its own output"
                if shards
                else "leave out hydra.sweep.dir and hydra.sweep.subdir"
            )
            raise ConfigError(
                f"sweep: the jobs {' and '.join(names)} are different runs, but both would use the folder "
                f"'{folder}'; {remedy}"
            )
        if len(same) > 1:
            lines.append(f"{' and '.join(names)} are the same run, which runs once: {folder.name}")
    return lines


def list_jobs(jobs: Sequence[tuple[Path, str | None, Sequence[str]]]) -> None:
    """Write ``sweep.json``, the index of the jobs (folder, row, command line), next to their run folders."""
    for parent in dict.fromkeys(folder.parent for folder, *_ in jobs):
        listed = [
            Listed(f.name, label, list(map(as_typed, given)))
            for f, label, given in jobs
            if f.parent == parent
        ]
        write_index(parent, listed)


def finish(folders: Sequence[Path], problems: Sequence[str] = (), *, columns: Columns = "auto") -> int:
    """Print the table of all jobs, and why some of them did not finish.

    Returns:
        0 if there are no problems, else 1.
    """
    from sr_lab.reporting.experiment import print_experiment  # imports scipy, which only a table needs

    if folders:
        print_experiment(folders, columns=columns)
        parents = dict.fromkeys(folder.parent for folder in folders)
        console.print(f"run folders: {', '.join(map(str, parents))}")
    for problem in problems:
        console.print(problem)
    return 1 if problems else 0


@dataclass
class Running:
    """A job that runs in a slot; times are on the monotonic clock."""

    job: Job
    process: "subprocess.Popen[bytes]"  # the leader of the job's process group
    slot: int  # number of the job's share of the machine
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None  # when it was asked to stop
    why: str = ""  # why it was asked to stop

    def send(self, number: int) -> None:
        """Signal the job and all its processes, such as data workers and DDP ranks."""
        signal_group(self.process, number)


class Queue:
    """Runs jobs in ``sweep.jobs`` slots.

    Args:
        jobs: The jobs in order; `plan` may add more.
        settings: How many jobs run at a time, and whether failed jobs are retried.
    """

    def __init__(self, jobs: Sequence[Job], settings: Sweep) -> None:
        self.jobs = list(jobs)
        self.settings = settings
        self.waiting = deque(jobs)
        self.running: list[Running] = []
        self.elsewhere: list[Job] = []  # jobs that another sweep or machine is running
        self.free = list(range(self.settings.jobs))
        self.problems: list[str] = []
        self.gpus = _gpus() if self.settings.jobs > 1 else []
        self._checked = 0.0

    def plan(self) -> None:
        """Add more jobs to ``jobs`` and ``waiting``; called when a slot is free and no job waits."""

    def watch(self, running: Running) -> None:
        """Check a running job; called several times a second."""

    def settled(self, job: Job) -> None:
        """Called when a job has ended or need not be started."""

    def place(self, job: Job) -> str:
        """Position of a job among all jobs, as printed at the start of its lines."""
        return f"[{self.jobs.index(job) + 1}/{self.count}]"

    @property
    def count(self) -> int:
        """Number of jobs, including future ones."""
        return len(self.jobs)

    @property
    def steps(self) -> int:
        """Optimizer steps of all jobs in total."""
        return sum(job.config.steps for job in self.jobs)

    def end(self, running: Running, why: str) -> None:
        """Ask a job to stop before its last step; the reason is recorded in its run folder."""
        running.ended, running.why = time.monotonic(), why
        running.send(signal.SIGINT)

    def work(self) -> None:
        """Run all jobs; if the sweep ends for any reason, they end with it."""
        # A script's background processes ignore SIGINT, and jobs would inherit this.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            with self._progress() as show:
                while self._are_left():
                    while self.free and self.waiting:
                        self.start(self.waiting.popleft())
                    for running in list(self.running):
                        if (code := running.process.poll()) is not None:
                            self._settle(running, code)
                        elif running.ended is None:
                            self.watch(running)
                        elif time.monotonic() > running.ended + _GRACE:
                            running.send(KILL)
                    self._check_elsewhere()
                    show()
                    time.sleep(_POLL)
        finally:
            self._stop()

    def _are_left(self) -> bool:
        if self.free and not self.waiting:
            self.plan()
        return bool(self.waiting or self.running or self.elsewhere)

    def start(self, job: Job) -> None:
        """Start a job in the first free slot, unless it is done."""
        folder, again = job.folder, job.config.resume == "never"
        if folder.refused:  # refused before it began; whatever was missing then may exist now
            folder.failed.unlink()
        state = folder.state()
        if state == "running":
            self.say(job, "another process is running it; waiting for it to end")
            self.elsewhere.append(job)
            return
        if state == "finished" and not again:
            self.say(job, "already finished")
            self.settled(job)
            return
        if state == "failed" and not again and not self.settings.retry_failed:
            why = reason(folder)
            self.say(job, f"failed last time: {why}; sweep.retry_failed=true starts it again")
            self.problems.append(f"failed: {job.name}: {why} (traceback in {folder.failed})")
            self.settled(job)
            return
        several = self.settings.jobs > 1
        self.say(job, f"{'resumed' if state == 'interrupted' else 'started'}" if several else "")
        slot = self.free.pop(0)
        # Each job has its own process group: Ctrl-C reaches only the sweep, and if a job is killed, the sweep
        # ends the other processes of its group.
        with folder.log.open("ab") if several else contextlib.nullcontext() as log:
            process = subprocess.Popen(
                command(folder.path, job.overrides),
                env=os.environ
                | {IN_SWEEP: str(os.getpid()), _JOB: str(folder.path)}
                | self._share(job, slot),
                stdin=subprocess.DEVNULL if several else None,
                stdout=log,
                stderr=subprocess.STDOUT if several else None,
                **OWN_GROUP,
            )
        self.running.append(Running(job, process, slot))

    def _share(self, job: Job, slot: int) -> dict[str, str]:
        """Environment variables that give a slot its share of the GPUs and cores."""
        jobs = self.settings.jobs
        if jobs == 1:
            return {}
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}
        if len(self.gpus) > 1 and job.config.trainer.accelerator != "cpu":
            own = self.gpus[slot::jobs] or [self.gpus[slot % len(self.gpus)]]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return share

    def _settle(self, running: Running, code: int) -> None:
        """Free the slot of a process that has ended, and print how it ended."""
        self.running.remove(running)
        self.free.append(running.slot)
        self.free.sort()
        job, folder = running.job, running.job.folder
        if code != 0:
            running.send(KILL)
        state = folder.state()
        if code == 0 and state == "finished":
            if self.settings.jobs > 1:
                self.say(job, f"finished in {time.monotonic() - running.started:.0f} s")
        elif code == 2 and state == "running":  # another process started it first
            self.elsewhere.append(job)
            return
        elif code == 2 and state == "finished":  # another process ran it to the end
            self.say(job, "already finished")
        elif running.why and state != "finished":
            folder.mark_pruned(running.why)
            self.say(job, f"pruned: {running.why}")
        elif state == "failed":
            self.say(job, f"failed: {reason(folder)}")
            more = "the same command tries again" if folder.refused else f"traceback in {folder.failed}"
            self.problems.append(f"failed: {job.name}: {reason(folder)} ({more})")
        else:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            how += " (out of memory?)" if code == -KILL else ""
            how += f": {last}" if (last := self._last_line(folder)) and code > 0 else ""
            self.say(job, how)
            self.problems.append(f"interrupted: {job.name}: {how}; the same command resumes it")
        self.settled(job)

    def _check_elsewhere(self) -> None:
        """Once a second, queue the jobs that other processes no longer run."""
        if not self.elsewhere or time.monotonic() - self._checked < 1:
            return
        self._checked = time.monotonic()
        free = [job for job in self.elsewhere if job.folder.state() != "running"]
        self.elsewhere = [job for job in self.elsewhere if job not in free]
        self.waiting.extend(free)

    def _stop(self) -> None:
        """Stop the running jobs: interrupt them, and kill them after a while or at a second Ctrl-C."""
        for running in self.running:
            running.send(signal.SIGINT)
        try:
            end = time.monotonic() + _GRACE
            for running in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(timeout=max(0.0, end - time.monotonic()))
        finally:
            for running in self.running:
                running.send(KILL)
                running.process.wait()

    def _last_line(self, folder: RunFolder) -> str:
        if self.settings.jobs == 1:  # the job's output is already on the terminal
            return ""
        lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")

    def say(self, job: Job, what: str) -> None:
        """Print a line about a job."""
        place = f"{self.place(job)} {job.name}"
        console.print(f"{place}: {what}" if what else place)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """A progress bar for the steps of all jobs, if several run at a time; a single job shows its own."""
        if self.settings.jobs == 1:
            yield lambda: None
            return

        def steps_of(jobs: Sequence[Job]) -> int:
            return sum(int(job.folder.progress().get("step", 0)) for job in jobs)

        before = steps_of(self.jobs)
        with Progress(self.steps, "steps", done=before, console=console, transient=True) as progress:

            def show() -> None:
                if not progress.is_due:
                    return
                running = [running.job for running in self.running]
                done = [j for j in self.jobs if j not in running and j not in self.waiting]
                steps = sum(job.config.steps for job in done) + steps_of(running)
                progress.total = self.steps
                progress.update(steps, f"{len(running)} running", f"{len(done)} of {self.count} jobs done")

            yield show


def _gpus() -> list[str]:
    """GPUs for the jobs, found without loading CUDA: the visible ones, or those that the driver lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    found: list[str] = []
    for slice_, name in re.findall(r"^( *)\S.*\(UUID: ([\w-]+)\)", listed, re.MULTILINE):
        if slice_ and found and found[-1].startswith("GPU-"):
            found.pop()  # a GPU that is divided (MIG) can be used only through its slices
        found.append(name)
    return found


def reason(folder: RunFolder) -> str:
    """Why a run failed or was stopped early: the text of the error."""
    problem = re.sub("^(failed|pruned): ", "", read_run(folder.path).problem)
    return re.sub(r"^sr_lab\.errors\.\w+: ", "", problem)
