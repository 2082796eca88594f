"""The processes of a training on several devices: starting them, waiting for them, and losing one.

Lightning starts them on one machine (``trainer=ddp``); ``torchrun``, Slurm's ``srun`` and submitit start them
on any number, and then how many there are is theirs to say.
"""

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import lightning
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from sr_lab.errors import ConfigError, DistributedError

_POLL = 0.2  # seconds between two looks at the other processes
_GRACE = 5.0  # seconds in which the loss of one usually comes up by itself, with gloo at once
_PATIENCE = 30.0  # the same where one was told to end: this one was, too, and may be saving
_TOLD = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
_ASKED = {code for number in _TOLD for code in (-number, 128 + number)}  # exit codes of such a one


class Launch(NamedTuple):
    """Processes that somebody else has started."""

    by: str
    devices: int  # on each machine
    machines: int


def launched() -> Launch | None:
    """What ``torchrun`` or ``srun`` has started, ``None`` where nobody has.

    Raises:
        ConfigError: Machines have different numbers of processes.
    """
    environ = os.environ
    if "TORCHELASTIC_RUN_ID" in environ:
        by, world, on_each = "torchrun", int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
    elif "SUBMITIT_LOCAL_NTASKS" in environ:
        by, world = "submitit", int(environ["SUBMITIT_LOCAL_NTASKS"])
        on_each = world
    elif "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        by, world = "Slurm", int(environ["SLURM_NTASKS"])
        on_each = world // int(environ.get("SLURM_NNODES", 1))
    else:
        return None
    if world % max(1, on_each):
        raise ConfigError(
            f"trainer: {by} has started {world} processes, {on_each} on this machine; "
            "start the same number on each"
        )
    return Launch(by, on_each, world // max(1, on_each))


def arranged(arguments: Mapping[str, object], *, timeout: float, alone: bool = False) -> dict[str, object]:
    """Arguments of a Trainer, made to fit the processes that there are.

    Args:
        arguments: ``devices``, ``num_nodes`` and ``strategy`` as the configuration has them, and others.
        timeout: Seconds that processes wait for one another.
        alone: Whether processes that Lightning would start would repeat more than this one training.

    Raises:
        ConfigError: The configuration names another number of devices than were started, or wants processes
            to be started that may not be.
    """
    arguments = dict(arguments)
    found, devices = launched(), arguments.get("devices")
    if found is not None:
        if devices not in (1, -1, "-1", "auto", found.devices):
            raise ConfigError(
                f"trainer.devices: got {devices}, and {found.by} has started {found.devices} on each "
                f"machine; leave it out, and have {found.by} start as many as you want"
            )
        arguments |= {"devices": found.devices, "num_nodes": found.machines}
        several = found.devices * found.machines > 1
    else:
        if arguments.get("accelerator") == "cpu" and devices in (-1, "-1"):
            raise ConfigError("trainer.devices: a CPU is not counted, got -1; say how many processes, e.g. 2")
        several = devices != 1 or arguments.get("num_nodes", 1) != 1
        if several and alone:
            raise ConfigError(
                f"hydra/launcher: each process of trainer.devices={devices} would begin all jobs of this "
                "multirun; leave the launcher out (sweep.jobs=2 runs two jobs at a time), or take one that "
                "starts the processes: hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2"
            )
    unused = arguments.get("strategy") == "ddp_find_unused_parameters_true"
    if arguments.get("strategy") == "ddp" or unused or (several and arguments.get("strategy") == "auto"):
        limit = datetime.timedelta(seconds=timeout)
        arguments["strategy"] = Ranks(timeout=limit, find_unused_parameters=unused)
    return arguments


class Ranks(DDPStrategy):
    """Lightning's DDP, which says why it ends when a process is lost."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class Launcher(_SubprocessScriptLauncher):
    """Lightning's, with a watch over the processes that says what became of them.

    Lightning's own kills the first process without a word, and leaves the others when that one is killed.
    """

    settled = False  # the loss of a process came up by itself

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: lightning.Trainer | None = None, **named: Any
    ) -> Any:
        """Start the processes, unless that has been done, and call the function in this one."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ["SR_LAB_RANK_OF"] = str(os.getpid())
            self._call_children_scripts()  # they end with this process: `sweep.end_with_sweep`
            threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **named)

    def fate(self, patience: float = 0.0) -> str | None:
        """What became of a process that is no more, ``None`` if all are well."""
        until = time.monotonic() + patience
        while self.procs:
            for number, process in enumerate(self.procs, start=1):
                code = process.poll() or 0
                if code < 0:
                    guess = " (out of memory?)" if code == -signal.SIGKILL else ""
                    return f"process {number} was killed by signal {-code}{guess}"
                if code > 0:
                    return f"process {number} ended with exit code {code} and has said why"
            if time.monotonic() >= until:
                break
            time.sleep(_POLL)
        return None

    def _watch(self) -> None:
        """End this process if another has died and nobody notices: NCCL waits for it until the timeout."""
        codes: list[int | None] = [None]
        while None in codes:
            time.sleep(_POLL)
            codes = [process.poll() for process in self.procs]
            if failed := {code for code in codes if code}:
                time.sleep(_PATIENCE if failed <= _ASKED else _GRACE)
                if self.settled:
                    return
                print(f"error: {_lost(self.fate())}", file=sys.stderr, flush=True)  # noqa: T201
                for process in self.procs:
                    process.kill()
                os._exit(1)


@contextlib.contextmanager
def together(trainer: lightning.Trainer) -> Iterator[None]:
    """What processes do together: the loss of one is told in words.

    Raises:
        DistributedError: One was lost, or did not come, or does not answer.
    """
    launcher = trainer.strategy.launcher
    try:
        yield
    except RuntimeError as error:
        sentence = why_lost(error, launcher if isinstance(launcher, Launcher) else None)
        if sentence is None:
            raise
        raise DistributedError(sentence) from error
    finally:
        if isinstance(launcher, Launcher):
            launcher.settled = True
    if isinstance(launcher, Launcher):
        for process in launcher.procs:  # they end now; this process' end would kill them
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_GRACE)


def why_lost(error: RuntimeError, launcher: Launcher | None = None) -> str | None:
    """A failure of torch.distributed in words, ``None`` for any other error."""
    text = str(error)
    joined = re.search(r"Timed out after (\d+) seconds waiting for clients\. (\d+)/(\d+) clients", text)
    if joined:
        seconds, count, world = joined.groups()
        return (
            f"trainer: after {seconds} s only {count} of {world} processes had come; "
            "start all of them, or let trainer.timeout be longer"
        )
    silent = re.search(
        r"client socket has timed out after (\d+)ms while trying to connect to \(?([^),]+), (\d+)", text
    )
    if silent:
        milliseconds, host, port = silent.groups()
        return (
            f"trainer: the first process at {host}:{port} did not answer for {int(milliseconds) // 1000} s; "
            "start it, check the address, or let trainer.timeout be longer"
        )
    late = re.search(r"Timed out waiting (\d+)ms for", text)
    if late:
        return (
            f"training: a process has not answered for {int(late[1]) / 1000:g} s; it hangs or is gone; "
            "the same command goes on from the last checkpoint (trainer.timeout sets how long to wait)"
        )
    if re.search(
        r"Connection (closed|reset) by peer|connectFullMesh failed|Broken pipe|remote process", text
    ):
        return _lost(launcher.fate(_GRACE) if launcher is not None else None)
    return None


def _lost(fate: str | None) -> str:
    return (
        f"training: {fate or 'another process of this run is gone'}; "
        "the same command goes on from the last checkpoint"
    )
