"""Runs that are killed leave intact files behind and, once resumed, end as if nothing had happened."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.errors import CheckpointError
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.training.checkpointing import newest
from tests.reliability import results
from tests.reliability.comparing import differences
from tests.reliability.forge import INTERVAL, Forge

KILLED = -signal.SIGKILL
OTHER_FILE_SYSTEM = Path("/dev/shm")


@pytest.fixture(scope="module")
def whole(forge, tmp_path_factory) -> tuple[Path, list[str], float]:
    """A run that was not killed, its file operations, and its duration in seconds."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    forge.train(folder.with_name("first"))  # fills the image cache
    ended = forge.train(folder, end_at=0)
    assert ended.code == 0, ended.said
    return folder, (folder.parent / "operations.txt").read_text().splitlines(), ended.seconds


def orphans(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


def is_damaged(path: Path) -> bool:
    try:
        open_checkpoint(str(path))
    except CheckpointError:
        return True
    return False


def problems(folder: Path) -> list[str]:
    """What a killed attempt lost or damaged; empty if nothing."""
    found = []
    rows = whole_rows(folder / "metrics.csv")
    witness = folder / "witness.txt"
    if witness.exists():
        for line in witness.read_text().splitlines():
            step, column = line.split()
            if not any(row["step"] == step and row[column] for row in rows):
                found.append(f"row lost: {line}")
    there = [folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt", "best.ckpt")]
    found += [f"damaged: {path.name}" for path in there if path.exists() and is_damaged(path)]
    good = next((path for path in there if path.exists()), None)
    saved = torch.load(good, weights_only=True)["global_step"] if good is not None else 0
    reached = max((int(row["step"]) for row in rows), default=0)
    return found + ([f"lost: from {reached} back to {saved}"] if reached - saved > INTERVAL else [])


def to_the_end(forge: Forge, folder: Path, whole: Path) -> list[str]:
    """Resume the run to its end, and list where the result differs from an undisturbed run."""
    ended = forge.train(folder)
    if ended.code != 0:
        return [ended.said]
    return differences(whole, folder) + [f"orphan: {path}" for path in orphans(folder)]


@pytest.mark.parametrize("kills", [3, pytest.param(results.size(40, 1000), marks=pytest.mark.slow)])
@pytest.mark.timeout(20_000)
def test_a_run_killed_at_a_random_instant_resumes_bit_equal(forge, whole, tmp_path, kills):
    chance, killed, lost, runs = random.Random(kills), 0, [], 0
    started = time.perf_counter()
    while killed < kills:
        folder = tmp_path / str(runs) / "run"
        runs += 1
        found, attempt = [], KILLED
        # sometimes the resumed run is killed too
        while attempt == KILLED and (chance.random() < 0.3 or not folder.exists()):
            attempt = forge.train(folder, kill_after=chance.uniform(0.02, 1) * whole[2]).code
            if attempt == KILLED:
                killed += 1
                found += problems(folder)
        found += to_the_end(forge, folder, whole[0])
        lost += [f"run {runs}: {found}"] if found else []
    if kills > 3:
        results.store(
            "kill -9 at a random instant", count=killed, lost=len(lost), seconds=time.perf_counter() - started
        )
    assert lost == []


def chosen(operations: list[str]) -> list[int]:
    """The riskiest moments: a checkpoint is half written or not yet renamed, or the record is replaced."""
    swaps = [n for n, line in enumerate(operations, 1) if line.startswith("os.rename checkpoints/.last.ckpt")]
    written = [n for n, line in enumerate(operations, 1) if line.startswith("fsync checkpoints/.best.ckpt")]
    record = [n for n, line in enumerate(operations, 1) if line.startswith("os.rename .metrics.csv")]
    return [swaps[2], written[1], record[0]]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.timeout(20_000)
def test_a_run_killed_at_any_file_operation_resumes_bit_equal(forge, whole, tmp_path, every):
    folder, operations, _ = whole
    assert len(operations) > 100
    numbers = range(1, len(operations) + 1) if every else chosen(operations)
    lost, started = [], time.perf_counter()
    for number in numbers:
        run = tmp_path / str(number) / "run"
        killed = forge.train(run, end_at=number)
        assert killed.code == KILLED, killed.said
        found = problems(run) + to_the_end(forge, run, folder)
        lost += [f"before {number}, {operations[number - 1]}: {found}"] if found else []
    if every:
        seconds = time.perf_counter() - started
        results.store(
            "kill -9 at each file operation", count=len(operations), lost=len(lost), seconds=seconds
        )
    assert lost == []


def die(*steps: int) -> tuple[str, ...]:
    """Overrides for a run that saves and dies after these steps."""
    return (
        "+callbacks.die._target_=tests.reliability.plugins.SaveAndDie",
        f"+callbacks.die.steps={list(steps)}",
        f"+callbacks.die.interval={INTERVAL}",
    )


SINGLE = [(step,) for step in range(1, 25)]


@pytest.mark.parametrize(
    "cases", [[(3, 10, 17)], pytest.param([*SINGLE, (4, 15), (5, 6, 23)], marks=pytest.mark.slow)], ids=len
)
@pytest.mark.timeout(20_000)
def test_a_run_resumed_at_any_step_gives_bit_equal_results(forge, whole, tmp_path, cases):
    lost, started = [], time.perf_counter()
    for steps in cases:
        folder = tmp_path / "-".join(map(str, steps)) / "run"
        codes = [forge.train(folder, *die(*steps)).code for _ in range(len(steps) + 1)]
        found = differences(whole[0], folder) if codes == [*[KILLED] * len(steps), 0] else [str(codes)]
        lost += [f"resumed at {steps}: {found}"] if found else []
    if len(cases) > 1:
        seconds = time.perf_counter() - started
        results.store("resume at each step", count=sum(map(len, cases)), lost=len(lost), seconds=seconds)
    assert lost == []


@pytest.mark.parametrize(
    ("workers", "precision"),
    [(2, "32-true"), *(pytest.param(n, "bf16-mixed", marks=pytest.mark.slow) for n in (0, 2))],
)
def test_a_run_with_workers_or_in_bf16_resumes_bit_equal(forge, tmp_path, workers, precision):
    more = (f"num_workers={workers}", f"trainer.precision={precision}")  # TINY averages weights
    codes = [forge.train(tmp_path / "whole", *more).code]
    codes += [forge.train(tmp_path / "run", *more, *die(7, 15)).code for _ in range(3)]
    assert codes == [0, KILLED, KILLED, 0]
    assert differences(tmp_path / "whole", tmp_path / "run") == []


def test_a_run_whose_last_checkpoint_is_damaged_resumes_bit_equal(forge, whole, tmp_path):
    folder = tmp_path / "run"
    assert forge.train(folder, *die(17)).code == KILLED
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    ended = forge.train(folder)
    (line,) = [line for line in ended.said.splitlines() if "last.ckpt" in line]
    assert line.startswith(f"resume: '{last}' is cut off")
    assert line.endswith("; the run resumes from previous.ckpt, the checkpoint before it")
    assert differences(whole[0], folder) == []


def test_a_run_with_only_damaged_checkpoints_says_so_and_changes_nothing(forge, tmp_path):
    folder = tmp_path / "run"
    assert forge.train(folder, *die(17)).code == KILLED
    for name in ("last.ckpt", "previous.ckpt"):
        path = folder / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-1])
    kept = [folder / "metrics.csv", *(folder / "checkpoints").iterdir()]
    before = [path.read_bytes() for path in kept]
    ended = forge.train(folder)
    assert ended.code == 1
    assert "CheckpointError: resume: no checkpoint in" in ended.said
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.skipif(
    not OTHER_FILE_SYSTEM.is_dir(), reason="needs another file system at /dev/shm for temporary files"
)
@pytest.mark.parametrize(
    ("kills", "mebibytes"), [(3, 8), pytest.param(results.size(40, 200), 64, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(20_000)
def test_a_checkpoint_whose_writer_is_killed_stays_readable(forge, tmp_path, kills, mebibytes):
    assert OTHER_FILE_SYSTEM.stat().st_dev != tmp_path.stat().st_dev
    chance, lost, left, started = random.Random(kills), [], 0, time.perf_counter()
    before = set(OTHER_FILE_SYSTEM.iterdir())
    for kill in range(kills):
        run = RunFolder(tmp_path / "run")
        forge.save_for_ever(run.path, mebibytes, chance.uniform(0.1, 3), TMPDIR=str(OTHER_FILE_SYSTEM))
        left += len(orphans(run.path))
        with run.attempt():
            lost += [f"kill {kill}: orphan {path}" for path in orphans(run.path)]
        for name in ("last.ckpt", "previous.ckpt"):
            path = run.checkpoints / name
            if path.exists() and is_damaged(path):
                lost.append(f"kill {kill}: {name} is damaged")
        good = newest(run.checkpoints, print)
        if good is None:
            assert kill == 0  # killed before its first checkpoint
        else:
            content = torch.load(good, weights_only=True)
            lost += [] if (content["state_dict"]["w"] == content["step"]).all() else [f"kill {kill}: mixed"]
    assert set(OTHER_FILE_SYSTEM.iterdir()) == before
    if mebibytes > 8:
        seconds = time.perf_counter() - started
        results.store("kill -9 while a checkpoint is saved", count=kills, lost=len(lost), seconds=seconds)
    assert lost == []
    assert left > 0 or kills < 40  # some kills interrupted a write
