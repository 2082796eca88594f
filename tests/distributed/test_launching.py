"""Which program starts the processes, and what happens to a run that loses one of them."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder
from sr_lab.system import distributed
from tests.command_line import SMOKE, environment_in, run_folder, sr_lab

SMALL = (*(argument for argument in SMOKE if argument != "trainer=cpu"), "num_workers=0")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
SLURM = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}


@pytest.fixture
def environment(monkeypatch):
    """Set these variables of a launcher and delete the variables of all other launchers."""

    def take(variables: dict[str, str]) -> None:
        for name in {*TORCHRUN, *SLURM, "SUBMITIT_LOCAL_NTASKS"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return take


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, None),
        (TORCHRUN, ("torchrun", 8, 2)),
        (SLURM, ("Slurm", 4, 2)),
        (SLURM | TORCHRUN, ("torchrun", 8, 2)),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, None),
        ({"SUBMITIT_LOCAL_NTASKS": "3"}, ("submitit", 3, 1)),
    ],
    ids=["nobody", "torchrun", "srun", "torchrun below srun", "a shell on a node", "submitit"],
)
def test_the_program_that_started_the_processes_is_recognised(environment, variables, launch):
    environment(variables)
    assert distributed.launched() == launch


@pytest.mark.parametrize("devices", [1, -1, "auto", 8])
def test_the_program_that_started_the_processes_sets_their_number(environment, devices):
    environment(TORCHRUN)
    arranged = distributed.trainer_arguments(
        {"devices": devices, "num_nodes": 1, "strategy": "auto"}, timeout=60
    )
    assert (arranged["devices"], arranged["num_nodes"]) == (8, 2)
    assert arranged["strategy"].cluster_environment is None  # Lightning detects torchrun


def test_a_number_of_devices_other_than_the_number_of_started_processes_is_refused(environment):
    environment(TORCHRUN)
    with pytest.raises(ConfigError, match=r"trainer\.devices: got 4, but torchrun has started 8 on each"):
        distributed.trainer_arguments({"devices": 4}, timeout=60)


def test_machines_with_different_numbers_of_processes_are_refused(environment):
    environment(TORCHRUN | {"WORLD_SIZE": "15"})
    with pytest.raises(ConfigError, match="torchrun has started 15 processes, 8 on this machine"):
        distributed.launched()


def test_a_single_process_needs_no_strategy(environment):
    environment({})
    given = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    assert distributed.trainer_arguments(given, timeout=60) == given


@pytest.mark.parametrize(("devices", "variables"), [(1, {}), (2, TORCHRUN | {"LOCAL_WORLD_SIZE": "2"})])
def test_a_hydra_launcher_may_run_a_job_that_starts_no_processes(environment, devices, variables):
    environment(variables)
    given = {"accelerator": "cpu", "devices": devices, "num_nodes": 1, "strategy": "auto"}
    assert distributed.trainer_arguments(given, timeout=60, alone=True)["devices"] == devices


def test_a_cpu_needs_an_explicit_number_of_devices(environment):
    environment({})
    with pytest.raises(ConfigError, match=r"trainer\.devices: .* got -1"):
        distributed.trainer_arguments({"accelerator": "cpu", "devices": -1, "strategy": "ddp"}, timeout=60)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "The client socket has timed out after 60000ms while trying to connect to (10.0.0.1, 29500).",
            "the first process at 10.0.0.1:29500 did not answer for 60 s",
        ),
        ("[../gloo/transport/tcp/pair.cc:538] Connection reset by peer", "another process of this run is"),
        (
            "Gloo connectFullMesh failed with [enforce fail at ../gloo/transport/tcp/device.cc] SO_ERROR: "
            "Connection refused, remote=[127.0.0.1]:41219",
            "another process of this run is",
        ),
        ("NCCL error: remote process exited or there was a network error", "another process of this run is"),
        (
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, "
            "Timeout(ms)=1800000) ran for 1800123 milliseconds before timing out.",
            "process 1 has waited 1800 s for the others",
        ),
        (
            "NCCL communicator was aborted on rank 3. Original reason for failure was: ...",
            "NCCL has stopped on process 3, since another process failed or hangs",
        ),
        (
            "ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 3000",
            "processes 1 and 0 use the same GPU (3000); start at most one process per GPU",
        ),
        (
            "NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled system error, NCCL version 2.27.3",
            "NCCL on process 1 cannot use the network or the shared memory of this machine; NCCL_DEBUG=INFO",
        ),
        ("ncclUnhandledCudaError: Call to CUDA function failed.", "NCCL on process 1 got a CUDA error"),
    ],
)
def test_a_failure_of_torch_distributed_gets_a_readable_message(monkeypatch, error, told):
    monkeypatch.setenv("RANK", "1")
    assert told in str(distributed.why_lost(RuntimeError(error)))


def test_any_other_error_stays_unchanged():
    assert distributed.why_lost(RuntimeError("CUDA out of memory")) is None


def test_a_batch_that_does_not_divide_evenly_is_refused_before_a_process_starts(tmp_path):
    done = sr_lab(tmp_path, *SMALL, *TWO, "batch_size=1", "logger=none")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: batch_size: ")
    assert "got 1 for 2 x 1; use a multiple of 2" in line


# A stand-in for hydra-joblib-launcher, whose job processes all see the command line of the whole multirun.
LAUNCHER = """
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

class JoblibLauncher(BasicLauncher):
    pass
"""


@pytest.mark.slow
def test_a_launcher_whose_ranks_would_run_each_others_jobs_is_refused(tmp_path):
    place = tmp_path / "hydra_plugins" / "joblib_launcher.py"
    place.parent.mkdir()
    place.write_text(LAUNCHER)
    words = ("-m", "seed=0,1", *SMALL, *TWO, "logger=none")
    done = subprocess.run(  # Hydra has listed its plugins in the process from which commands are forked
        [
            *(sys.executable, "-m", "sr_lab", *words),
            "hydra.launcher._target_=hydra_plugins.joblib_launcher.JoblibLauncher",
        ],
        cwd=tmp_path,
        env=environment_in(tmp_path) | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2  # one line per job
    assert set(lines) == {
        "error: hydra/launcher: each process of trainer.devices=2 would run all jobs of this multirun; "
        "leave the launcher out (sweep.jobs=2 runs two jobs at a time), or use a launcher that starts the "
        "processes: hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2"
    }
    assert not list(tmp_path.glob("outputs/train/*/metrics.csv"))


# Complete runs

ACT = """
import os, pathlib, signal
import lightning, torch
from sr_lab.errors import DataError

class Act(lightning.Callback):
    def on_train_start(self, trainer, *_):
        note = pathlib.Path(trainer.default_root_dir) / f"rank{trainer.global_rank}"
        note.write_text(f"{torch.initial_seed()} {os.getpid()}")

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            match torch.initial_seed(), trainer.global_rank:
                case 1, 1:
                    raise DataError("dataset: a.png has gone")
                case (3, 1) | (4, 0):
                    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Five jobs: with seed 1, rank 1 fails; with seed 3, rank 1 is killed; with seed 4, rank 0 is killed."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "act.py").write_text(ACT)
    done = sr_lab(
        place, "-m", "seed=0,1,2,3,4", *SMALL, *TWO, "allow=[act]", "+callbacks.act._target_=act.Act",
        timeout=600, PYTHONPATH=f"{place}:{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    folders = {path.name.partition("seed-")[2][0]: path for path in place.glob("outputs/train/*seed-*")}
    return done, {int(seed): folder for seed, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_a_sweep_continues_after_a_job_that_lost_a_process(sweep):
    done, folders = sweep
    assert done.returncode == 1
    states = {seed: RunFolder(folder).state() for seed, folder in sorted(folders.items())}
    # With seed 1, rank 0 sees only that the other rank is lost; the same command resumes all three jobs.
    assert states == {0: "finished", 1: "interrupted", 2: "finished", 3: "interrupted", 4: "interrupted"}


@pytest.mark.slow
def test_every_process_of_a_job_has_the_settings_of_that_job(sweep):
    _, folders = sweep
    for seed, folder in folders.items():
        assert [(folder / f"rank{rank}").read_text().split()[0] for rank in (0, 1)] == [str(seed)] * 2


@pytest.mark.slow
def test_no_process_outlives_its_job(sweep):
    notes = [folder / f"rank{rank}" for folder in sweep[1].values() for rank in (0, 1)]
    places = [Path("/proc") / note.read_text().split()[1] for note in notes]
    until = time.monotonic() + 5  # the last process takes a moment to free its memory
    while any(place.exists() for place in places) and time.monotonic() < until:
        time.sleep(0.1)
    assert [place for place in places if place.exists()] == []


@pytest.mark.slow
def test_the_reason_why_a_process_died_is_reported_once(sweep):
    errors = [line for line in sweep[0].stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: dataset: a.png has gone",
        "error: training: process 1 ended with exit code 2 (its message says why); "
        "the same command resumes from the last checkpoint",
        "error: training: process 1 was killed by signal 9 (out of memory?); "
        "the same command resumes from the last checkpoint",
    ]


@pytest.mark.slow
def test_a_job_of_two_processes_is_a_single_wandb_run(sweep):
    for seed in (0, 2):
        (offline,) = sweep[1][seed].glob("wandb/offline-run-*")
        assert offline.name.endswith(sweep[1][seed].name)


def torchrun(folder: Path, node: int, port: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"),
        *("--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"),
        *("-m", "sr_lab", *arguments),
    ]
    environment = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "SR_LAB_CACHE": str(folder / f"cache{node}")}
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_two_machines_train_one_run_with_a_separate_cache_each(tmp_path):
    port, arguments = find_free_network_port(), (*SMALL, *TWO[:2], "strategy=ggas", "logger=none")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda node: torchrun(tmp_path, node, port, *arguments), (0, 1))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.count("run folder: ") == 1
    assert second.stdout == ""  # only one rank prints
    metrics = json.loads((run_folder(tmp_path) / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert metrics["batch_norm"] == "per process"
    assert "batch norm: statistics are per process, since they can be shared only on GPUs" in first.stdout
    assert metrics["deterministic"] == {"value": True, "because": []}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="no submitit: install the slurm extra")
def test_each_job_of_a_cluster_may_consist_of_several_processes(tmp_path):
    done = sr_lab(
        tmp_path,
        *("-m", "seed=0,1", *SMALL, *TWO[:2], "logger=none"),
        *("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"),
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/train/*/metrics.json")]
    assert sorted((metrics["seed"], metrics["processes"]) for metrics in found) == [(0, 2), (1, 2)]
    assert done.stdout.count("seeds: 0, 1") == 1
