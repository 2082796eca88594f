"""A checkpoint's digest finds what became of it, and nobody else minds it."""

import io
import random
import shutil
import time
import zipfile

import pytest
import torch

from sr_lab.checkpoints import digest
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.errors import CheckpointError
from sr_lab.training.checkpointing import DurableCheckpointIO, newest
from tests.reliability import results
from tests.tiny import TinyNet


@pytest.fixture
def saved(tmp_path):
    """A run's ``last.ckpt`` (step 2) and ``previous.ckpt`` (step 1)."""
    for step in (1, 2):
        save(tmp_path / "last.ckpt", step)
    return tmp_path


def save(path, step: int) -> None:
    state = {f"network.{name}": value for name, value in TinyNet().state_dict().items()}
    record = {"model": {}, "upsampler": {}, "strategy": {}, "scale": 2, "version": 1}
    DurableCheckpointIO().save_checkpoint({"state_dict": state, "sr_lab": record, "global_step": step}, path)


def test_torch_and_zip_readers_open_a_sealed_file(saved):
    assert torch.load(saved / "last.ckpt", weights_only=True)["global_step"] == 2
    assert torch.load(saved / "last.ckpt", weights_only=True, mmap=True)["global_step"] == 2
    with zipfile.ZipFile(saved / "last.ckpt") as archive:
        assert archive.comment.startswith(b"sr_lab sha256:")
        assert archive.testzip() is None


def test_a_copy_elsewhere_is_checked_too(saved, tmp_path):
    copy = tmp_path / "copy.pt"
    shutil.copy(saved / "last.ckpt", copy)
    open_checkpoint(str(copy))
    with copy.open("r+b") as file:
        file.seek(700)
        file.write(b"\xff\x00\xff")
    with pytest.raises(CheckpointError, match=r"copy.pt' is damaged, its SHA-256 is another"):
        open_checkpoint(str(copy))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_of_somebody_else_opens_unchecked(tmp_path, zipped):
    torch.save(TinyNet().state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert not digest.is_damaged(tmp_path / "a.pth")
    assert open_checkpoint(str(tmp_path / "a.pth")).record is None


def test_a_checkpoint_of_ours_that_was_saved_again_opens_unchecked(saved):
    content = torch.load(saved / "last.ckpt", weights_only=True)
    torch.save(content, saved / "slim.ckpt")
    assert not digest.is_damaged(saved / "slim.ckpt")


def is_found(path, content: bytes) -> bool:
    path.write_bytes(content)
    return digest.is_damaged(path)


@pytest.mark.parametrize("flips", [256, pytest.param(results.size(256, 10_000), marks=pytest.mark.slow)])
def test_each_flipped_bit_is_found(saved, flips, request):
    content, chance, started = (saved / "last.ckpt").read_bytes(), random.Random(0), time.perf_counter()
    missed = []
    for _ in range(flips):
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= bit
        missed += [] if is_found(saved / "flipped.ckpt", flipped) else [(place, bit)]
    if request.node.get_closest_marker("slow"):
        seconds = time.perf_counter() - started
        results.store("bit flipped in a checkpoint", count=flips, lost=len(missed), seconds=seconds)
    assert missed == []


def test_each_bit_of_the_end_that_holds_the_digest_counts(saved):
    content = (saved / "last.ckpt").read_bytes()
    for place in range(len(content) - 110, len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            assert is_found(saved / "flipped.ckpt", flipped), (place, bit)


def test_a_file_cut_off_anywhere_does_not_open(saved):
    content, chance = (saved / "last.ckpt").read_bytes(), random.Random(0)
    lengths = [
        *range(len(content) - 110, len(content)),
        *(chance.randrange(len(content)) for _ in range(50)),
        0,
    ]
    for length in lengths:
        (saved / "cut.ckpt").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            open_checkpoint(str(saved / "cut.ckpt"))


def test_what_is_hashed_is_all_before_the_digest():
    file = io.BytesIO()
    torch.save({"a": 1}, file)
    digest.seal(file)
    assert zipfile.ZipFile(file).comment == file.getvalue()[-78:]


# The one before the last


def damage(path, how: str) -> None:
    content = path.read_bytes()
    changed = {"truncated": content[:500], "empty": b"", "flipped": content[:700] + b"\x55" + content[701:]}
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_of_a_damaged_last_checkpoint_the_one_before_is_taken_and_one_line_said(saved, how):
    damage(saved / "last.ckpt", how)
    said = []
    assert newest(saved, said.append) == saved / "previous.ckpt"
    assert len(said) == 1
    assert f"'{saved / 'last.ckpt'}' is damaged" in said[0]
    assert said[0].endswith("goes on from previous.ckpt, the one before it")
    assert "\n" not in said[0]


def test_a_damaged_checkpoint_is_set_aside_and_never_becomes_the_previous_one(saved):
    damage(saved / "last.ckpt", "truncated")
    bad = (saved / "last.ckpt").read_bytes()
    newest(saved, print)
    save(saved / "last.ckpt", 3)
    steps = [
        torch.load(saved / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("previous", "last")
    ]
    assert steps == [1, 3]
    assert (saved / "damaged.ckpt").read_bytes() == bad


def test_a_run_killed_between_the_two_renames_goes_on_from_the_previous_one(saved):
    (saved / "last.ckpt").replace(saved / "previous.ckpt")
    assert newest(saved, pytest.fail) == saved / "previous.ckpt"


@pytest.mark.parametrize("both", [True, False], ids=["both", "the only one"])
def test_if_all_are_damaged_one_sentence_says_so_and_nothing_is_touched(saved, both):
    damage(saved / "last.ckpt", "flipped")
    if both:
        damage(saved / "previous.ckpt", "empty")
    else:
        (saved / "previous.ckpt").unlink()
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(CheckpointError, match=r"^resume: no checkpoint in .* can be read .* resume=never$"):
        newest(saved, pytest.fail)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_run_that_has_not_saved_begins(tmp_path):
    assert newest(tmp_path / "checkpoints", pytest.fail) is None


def test_a_foreign_checkpoint_put_there_by_hand_is_gone_on_from(saved):
    content = torch.load(saved / "last.ckpt", weights_only=True)
    torch.save(content, saved / "last.ckpt")
    assert newest(saved, pytest.fail) == saved / "last.ckpt"
