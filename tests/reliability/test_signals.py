"""Runs that get a signal finish the step, save, name the signal, and resume bit for bit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sr_lab.run_folder import RunFolder, whole_rows
from tests.command_line import SMOKE, run_folder
from tests.reliability import results
from tests.reliability.comparing import checkpoint, differences
from tests.reliability.forge import INTERVAL, TWO

HEARD = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}


def ask(step: int, number: int, *more: str) -> tuple[str, ...]:
    """Overrides for a run that gets a signal at a step."""
    return (
        *(*TWO, "+callbacks.ask._target_=tests.reliability.plugins.Ask"),
        *(f"+callbacks.ask.step={step}", f"+callbacks.ask.number={int(number)}"),
        *(f"+callbacks.ask.{line}" for line in more),
    )


CASES = [
    ("SIGINT", 7, False),
    ("SIGTERM", INTERVAL, False),  # a validation is due at this step
    ("SIGHUP", 10, True),
    ("SIGUSR1", 1, False),
    ("SIGTERM", 24, False),
    ("SIGTERM", 24, True),
]


@pytest.mark.parametrize(
    "cases",
    [
        CASES,
        pytest.param(
            [(name, step, False) for name in HEARD for step in (1, 2, 5, 9, 10, 20, 24)]
            + [(name, step, True) for name in HEARD for step in (5, 20)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=len,
)
def test_a_run_that_gets_a_signal_saves_that_step_and_resumes_bit_equal(forge, whole_of_two, tmp_path, cases):
    lost, started = [], time.perf_counter()
    for name, step, within in cases:
        folder = tmp_path / f"{name}-{step}-{within}" / "run"
        overrides = ask(step, getattr(signal, name), f"validation={str(within).lower()}")
        ended = forge.train(folder, *overrides)
        found = [] if ended.code == HEARD[name] else [f"code {ended.code}: {ended.said}"]
        found += [] if checkpoint(folder, "last")["global_step"] == step else ["another step"]
        found += [] if f"{name}: the run is saved after this step" in ended.said else ["says nothing"]
        again = forge.train(folder, *overrides)
        found += differences(whole_of_two, folder) if again.code == 0 else [again.said]
        lost += [f"{folder.parent.name}: {found}"] if found else []
    if len(cases) > len(CASES):
        results.store("signal", count=len(cases), lost=len(lost), seconds=time.perf_counter() - started)
    assert lost == []


def test_a_second_ctrl_c_ends_the_run_at_once(forge, tmp_path):
    ended = forge.train(tmp_path / "run", *ask(7, signal.SIGINT, "times=2"))
    assert "KeyboardInterrupt" in ended.said  # the command line turns it into exit code 130
    assert checkpoint(tmp_path / "run", "last")["global_step"] == INTERVAL


@pytest.mark.parametrize(
    ("array", "job"), [({}, "17"), ({"SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}, "15_2")]
)
def test_a_preempted_job_is_requeued(forge, tmp_path, scontrol, array, job):
    folder = tmp_path / "run"
    assert forge.train(folder, *ask(7, signal.SIGUSR1), **scontrol, **array).code == 138
    assert (tmp_path / "asked.txt").read_text() == f"requeue {job}\n"
    assert not (folder / "failed.txt").exists()


def test_a_job_that_cannot_be_requeued_saves_its_state_and_says_so(forge, tmp_path, scontrol):
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    ended = forge.train(tmp_path / "run", *ask(7, signal.SIGUSR1), **scontrol)
    assert ended.code == 138
    assert "SIGUSR1: saved, but not requeued: " in ended.said
    assert checkpoint(tmp_path / "run", "last")["global_step"] == 7


@contextlib.contextmanager
def long_training(folder: Path, *overrides: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run ``python -m sr_lab`` in its own session, with a small network that trains for minutes."""
    command = [sys.executable, "-m", "sr_lab", *SMOKE, "budget.max_steps=100000", "logger=none"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SLURM_"))}
    with subprocess.Popen(
        [*command, "budget.max_validation_interval=100", *overrides],
        cwd=folder,
        env=inherited | {"SR_LAB_OUTPUT": "outputs", "SR_LAB_CACHE": str(folder / "cache")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def steps_of(folder: Path) -> list[int]:
    return [int(row["step"]) for path in folder.glob("outputs/*/*/metrics.csv") for row in whole_rows(path)]


def wait_for_a_step(folder: Path, behind: int = 0) -> None:
    """Wait until the record has a step greater than ``behind``."""
    until = time.monotonic() + 120
    while max(steps_of(folder), default=0) <= behind:
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(process: "subprocess.Popen[str]", number: int, *, who: str = "group") -> tuple[int, float, str]:
    """Signal the first process, the second or the whole session; return exit code, seconds and output."""
    started = time.monotonic()
    if who == "second":
        (child,) = _children(process.pid)
        os.kill(child, number)
    else:
        (os.killpg if who == "group" else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - started, said


def _children(parent: int) -> list[int]:
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def test_ctrl_c_reaches_the_workers_too_and_the_step_is_saved(tmp_path):
    with long_training(tmp_path, "num_workers=1") as process:
        wait_for_a_step(tmp_path)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        wait_for_a_step(tmp_path, behind=max(steps_of(tmp_path)))
        code, seconds, said = ended(process, signal.SIGINT)
    assert code == 130, said
    assert seconds < 5  # usually 0.1 s to save and 0.5 s in total; a busy machine takes longer
    assert said.splitlines()[-2:] == [
        "SIGINT: the run is saved after this step; Ctrl-C again ends it at once",
        "interrupted; the same command resumes from the last checkpoint",
    ]
    folder = run_folder(tmp_path)
    assert checkpoint(folder, "last")["global_step"] >= max(steps_of(tmp_path))
    assert RunFolder(folder).state() == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "who"),
    [(n, "group") for n in HEARD] + [("SIGTERM", "first"), ("SIGTERM", "second"), ("SIGUSR1", "second")],
)
def test_two_processes_end_within_seconds_whichever_gets_the_signal(tmp_path, name, who, scontrol):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "num_workers=0")
    with long_training(tmp_path, *ddp, **scontrol) as process:
        wait_for_a_step(tmp_path)
        code, seconds, said = ended(process, getattr(signal, name), who=who)
    assert code == HEARD[name], said
    assert seconds < 5
    assert checkpoint(run_folder(tmp_path), "last")["global_step"] >= max(steps_of(tmp_path))
    assert (tmp_path / "asked.txt").exists() == (name == "SIGUSR1")
