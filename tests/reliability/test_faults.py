"""A run reports each fault of the machine in a sentence, keeps its last good state and resumes bit for bit.

====  =============================================  ==================================================
No.   Fault                                          Tested in
====  =============================================  ==================================================
 1    disk full (checkpoint, row, cache)             this file
 2    quota exceeded                                 this file
 3    file system turned read-only (data too)        this file
 4    permission lost                                this file
 5    EIO on write                                   this file
 6    EIO on read (image, checkpoint)                this file
 7    short write                                    this file
 8    fsync fails                                    this file
 9    rename fails                                   this file
10    run folder deleted                             this file
11    two processes in one folder                    this file
12    clock jumps back                               this file
13    ``last.ckpt`` truncated                        test_kill.py
14    ``last.ckpt`` with a flipped bit               test_damage.py
15    ``last.ckpt`` empty                            this file
16    ``last.ckpt`` of another network               this file
17    ``last.ckpt`` of a newer version               this file
18    NaN loss, 19 infinite gradient                 test_nan_policy.py
20    memory of the machine full                     this file
21    memory of the device full (in validation too)  this file
22    worker killed, 23 worker hangs                 this file
24    rank dies, rank hangs                          tests/distributed/test_exactness.py
25    images vanish, cache vanishes                  this file
26    W&B dies, W&B cannot be reached                test_dashboards.py
27    configuration edited between runs              this file
====  =============================================  ==================================================
"""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sr_lab.errors import FaultError
from sr_lab.run_folder import RunFolder
from sr_lab.system import faults
from sr_lab.training.checkpointing import DurableCheckpointIO, newest
from tests.reliability import results
from tests.reliability.comparing import checkpoint, differences, rows
from tests.reliability.forge import Forge, Outcome


@pytest.fixture(scope="module", autouse=True)
def _stored(request) -> Iterator[None]:
    """Store how many faults there were and how many of them lost data."""
    started, failed = time.perf_counter(), request.session.testsfailed
    yield
    count = sum(item.module is request.module for item in request.session.items)
    lost = request.session.testsfailed - failed
    results.store("fault", count=count, lost=lost, seconds=time.perf_counter() - started)


def breaks(what: str, step: int = 12) -> tuple[str, ...]:
    """Overrides for a run in which a fault happens at a step."""
    return (
        "+callbacks.fault._target_=tests.reliability.plugins.Break",
        f"+callbacks.fault.what='{what}'",
        f"+callbacks.fault.step={step}",
    )


def sentence(ended: Outcome) -> str:
    """The message of the last sr_lab error, which the command line would print."""
    lines = [line for line in ended.said.splitlines() if line.startswith("sr_lab.errors.")]
    return lines[-1].split(": ", 1)[1] if lines else f"no sentence: {ended.said}"


CKPT = ".last.ckpt.*.tmp"
FULL, ADVICE = (
    "No space left on device",
    "; fix that, then the same command resumes from the last checkpoint",
)
DISK = {
    "disk full, checkpoint": (f"ENOSPC write {CKPT}", FULL),
    "disk full, row": ("ENOSPC write metrics.csv", FULL),
    "disk full, best checkpoint": ("ENOSPC write .best.ckpt.*.tmp", FULL),
    "disk full, everything": ("ENOSPC write *", FULL),
    "quota": (f"EDQUOT write {CKPT}", "Disk quota exceeded"),
    "read-only": ("EROFS open *", "Read-only file system"),
    "permission lost": ("EACCES open metrics.csv", "Permission denied"),
    "EIO on write": (f"EIO write {CKPT}", "Input/output error"),
    "fsync fails": (f"EIO fsync {CKPT}", "Input/output error"),
    "rename fails": ("EIO rename last.ckpt", "Input/output error"),
}
SMALL = ["disk full, checkpoint", "disk full, row", "read-only", "rename fails"]
OTHERS = {
    "run folder deleted": ("folder", "training: cannot use '"),
    "memory": ("memory", "training: the memory of this machine is full; lower num_workers"),
    "device memory": ("device", "training: the memory of the device is full; trainer.accumulate_grad"),
    "EIO on read": ("images EIO", "Input/output error"),
}


def broken_and_mended(
    forge: Forge, folder: Path, whole: Path, what: str, said: str, *overrides: str, last: int | None = 10
) -> list[str]:
    """What went wrong when a run broke and when it resumed; empty if nothing did."""
    ended = forge.train(folder, *overrides, *breaks(what))
    found = [] if ended.code == 1 else [f"code {ended.code}"]
    found += [] if said in sentence(ended) else [sentence(ended)]
    good = newest(folder / "checkpoints", print)
    step = None if good is None else torch.load(good, weights_only=True)["global_step"]
    found += [] if step == last else [f"last good state: {step}"]
    found += [f"left behind: {path}" for path in folder.rglob(".*.tmp")]
    again = forge.train(folder, *overrides)
    return found + (differences(whole, folder) if again.code == 0 else [again.said])


@pytest.mark.parametrize("name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in DISK])
def test_a_failing_disk_is_reported_and_the_run_resumes_bit_equal(forge, whole, tmp_path, name):
    what, said = DISK[name]
    assert broken_and_mended(forge, tmp_path / "run", whole, what, f": {said}{ADVICE}") == []


@pytest.mark.parametrize("name", OTHERS)
def test_a_failing_machine_is_reported_and_the_run_resumes_bit_equal(forge, whole, tmp_path, name):
    what, said = OTHERS[name]
    last = None if name == "run folder deleted" else 10
    assert broken_and_mended(forge, tmp_path / "run", whole, what, said, last=last) == []


def own_images(forge: Forge, tmp_path: Path) -> tuple[str, ...]:
    """Overrides for a run with its own copy of the images, which the test may damage."""
    shutil.copytree(forge.folder / "images", tmp_path / "images")
    return f"dataset.hr_dir={tmp_path}/images", f"paths.cache_dir={tmp_path}/cache"


@pytest.mark.parametrize("what", ["clock", f"EIO short {CKPT}", "cache"])
def test_an_event_that_is_not_a_fault_changes_nothing(forge, whole, tmp_path, what):
    ended = forge.train(tmp_path / "run", *own_images(forge, tmp_path), *breaks(what))
    assert ended.code == 0, ended.said
    assert differences(whole, tmp_path / "run") == []


def test_a_validation_that_runs_out_of_memory_uses_tiles_and_gives_the_same_results(forge, whole, tmp_path):
    folder = tmp_path / "run"
    ended = forge.train(folder, *breaks("validation"))
    assert ended.code == 0, ended.said
    told = json.loads((folder / "metrics.json").read_text())["tiled"]
    assert told.startswith("30x24 pixels in tiles of 15x15, overlapping by ")
    assert told.endswith("; equal to the whole image")
    psnr = [[float(row["val/psnr_y"]) for row in rows(run) if row["val/psnr_y"]] for run in (whole, folder)]
    assert psnr[1] == pytest.approx(psnr[0], abs=1e-4)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "a worker that reads images was killed by signal Killed (out of memory? then lower"),
        pytest.param(
            signal.SIGSTOP,
            "a worker that reads images has not answered for 2.0 s (trainer.timeout); check",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_worker_that_dies_or_hangs_is_reported_and_the_run_resumes_bit_equal(
    forge, whole, tmp_path, number, said
):
    more = ("num_workers=1", "trainer.timeout=2")
    what = f"worker {int(number)}"
    assert broken_and_mended(forge, tmp_path / "run", whole, what, said, *more) == []


def test_the_message_names_a_validation_image_that_vanishes(forge, whole, tmp_path):
    more = own_images(forge, tmp_path)
    ended = forge.train(tmp_path / "run", *more, *breaks("images gone"))
    assert f"{tmp_path}/images/" in sentence(ended)
    assert checkpoint(tmp_path / "run", "last")["global_step"] == 10
    shutil.copytree(forge.folder / "images", tmp_path / "images", dirs_exist_ok=True)
    assert forge.train(tmp_path / "run", *more).code == 0
    assert differences(whole, tmp_path / "run") == []


def half(forge: Forge, folder: Path) -> Path:
    """Break a run at step 12 and return its last checkpoint."""
    assert forge.train(folder, *breaks("memory")).code == 1
    return folder / "checkpoints" / "last.ckpt"


def test_a_last_checkpoint_that_the_disk_cannot_read_is_named_and_no_file_is_renamed(forge, whole, tmp_path):
    last = half(forge, tmp_path / "run")
    kept = [*last.parent.iterdir(), tmp_path / "run" / "metrics.csv"]
    before = [path.read_bytes() for path in kept]
    ended = forge.train(tmp_path / "run", breaks="EIO read last.ckpt")
    assert ended.code == 1
    assert sentence(ended) == (
        f"resume: cannot read '{last}': Input/output error; correct that and start again, or use another file"
    )
    assert [path.read_bytes() for path in kept] == before
    assert set(last.parent.iterdir()) == set(kept[:-1])
    assert forge.train(tmp_path / "run").code == 0
    assert differences(whole, tmp_path / "run") == []


def test_an_empty_last_checkpoint_is_named_and_the_run_resumes_from_the_previous_one(forge, whole, tmp_path):
    last = half(forge, tmp_path / "run")
    last.write_bytes(b"")
    ended = forge.train(tmp_path / "run")
    assert f"resume: '{last}' is empty" in ended.said
    assert "the run resumes from previous.ckpt, the checkpoint before it" in ended.said
    assert differences(whole, tmp_path / "run") == []


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"scale": 3}, "it contains another network"),
        ({"version": 2}, "it was saved by another version of sr_lab (update sr_lab)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_overwritten(
    forge, whole, tmp_path, record, said
):
    last = half(forge, tmp_path / "run")
    content = torch.load(last, weights_only=True)
    content["sr_lab"] |= record
    own = last.read_bytes()
    DurableCheckpointIO().save_checkpoint(content, last.with_name("other.ckpt"))
    last.with_name("other.ckpt").replace(last)
    kept = [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".ckpt", ".csv")]
    before = [path.read_bytes() for path in kept]
    ended = forge.train(tmp_path / "run")
    assert sentence(ended) == (
        f"resume: cannot resume from '{last}': {said}; put the run's own checkpoint there, or train from "
        "scratch with resume=never"
    )
    assert [path.read_bytes() for path in kept] == before
    last.write_bytes(own)
    assert forge.train(tmp_path / "run").code == 0
    assert differences(whole, tmp_path / "run") == []


def test_a_run_with_damaged_results_is_measured_again(forge, whole, tmp_path):
    folder = tmp_path / "run"
    assert forge.train(folder).code == 0
    (folder / "metrics.json").write_bytes(b"")
    ended = forge.train(folder)
    assert ended.code == 0, ended.said
    assert f"{folder}/metrics.json: cannot be read; measuring again" in ended.said
    assert differences(whole, folder) == []


def test_a_second_process_in_a_run_folder_is_refused(forge, tmp_path):
    with RunFolder(tmp_path / "run").attempt():
        ended = forge.train(tmp_path / "run")
    assert ended.code == 1
    assert sentence(ended).startswith(f"{tmp_path}/run: another process is running this run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_config_file_edited_between_runs_is_replaced_by_the_config_of_the_command(forge, whole, tmp_path):
    half(forge, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("seed: 0", "seed: 5"))
    assert forge.train(tmp_path / "run").code == 0
    assert "seed: 0" in config.read_text()
    assert differences(whole, tmp_path / "run") == []


@pytest.fixture
def mounted(tmp_path) -> Iterator[Path]:
    """Mount a file system of one MiB."""
    place = tmp_path / "mounted"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_run_on_a_full_disk_resumes_once_there_is_space(forge, whole, mounted, tmp_path):
    folder = mounted / "run"
    hog = mounted / "hog"
    hog.write_bytes(bytes(850_000))
    ended = forge.train(folder)
    assert ended.code == 1
    assert FULL in sentence(ended)
    hog.unlink()
    assert forge.train(folder).code == 0
    assert differences(whole, folder) == []


def test_an_attempt_on_a_full_disk_names_the_file_that_it_cannot_write(mounted):
    RunFolder(mounted / "run").checkpoints.mkdir(parents=True)
    RunFolder(mounted / "run").lock.touch()
    fill(mounted)
    with pytest.raises(OSError, match=FULL) as raised, RunFolder(mounted / "run").attempt():
        pytest.fail("it began")
    assert raised.value.filename == str(mounted / "run" / ".lock")
    assert raised.value.__context__ is None  # closing the file raises no second error


@pytest.mark.parametrize("left", [0, 40_000, 400_000])
def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named_whatever_part_fits(mounted, left):
    (mounted / "hog").write_bytes(bytes(left))
    fill(mounted)
    (mounted / "hog").unlink()
    with pytest.raises(FaultError) as raised, faults.explained():
        DurableCheckpointIO().save_checkpoint({"weights": torch.ones(250_000)}, mounted / "last.ckpt")
    assert str(raised.value) == f"training: cannot use '{mounted}/last.ckpt': {FULL}{ADVICE}"


def fill(place: Path) -> None:
    """Write until the disk is full."""
    with pytest.raises(OSError, match=FULL):
        (place / "filling").write_bytes(bytes(2**21))


def test_a_run_reads_its_images_from_a_read_only_disk(forge, whole, mounted, tmp_path):
    shutil.copytree(forge.folder / "images", mounted / "images")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    ended = forge.train(tmp_path / "run", f"dataset.hr_dir={mounted}/images")
    assert ended.code == 0, ended.said
    assert differences(whole, tmp_path / "run") == []


def test_a_cache_that_does_not_fit_on_the_disk_is_named(forge, mounted, tmp_path):
    (mounted / "hog").write_bytes(bytes(1_040_000))
    ended = forge.train(tmp_path / "run", f"paths.cache_dir={mounted}/cache")
    assert ended.code == 1
    assert sentence(ended).startswith(f"cache: cannot write {mounted}/cache/")
    assert "; free space there or set paths.cache_dir to another folder" in sentence(ended)
