"""Start and wait for the processes of a training run on several devices, and report lost ones.

On one machine the first process starts the others (``trainer=ddp``). ``torchrun``, Slurm's ``srun`` and
submitit start them on any number of machines, and decide how many there are.
"""

import contextlib
import datetime
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from sr_lab.errors import ConfigError, DistributedError
from sr_lab.system.devices import has_gpu, rank
from sr_lab.system.unix import END_SIGNALS, KILL

RESUMES = "the same command resumes from the last checkpoint"
_POLL = 0.2  # seconds between two checks of the other processes
_GRACE = 5.0  # seconds within which losing a process usually raises an error (with gloo at once)
_PATIENCE = 30.0  # the same limit after a signal, when this process may still be saving
_ENDED_BY_SIGNAL = {code for number in END_SIGNALS for code in (-number, 128 + number)}  # exit codes


class Launch(NamedTuple):
    """Processes that another program has started."""

    by: str
    devices: int  # on each machine
    machines: int


def launched() -> Launch | None:
    """What ``torchrun``, ``srun`` or submitit has started; ``None`` if this process was started alone.

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
            "start the same number on each machine"
        )
    return Launch(by, on_each, world // max(1, on_each))


def trainer_arguments(
    arguments: Mapping[str, object], *, timeout: float, alone: bool = False
) -> dict[str, object]:
    """Arguments of a Trainer for the processes that exist or will be started.

    Args:
        arguments: Arguments in the configuration, including ``devices``, ``num_nodes`` and ``strategy``.
        timeout: Seconds that processes wait for each other.
        alone: If true, this process must not start others, which would repeat more than this run.

    Raises:
        ConfigError: The configuration asks for a different number of devices than were started, or for
            processes that must not be started.
    """
    arguments = dict(arguments)
    if arguments.get("accelerator") == "auto" and not has_gpu("auto"):
        arguments["accelerator"] = "cpu"  # Lightning would choose a Mac's GPU, which has no float64
    found, devices = launched(), arguments.get("devices")
    if found is not None:
        if devices not in (1, -1, "-1", "auto", found.devices):
            raise ConfigError(
                f"trainer.devices: got {devices}, but {found.by} has started {found.devices} on each "
                f"machine; leave trainer.devices out, and let {found.by} start as many as you want"
            )
        arguments |= {"devices": found.devices, "num_nodes": found.machines}
        several = found.devices * found.machines > 1
    else:
        if arguments.get("accelerator") == "cpu" and devices in (-1, "-1"):
            raise ConfigError("trainer.devices: must be a number of processes on a CPU, got -1; set e.g. 2")
        several = devices != 1 or arguments.get("num_nodes", 1) != 1
        if several and alone:
            raise ConfigError(
                f"hydra/launcher: each process of trainer.devices={devices} would run all jobs of this "
                "multirun; leave the launcher out (sweep.jobs=2 runs two jobs at a time), or use a launcher "
                "that starts the processes: hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2"
            )
    unused = arguments.get("strategy") == "ddp_find_unused_parameters_true"
    if arguments.get("strategy") == "ddp" or unused or (several and arguments.get("strategy") == "auto"):
        limit = datetime.timedelta(seconds=timeout)
        environment = None if found is not None else Environment()
        arguments["strategy"] = DDPStrategy(
            cluster_environment=environment, timeout=limit, find_unused_parameters=unused
        )
    return arguments


class Environment(LightningEnvironment):
    """Lightning's environment for one machine, but `together` starts and watches the other processes.

    Lightning kills the first process without a message when another process is lost, and leaves the others
    running when the first is lost.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Keep Lightning from starting processes."""
        return True


class Others:
    """The processes that this one has started."""

    def __init__(self, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
        self.processes = processes
        self.settled = False  # training has ended, or raised its own error
        if processes:
            threading.Thread(target=self._watch, daemon=True, name="processes").start()

    def fate(self, patience: float = 0.0) -> str | None:
        """What happened to a process that failed, ``None`` if no process failed."""
        until = time.monotonic() + patience
        while self.processes:
            for number, process in enumerate(self.processes, start=1):
                code = process.poll() or 0
                if code < 0:
                    guess = " (out of memory?)" if code == -KILL else ""
                    return f"process {number} was killed by signal {-code}{guess}"
                if code > 0:
                    return f"process {number} ended with exit code {code} (its message says why)"
            if time.monotonic() >= until:
                break
            time.sleep(_POLL)
        return None

    def _watch(self) -> None:
        """End this process if another was lost unnoticed, since NCCL would wait for it until the timeout."""
        codes: list[int | None] = [None]
        while None in codes:
            time.sleep(_POLL)
            codes = [process.poll() for process in self.processes]
            if failed := {code for code in codes if code}:
                time.sleep(_PATIENCE if failed <= _ENDED_BY_SIGNAL else _GRACE)
                if self.settled:
                    return
                print(f"error: {_lost(self.fate())}", file=sys.stderr, flush=True)  # noqa: T201
                for process in self.processes:
                    process.kill()
                os._exit(1)


def _start(trainer: lightning.Trainer) -> Others:
    """Start the other processes on this machine with the command that started this one."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, Environment) or "LOCAL_RANK" in os.environ:
        return Others([])
    os.environ |= {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "SR_LAB_RANK_OF": str(os.getpid()),  # they end with this process: `sweep.end_with_sweep`
    }
    command = [sys.executable, *sys.orig_argv[1:]]
    ranks = range(1, trainer.num_devices)
    return Others([subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)}) for rank in ranks])


@contextlib.contextmanager
def together(trainer: lightning.Trainer) -> Iterator[None]:
    """Run the block in all processes; if one of them is lost, say so in one sentence.

    Raises:
        DistributedError: A process was lost, did not start, or does not respond.
    """
    others = _start(trainer)
    try:
        yield
    except RuntimeError as error:
        sentence = why_lost(error, others)
        if sentence is None:
            raise
        raise DistributedError(sentence) from error
    finally:
        others.settled = True
    for process in others.processes:  # they are about to end; if this one ended first, they would be killed
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)


def why_lost(error: RuntimeError, others: Others | None = None) -> str | None:
    """A failure of torch.distributed as a sentence, ``None`` for any other error."""
    text = str(error)
    joined = re.search(r"Timed out after (\d+) seconds waiting for clients\. (\d+)/(\d+) clients", text)
    if joined:
        seconds, count, world = joined.groups()
        return (
            f"trainer: after {seconds} s only {count} of {world} processes had joined; "
            "start all of them, or set a longer trainer.timeout"
        )
    silent = re.search(
        r"client socket has timed out after (\d+)ms while trying to connect to \(?([^),]+), (\d+)", text
    )
    if silent:
        milliseconds, host, port = silent.groups()
        return (
            f"trainer: the first process at {host}:{port} did not answer for {int(milliseconds) // 1000} s; "
            "start it, check the address, or set a longer trainer.timeout"
        )
    late = re.search(r"Timed out waiting (\d+)ms for", text)
    if late:
        return (
            f"training: a process has not answered for {int(late[1]) / 1000:g} s; it hangs or is gone; "
            f"{RESUMES} (trainer.timeout sets how long to wait)"
        )
    for pattern, sentence in _NCCL.items():
        if found := re.search(pattern, text):
            return sentence.format(*found.groups(), rank=rank())
    if re.search(
        r"Connection (closed|reset) by peer|connectFullMesh failed|Broken pipe|remote process", text
    ):
        return _lost(others.fate(_GRACE) if others is not None else None)
    return None


# NCCL's error messages, and what they mean.
_NCCL = {
    r"Duplicate GPU detected\s*: rank (\d+) and rank (\d+) both on CUDA device (\w+)": (
        "trainer: processes {} and {} use the same GPU ({}); start at most one process per GPU"
    ),
    r"Watchdog caught collective operation timeout.*Timeout\(ms\)=(\d+)\d{3}": (
        "training: process {rank} has waited {} s for the others; one of them hangs or is gone; "
        f"{RESUMES} (trainer.timeout sets how long to wait)"
    ),
    r"NCCL communicator was aborted on rank (\d+)": (
        f"training: NCCL has stopped on process {{}}, since another process failed or hangs; {RESUMES}"
    ),
    r"unhandled system error|ncclSystemError": (
        "training: NCCL on process {rank} cannot use the network or the shared memory of this machine; "
        f"NCCL_DEBUG=INFO says why; {RESUMES}"
    ),
    r"unhandled cuda error|ncclUnhandledCudaError": (
        "training: NCCL on process {rank} got a CUDA error (is memory full, or the driver wrong?); "
        f"NCCL_DEBUG=INFO says why; {RESUMES}"
    ),
    r"ncclRemoteError": f"training: a process other than {{rank}} is gone; {RESUMES}",
}


def _lost(fate: str | None) -> str:
    return f"training: {fate or 'another process of this run is gone'}; {RESUMES}"
