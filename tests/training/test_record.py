import csv
import time
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn

from sr_lab.losses.weighted import WeightedLoss
from sr_lab.training.build import TimedDataModule
from sr_lab.training.record import Record, Speed, TimedLoader
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(
    folder: Path,
    steps: int,
    *,
    interval: int = 1,
    ckpt: Path | None = None,
    loss=None,
    callbacks=(),
    **settings: object,
) -> Path:
    """Train with a validation every two steps and a row every ``interval`` steps; return the record."""
    images = tiny.Images("A", 1)
    path = folder / "metrics.csv"
    accumulate = settings.get("accumulate_grad_batches", 1)
    trainer = tiny.trainer(
        folder,
        max_steps=steps,
        val_check_interval=2 * accumulate,
        callbacks=[Record(path, Speed(batch_size=2), interval=interval), *callbacks],
        **settings,
    )
    trainer.fit(
        tiny.sr_module(val=[images], **({} if loss is None else {"loss": loss})),
        tiny.data(val=[images], accumulate=accumulate),
        ckpt_path=None if ckpt is None else str(ckpt),
        weights_only=True,
    )
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return path


def test_the_record_has_a_row_for_each_interval_and_each_validation(tmp_path):
    assert [row["step"] for row in rows(train(tmp_path, 4))] == ["1", "2", "2", "3", "4", "4"]


def test_the_record_has_these_columns(tmp_path):
    with train(tmp_path, 2).open() as file:
        assert file.readline().strip() == (
            "step,time,train/loss,learning_rate,samples_per_s,data_wait,val/psnr_y,val/A/psnr_y,val/A/ssim_y"
        )


def test_a_row_has_values_of_either_training_or_validation(tmp_path):
    for row in rows(train(tmp_path, 2)):
        filled = {key for key, value in row.items() if value} - {"step", "time"}
        assert filled in (
            {"train/loss", "learning_rate", "samples_per_s", "data_wait"},
            {"val/psnr_y", "val/A/psnr_y", "val/A/ssim_y"},
        )


def test_a_loss_in_the_record_is_the_mean_since_the_last_row(tmp_path):
    (tmp_path / "each").mkdir()
    (tmp_path / "both").mkdir()
    each = [float(row["train/loss"]) for row in rows(train(tmp_path / "each", 4)) if row["train/loss"]]
    both = [
        float(row["train/loss"]) for row in rows(train(tmp_path / "both", 4, interval=2)) if row["train/loss"]
    ]
    assert both == pytest.approx([(each[0] + each[1]) / 2, (each[2] + each[3]) / 2])


def test_the_accumulated_batches_of_a_step_make_one_row(tmp_path):
    record = rows(train(tmp_path, 3, accumulate_grad_batches=2))
    assert [row["step"] for row in record if row["train/loss"]] == ["1", "2", "3"]


def test_the_last_step_has_a_row_when_the_interval_does_not_divide_the_steps(tmp_path):
    assert [row["step"] for row in rows(train(tmp_path, 5, interval=3)) if row["train/loss"]] == ["3", "5"]


def without_clock(record: list[dict[str, str]]) -> list[dict[str, str]]:
    return [
        {k: v for k, v in row.items() if k not in ("time", "samples_per_s", "data_wait")} for row in record
    ]


def test_a_resumed_record_equals_the_record_of_an_uninterrupted_run(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = rows(train(tmp_path / "whole", 6))
    train(tmp_path / "parts", 2)
    train(
        tmp_path / "parts", 4, ckpt=tmp_path / "parts" / "2.ckpt"
    )  # dies after step 4; its checkpoint is from step 2
    parts = rows(train(tmp_path / "parts", 6, ckpt=tmp_path / "parts" / "2.ckpt"))
    assert without_clock(parts) == without_clock(whole)


def test_the_terms_of_a_sum_of_losses_have_columns_that_add_up_to_the_loss(tmp_path):
    """Also with accumulated batches, and in a row whose first steps are from before a resume."""

    def loss():
        terms = {"l1": {"weight": 1.0, "loss": nn.L1Loss()}, "l2": {"weight": 0.5, "loss": nn.MSELoss()}}
        return WeightedLoss(terms)

    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:
            if trainer.global_step == 2 and not saved.exists():
                trainer.save_checkpoint(saved)

    saved, own = tmp_path / "saved.ckpt", {"interval": 3, "accumulate_grad_batches": 2}
    whole = rows(train(tmp_path, 6, loss=loss(), callbacks=[Save()], **own))
    assert torch.load(saved, weights_only=True)["loss_terms"].shape == (2, 2)
    resumed = rows(train(tmp_path, 6, ckpt=saved, loss=loss(), **own))
    assert without_clock(resumed) == without_clock(whole)
    written = [row for row in whole if row["train/loss"]]
    assert [row["step"] for row in written] == ["3", "6"]
    for row in written:
        l1, l2 = float(row["train/loss/l1"]), float(row["train/loss/l2"])
        assert l1 + l2 == pytest.approx(float(row["train/loss"]), rel=1e-5)
        assert l1 > l2 > 0


def test_rows_up_to_the_resumed_step_stay_unchanged(tmp_path):
    before = train(tmp_path, 4).read_text()
    after = train(tmp_path, 6, ckpt=tmp_path / "4.ckpt").read_text()
    assert after.startswith(before)


def test_a_run_that_starts_over_starts_a_new_record(tmp_path):
    train(tmp_path, 4)
    assert [row["step"] for row in rows(train(tmp_path, 2))] == ["1", "2", "2"]


def test_rows_are_on_disk_when_the_run_dies(tmp_path):
    class Die(lightning.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("died")

    path = tmp_path / "metrics.csv"
    callbacks = [Record(path, Speed(batch_size=2), interval=1), Die()]
    with pytest.raises(RuntimeError, match="died"):
        tiny.trainer(tmp_path, max_steps=5, limit_val_batches=0, callbacks=callbacks).fit(
            tiny.sr_module(), tiny.data()
        )
    assert [row["step"] for row in rows(path)] == ["1", "2", "3"]


def test_dashboards_get_the_rows_of_the_record(tmp_path):
    logged: list[tuple[int, dict[str, float]]] = []

    class Memory(lightning.pytorch.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None) -> None:
            logged.append((step, dict(metrics)))

    record = rows(train(tmp_path, 2, logger=Memory()))
    ours = [(int(row["step"]), {k: float(v) for k, v in row.items() if v}) for row in record]
    assert [step for step, _ in logged] == [step for step, _ in ours]
    for (_, sent), (_, row) in zip(logged, ours, strict=True):
        assert sent == pytest.approx({k: v for k, v in row.items() if k not in ("step", "time")})


def test_speed_counts_samples_and_excludes_validation(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 3.0, 103.0, 104.0, 105.0, 105.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = Speed(batch_size=8)  # at 0
    batches = iter(TimedLoader("ab", speed))
    next(batches)  # from 0 to 1: waits 1 s
    speed.count()
    speed.pause()  # at 3
    next(batches)  # validation and checkpoint end at 103; waits 1 s more, until 104
    speed.count()
    assert speed.samples_per_s == pytest.approx(16 / 5)
    assert speed.data_wait == pytest.approx(2 / 5)


class Slow(lightning.Callback):
    """Sleeps at the end of each step or validation."""

    def __init__(self, *, step: float = 0.0, validation: float = 0.0) -> None:
        self.seconds = {"step": step, "validation": validation}

    def on_train_batch_end(self, *_: object) -> None:
        time.sleep(self.seconds["step"])

    def on_validation_end(self, *_: object) -> None:
        time.sleep(self.seconds["validation"])


class SlowPatches(tiny.Patches):
    def __getitems__(self, samples):
        time.sleep(0.05)
        return super().__getitems__(samples)


class OneSpan(Speed):
    """Measures one span over all steps instead of one per row."""

    def reset(self) -> None:
        if not hasattr(self, "_start"):
            super().reset()


def measured(folder: Path, train: tiny.Patches, **slow: float) -> Speed:
    """The speed over five steps, with a validation after the second and the fourth step."""
    speed, images = OneSpan(batch_size=2), tiny.Images("A", 1)
    callbacks = [Record(folder / "metrics.csv", speed, interval=100), Slow(**slow)]
    tiny.trainer(folder, max_steps=5, val_check_interval=2, callbacks=callbacks).fit(
        tiny.sr_module(val=[images]), TimedDataModule(train=train, batch_size=2, val=[images])
    )
    return speed


def test_callbacks_do_not_count_as_waiting_and_validation_callbacks_do_not_count_at_all(tmp_path):
    speed = measured(tmp_path, tiny.Patches(), step=0.1, validation=0.3)
    assert speed._waited < 0.4
    assert speed._excluded >= 2 * 0.3


def test_waiting_for_a_slow_loader_is_counted(tmp_path):
    assert measured(tmp_path, SlowPatches())._waited >= 5 * 0.05


class Exploding(nn.Module):
    """An L1 loss that is a thousand times larger from some step on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.steps = first, 0

    def forward(self, sr, hr):
        self.steps += 1
        return (1000 if self.steps >= self.first else 1) * nn.functional.l1_loss(sr, hr)


def test_a_loss_that_explodes_is_reported_once_and_again_after_a_resume(tmp_path, capsys):
    train(tmp_path, 4, loss=Exploding(first=3))
    assert capsys.readouterr().out.count("before step 3, so the run has probably diverged") == 1
    train(tmp_path, 6, loss=Exploding(first=1), ckpt=tmp_path / "4.ckpt")
    assert capsys.readouterr().out.count("before step 5, so the run has probably diverged") == 1


def test_a_loss_that_falls_or_rises_a_little_is_not_reported(tmp_path, capsys):
    train(tmp_path, 4)
    assert "diverged" not in capsys.readouterr().out
