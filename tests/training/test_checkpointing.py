"""Parts of resuming that the killed runs in ``tests/reliability`` do not cover."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from sr_lab import files
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.system.signals import Signals
from sr_lab.training.checkpointing import Checkpoints, DurableCheckpointIO, RandomState
from sr_lab.training.ending import SaveLast
from sr_lab.training.record import Record, Speed
from sr_lab.training.resume import check_resume
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty"),
]


def train(
    folder: Path,
    steps: int,
    *callbacks: object,
    ckpt: str | None = None,
    rate: float = 1e-3,
    accumulate: int = 1,
    plugins: Sequence[object] = (),
    **settings: object,
) -> None:
    """Train with a validation and a checkpoint every two steps; resume like ``task=train``."""
    images, kept = tiny.Images("A", 1), folder / "checkpoints"
    trainer = tiny.trainer(
        folder,
        max_steps=steps,
        val_check_interval=2 * accumulate,
        accumulate_grad_batches=accumulate,
        enable_checkpointing=True,
        callbacks=[*callbacks, Checkpoints(kept), SaveLast(kept / "last.ckpt", Signals())],
        plugins=[DurableCheckpointIO(), *plugins],
    )
    module = tiny.sr_module(val=[images], learning_rate=rate, **settings)
    if ckpt is not None:
        check_resume(Path(ckpt), trainer, module)
    data = tiny.data(val=[images], accumulate=accumulate)
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)


def saved(folder: Path, name: str) -> dict[str, object]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_the_last_two_checkpoints_and_the_best_one_are_kept(tmp_path):
    train(tmp_path, 6)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        *("best.ckpt", "last.ckpt", "previous.ckpt")
    ]
    assert [saved(tmp_path, name)["global_step"] for name in ("previous", "last")] == [4, 6]


def test_the_last_checkpoint_is_saved_even_if_validation_does_not_improve(tmp_path):
    train(tmp_path, 6, rate=0.0)
    assert [saved(tmp_path, name)["global_step"] for name in ("best", "previous", "last")] == [2, 4, 6]


def test_the_best_score_is_known_after_the_folder_has_moved(tmp_path):
    train(tmp_path / "here", 4, rate=0.0)
    best = (tmp_path / "here" / "checkpoints" / "best.ckpt").read_bytes()
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(tmp_path / "there", 8, ckpt=str(tmp_path / "there" / "checkpoints" / "last.ckpt"), rate=0.0)
    assert saved(tmp_path / "there", "last")["global_step"] == 8
    assert (
        tmp_path / "there" / "checkpoints" / "best.ckpt"
    ).read_bytes() == best  # an equal score is not better
    assert not (tmp_path / "here").exists()


def test_the_score_of_a_plateau_is_known_after_a_resume(tmp_path):
    train(tmp_path / "whole", 6, rate=0.0)
    train(tmp_path / "parts", 2, rate=0.0)
    train(tmp_path / "parts", 6, ckpt=str(tmp_path / "parts" / "checkpoints" / "last.ckpt"), rate=0.0)

    def scores(name: str) -> list[object]:
        return [state["current_score"] for state in saved(tmp_path / name, "last")["callbacks"].values()]

    assert scores("whole") == scores("parts")
    assert any(score is not None for score in scores("whole"))


def test_losses_that_are_not_yet_in_a_row_are_part_of_a_checkpoint(tmp_path):
    def train_with_record(name: str, *callbacks: object, ckpt: str | None = None) -> list[str]:
        """Train with a row every three steps; return the losses of the record."""
        path = tmp_path / name / "metrics.csv"
        train(tmp_path / name, 6, Record(path, Speed(batch_size=2), interval=3), *callbacks, ckpt=ckpt)
        return [row["train/loss"] for row in whole_rows(path) if row["train/loss"]]

    class DiedError(Exception):
        """Raised after the checkpoint of step 4; the loss of that step belongs to the row of step 6."""

    class Die(lightning.Callback):
        def on_train_batch_start(self, trainer, *_: object) -> None:
            if trainer.global_step == 4:
                raise DiedError

    with pytest.raises(DiedError):
        train_with_record("parts", Die())
    parts = train_with_record("parts", ckpt=str(tmp_path / "parts" / "checkpoints" / "last.ckpt"))
    assert len(parts) == 2
    assert parts == train_with_record("whole")


def test_each_random_generator_continues_from_its_saved_state(tmp_path):
    drawn = []

    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    class Draw(RandomState):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if not drawn:
                drawn.append(draw())

        def on_train_start(self, trainer, pl_module) -> None:
            super().on_train_start(trainer, pl_module)
            if trainer.global_step:
                drawn.append(draw())

    train(tmp_path, 2, Draw())
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    train(tmp_path, 4, Draw(), ckpt=str(tmp_path / "checkpoints" / "best.ckpt"))
    assert drawn[0] == drawn[1]


def test_a_checkpoint_reads_back_with_weights_only(tmp_path):
    DurableCheckpointIO().save_checkpoint({"w": torch.ones(3), "epoch": 1}, tmp_path / "new" / "a.ckpt")
    read = torch.load(tmp_path / "new" / "a.ckpt", weights_only=True)
    assert read["epoch"] == 1
    assert torch.equal(read["w"], torch.ones(3))


def test_a_training_checkpoint_reads_back_with_weights_only(tmp_path):
    train(tmp_path, 2)
    checkpoint = saved(tmp_path, "last")
    assert {"state_dict", "optimizer_states", "lr_schedulers", "sr_lab"} <= set(checkpoint)


def test_a_write_that_fails_keeps_the_old_checkpoint_and_leaves_nothing_behind(tmp_path, monkeypatch):
    writer, target = DurableCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"step": 1}, target)

    def half(checkpoint, file) -> None:
        file.write(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        writer.save_checkpoint({"step": 2}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_checkpoint_is_complete_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []

    def replace(source, target) -> None:
        seen.append((torch.load(source, weights_only=True), Path(source).parent == Path(target).parent))
        Path(source).rename(target)

    monkeypatch.setattr("os.replace", replace)
    DurableCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert seen == [({"step": 1}, True)]


# Files that a killed process leaves behind


def test_only_our_own_temporary_files_are_removed(tmp_path):
    ours = [".last.ckpt." + "0a" * 16 + ".tmp", "..hidden." + "f" * 32 + ".tmp"]
    others = [
        ".last.ckpt.tmp",
        "last.ckpt." + "0a" * 16 + ".tmp",
        ".a." + "0A" * 16 + ".tmp",
        ".keep",
        "a.tmp",
    ]
    for name in ours + others:
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_an_attempt_removes_leftovers_of_a_killed_attempt_only_in_folders_where_a_run_writes(tmp_path):
    name = ".a." + "0" * 32 + ".tmp"
    folder = RunFolder(tmp_path)
    removed = [tmp_path, folder.checkpoints, folder.images / "Set5"]
    for place in (*removed, tmp_path / "wandb"):
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    with folder.attempt():
        assert [(place / name).exists() for place in removed] == [False] * 3
    assert (tmp_path / "wandb" / name).exists()


def test_truncated_or_damaged_rows_are_left_out(tmp_path):
    record = tmp_path / "metrics.csv"
    record.write_bytes(
        b"step,time,train/loss\r\n1,5.0,0.5\r\n\x00\x00\x00\x00\r\n2,6\r\n\xff,7.0,1\r\n3,8.0,0.25\r\n"
        + b"9" * 5000
        + b",9.0,0.1\r\n4"
    )
    assert [row["step"] for row in whole_rows(record)] == ["1", "3"]


def test_a_missing_record_has_no_rows(tmp_path):
    assert whole_rows(tmp_path / "metrics.csv") == []


def test_replacing_a_file_keeps_the_old_one_under_another_name(tmp_path):
    for content in (b"1", b"2", b"3"):
        with files.replacing(tmp_path / "a", keep="b") as file:
            file.write(content)
    assert ((tmp_path / "b").read_bytes(), (tmp_path / "a").read_bytes()) == (b"2", b"3")


def test_a_replacement_that_fails_moves_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"0")
    with pytest.raises(OSError, match="full"), files.replacing(tmp_path / "a", keep="b"):
        raise OSError("full")
    assert ((tmp_path / "b").read_bytes(), (tmp_path / "a").read_bytes()) == (b"0", b"1")
