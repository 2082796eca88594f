"""Damage to a checkpoint is detected, whoever wrote the file, and a run resumes from the previous one."""

import random
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.errors import CheckpointError
from sr_lab.training.checkpointing import DurableCheckpointIO, newest
from tests.reliability import results
from tests.tiny import TinyNet


@pytest.fixture
def saved(tmp_path) -> Path:
    """A run's ``last.ckpt`` (step 2) and ``previous.ckpt`` (step 1)."""
    for step in (1, 2):
        save(tmp_path / "last.ckpt", step)
    return tmp_path


def save(path: Path, step: int) -> None:
    state = {f"network.{name}": value for name, value in TinyNet().state_dict().items()}
    record = {"model": {}, "upsampler": {}, "strategy": {}, "scale": 2, "version": 1}
    DurableCheckpointIO().save_checkpoint({"state_dict": state, "sr_lab": record, "global_step": step}, path)


def test_a_checkpoint_that_an_earlier_version_sealed_with_a_comment_opens(saved):
    with zipfile.ZipFile(saved / "last.ckpt", "a") as archive:
        archive.comment = b"sr_lab sha256:" + b"0" * 64
    assert newest(saved, pytest.fail) == saved / "last.ckpt"


def test_a_file_in_the_old_format_of_torch_opens_without_a_check(tmp_path):
    torch.save(TinyNet().state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert open_checkpoint(str(tmp_path / "a.pth")).record is None


# Checkpoints of sr_lab and of other authors


@pytest.fixture(params=["ours", "somebody else's"])
def file(request, saved) -> Path:
    if request.param != "ours":
        torch.save(TinyNet().state_dict(), saved / "official.pth")
        return saved / "official.pth"
    return saved / "last.ckpt"


def opened(path: Path, content: bytes) -> dict[str, Tensor] | None:
    """The weights read from a file with this content; ``None`` if the file is refused."""
    path.write_bytes(content)
    try:
        return open_checkpoint(str(path)).state
    except CheckpointError:
        return None


def is_missed(path: Path, content: bytes, weights: dict[str, Tensor]) -> bool:
    """Whether damage changes a weight unnoticed; damage to unused bytes does not."""
    found = opened(path, content)
    return found is not None and not (
        found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    )


@pytest.mark.parametrize("flips", [400, pytest.param(results.size(400, 10_000), marks=pytest.mark.slow)])
def test_each_flipped_bit_that_changes_a_weight_is_detected(file, flips, request):
    content, chance, started = file.read_bytes(), random.Random(0), time.perf_counter()
    weights = open_checkpoint(str(file)).state
    missed = []
    for _ in range(flips):
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= bit
        missed += [(place, bit)] if is_missed(file, flipped, weights) else []
    if request.node.get_closest_marker("slow"):
        seconds = time.perf_counter() - started
        results.store("bit flipped in a checkpoint", count=flips, lost=len(missed), seconds=seconds)
    assert missed == []


def test_no_flipped_bit_in_the_central_directory_changes_a_weight_unnoticed(file):
    """A flipped bit there can turn an entry into a folder, whose content torch does not read."""
    content, weights = file.read_bytes(), open_checkpoint(str(file)).state
    with zipfile.ZipFile(file) as archive:
        start = archive.start_dir
        (entry,) = [e for e in archive.infolist() if e.filename.endswith("data/1")]
    place = content.index(entry.filename.encode(), start) - 46
    for number in range(place, place + 46):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[number] ^= 1 << bit
            assert not is_missed(file, flipped, weights), (number, bit)


def test_a_truncated_file_does_not_open(file):
    content, chance = file.read_bytes(), random.Random(0)
    for length in [*range(len(content) - 30, len(content)), *chance.sample(range(len(content)), 70), 0]:
        assert opened(file, content[:length]) is None, length


def test_a_run_of_zero_bytes_that_changes_a_weight_is_detected(file):
    content, chance, weights = file.read_bytes(), random.Random(0), open_checkpoint(str(file)).state
    for _ in range(100):
        start = chance.randrange(len(content))
        hole = content[:start] + bytes(len(content[start : start + 64])) + content[start + 64 :]
        assert not is_missed(file, hole, weights), start


def test_a_changed_weight_is_reported_as_damage(file):
    weight = next(iter(open_checkpoint(str(file)).state.values())).numpy().tobytes()
    content = file.read_bytes()
    place = content.index(weight)
    file.write_bytes(content[:place] + b"\x00\x00\x80\x3f" + content[place + 4 :])
    with pytest.raises(CheckpointError, match=f"'{file}' is damaged .a CRC"):
        open_checkpoint(str(file))


# The previous checkpoint


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    changed = {"truncated": content[:500], "empty": b"", "flipped": content[:100] + b"\x55" + content[101:]}
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_run_with_a_damaged_last_checkpoint_resumes_from_the_previous_one_and_says_so(saved, how):
    damage(saved / "last.ckpt", how)
    said = []
    assert newest(saved, said.append) == saved / "previous.ckpt"
    assert len(said) == 1
    what = {"truncated": "is cut off", "empty": "is empty", "flipped": "is damaged"}[how]
    assert f"'{saved / 'last.ckpt'}' {what}" in said[0]
    assert said[0].endswith("the run resumes from previous.ckpt, the checkpoint before it")
    assert "\n" not in said[0]


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt", "best.ckpt"])
def test_a_folder_with_the_name_of_a_checkpoint_is_reported_at_the_start(saved, name):
    (saved / name).unlink(missing_ok=True)
    (saved / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}' is a folder"):
        newest(saved, print)


def test_a_damaged_checkpoint_is_renamed_and_never_becomes_the_previous_checkpoint(saved):
    damage(saved / "last.ckpt", "truncated")
    bad = (saved / "last.ckpt").read_bytes()
    newest(saved, print)
    save(saved / "last.ckpt", 3)
    steps = [
        torch.load(saved / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("previous", "last")
    ]
    assert steps == [1, 3]
    assert (saved / "damaged.ckpt").read_bytes() == bad


def test_a_run_killed_between_the_two_renames_resumes_from_the_previous_checkpoint(saved):
    (saved / "last.ckpt").replace(saved / "previous.ckpt")
    assert newest(saved, pytest.fail) == saved / "previous.ckpt"


@pytest.mark.parametrize("both", [True, False], ids=["both", "the only one"])
def test_a_run_with_only_damaged_checkpoints_is_reported_in_one_sentence_and_stays_untouched(saved, both):
    damage(saved / "last.ckpt", "flipped")
    if both:
        damage(saved / "previous.ckpt", "empty")
    else:
        (saved / "previous.ckpt").unlink()
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(CheckpointError, match=r"^resume: no checkpoint in .* can be read .* resume=never$"):
        newest(saved, pytest.fail)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_run_that_has_not_saved_yet_starts_at_step_0(tmp_path):
    assert newest(tmp_path / "checkpoints", pytest.fail) is None


def test_a_checkpoint_written_by_plain_torch_may_replace_the_last_checkpoint(saved):
    content = torch.load(saved / "last.ckpt", weights_only=True)
    torch.save(content, saved / "last.ckpt")
    assert newest(saved, pytest.fail) == saved / "last.ckpt"
