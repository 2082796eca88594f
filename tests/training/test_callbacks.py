import csv
import io
import time
import types
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sr_lab.ops.resize import mod_crop
from sr_lab.reporting import saved_images
from sr_lab.run_folder import RunFolder
from sr_lab.training.callbacks import (
    ExampleImages,
    NoProfiler,
    Record,
    Speed,
    TrainingProgress,
    ValidateAtEnd,
    WeightAverage,
    watchers,
    without_idle_hooks,
)
from sr_lab.training.checkpointing import DurableCheckpointIO
from sr_lab.training.lit_module import Measured
from tests import tiny

pytestmark = [
    # Lightning's own code, and its advice for long trainings
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(
    folder: Path, steps: int, *, interval: int = 1, ckpt: Path | None = None, **settings: object
) -> Path:
    """Train with a validation every two steps and a row every ``interval``; returns the record."""
    images = tiny.Images("A", 1)
    speed = Speed(batch_size=2)
    path = folder / "metrics.csv"
    accumulate = settings.get("accumulate_grad_batches", 1)
    trainer = tiny.trainer(
        folder,
        max_steps=steps,
        val_check_interval=2 * accumulate,
        callbacks=[speed, Record(path, speed, interval=interval)],
        **settings,
    )
    trainer.fit(
        tiny.sr_module(val=[images]),
        tiny.data(val=[images], accumulate=accumulate),
        ckpt_path=None if ckpt is None else str(ckpt),
        weights_only=True,
    )
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return path


def test_the_record_has_a_row_per_interval_and_per_validation(tmp_path):
    assert [row["step"] for row in rows(train(tmp_path, 4))] == ["1", "2", "2", "3", "4", "4"]


def test_the_record_has_these_columns(tmp_path):
    with train(tmp_path, 2).open() as file:
        assert file.readline().strip() == (
            "step,time,train/loss,learning_rate,samples_per_s,data_wait,val/psnr_y,val/A/psnr_y,val/A/ssim_y"
        )


def test_a_row_holds_either_training_or_validation(tmp_path):
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


def test_accumulated_batches_make_one_row(tmp_path):
    record = rows(train(tmp_path, 3, accumulate_grad_batches=2))
    assert [row["step"] for row in record if row["train/loss"]] == ["1", "2", "3"]


def test_the_last_step_has_a_row_when_the_interval_does_not_divide_the_steps(tmp_path):
    assert [row["step"] for row in rows(train(tmp_path, 5, interval=3)) if row["train/loss"]] == ["3", "5"]


def without_clock(record: list[dict[str, str]]) -> list[dict[str, str]]:
    return [
        {k: v for k, v in row.items() if k not in ("time", "samples_per_s", "data_wait")} for row in record
    ]


def test_a_resumed_record_is_that_of_an_uninterrupted_run(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = rows(train(tmp_path / "whole", 6))
    train(tmp_path / "parts", 2)
    train(
        tmp_path / "parts", 4, ckpt=tmp_path / "parts" / "2.ckpt"
    )  # died after step 4, its checkpoint is at 2
    parts = rows(train(tmp_path / "parts", 6, ckpt=tmp_path / "parts" / "2.ckpt"))
    assert without_clock(parts) == without_clock(whole)


def test_rows_up_to_the_resumed_step_stay_as_they_were(tmp_path):
    before = train(tmp_path, 4).read_text()
    after = train(tmp_path, 6, ckpt=tmp_path / "4.ckpt").read_text()
    assert after.startswith(before)


def test_a_run_that_starts_over_starts_its_record_over(tmp_path):
    train(tmp_path, 4)
    assert [row["step"] for row in rows(train(tmp_path, 2))] == ["1", "2", "2"]


def test_rows_are_on_disk_when_the_run_dies(tmp_path):
    class Die(lightning.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("died")

    speed = Speed(batch_size=2)
    path = tmp_path / "metrics.csv"
    callbacks = [speed, Record(path, speed, interval=1), Die()]
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


def test_speed_counts_samples_and_leaves_validation_out(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 3.0, 103.0, 104.0, 105.0, 105.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = Speed(batch_size=8)  # at 0
    batches = speed.timed(iter("ab"))
    next(batches)  # at 0, at 1: waited 1 s
    speed.on_train_batch_end()
    speed.on_validation_start(None, None)  # at 3
    next(batches)  # at 103: that was validation and its checkpoint; at 104: waited 1 s more
    speed.on_train_batch_end()
    assert speed.samples_per_s == pytest.approx(16 / 5)
    assert speed.data_wait == pytest.approx(2 / 5)


class Slow(lightning.Callback):
    """Does something else at the end of steps or validations, and for long."""

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


def measured(folder: Path, train: tiny.Patches, **slow: float) -> Speed:
    """Speed over five steps, with a validation after the second and fourth."""
    speed, images = Speed(batch_size=2), tiny.Images("A", 1)
    callbacks = [speed, Slow(**slow)]
    tiny.trainer(folder, max_steps=5, val_check_interval=2, callbacks=callbacks).fit(
        tiny.sr_module(val=[images]), tiny.data(train=train, val=[images])
    )
    return speed


def test_what_callbacks_do_is_no_wait_for_data_and_after_a_validation_belongs_to_it(tmp_path):
    speed = measured(tmp_path, tiny.Patches(), step=0.1, validation=0.3)
    assert speed._waited < 0.4
    assert speed._excluded >= 2 * 0.3


def test_a_slow_loader_is_waited_for(tmp_path):
    assert measured(tmp_path, SlowPatches())._waited >= 5 * 0.05


# Checkpoints


def test_a_checkpoint_reads_back_with_weights_only(tmp_path):
    DurableCheckpointIO().save_checkpoint({"w": torch.ones(3), "epoch": 1}, tmp_path / "new" / "a.ckpt")
    read = torch.load(tmp_path / "new" / "a.ckpt", weights_only=True)
    assert read["epoch"] == 1
    assert torch.equal(read["w"], torch.ones(3))


def test_a_training_checkpoint_reads_back_with_weights_only(tmp_path):
    train(tmp_path, 2, plugins=[DurableCheckpointIO()])
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
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


def test_a_checkpoint_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []

    def replace(source, target) -> None:
        seen.append((torch.load(source, weights_only=True), Path(source).parent == Path(target).parent))
        Path(source).rename(target)

    monkeypatch.setattr("os.replace", replace)
    DurableCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert seen == [({"step": 1}, True)]


# Example images


def example(folder: Path, *, size: int = 8, height: int = 24, width: int = 30, channels: int = 3) -> Measured:
    """Save the strip of one random image under ``folder``."""
    torch.manual_seed(0)
    hr = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    outputs: Measured = {
        "lr": tiny.PROTOCOL.make_lr(hr, 2),
        "bicubic": torch.rand(1, 3, height, width, dtype=torch.float64),
        "sr": torch.rand(1, channels, height, width),
        "set_name": "Set",
        "image": "photo",
        "figures": torch.tensor([30.0, 0.9, 29.0, 0.8]),
    }
    module, trainer, watcher = tiny.sr_module(), tiny.trainer(folder), ExampleImages(folder, size=size)
    watcher.on_test_start(trainer, module)
    watcher.on_test_batch_end(trainer, module, outputs, {"hr": hr, "place": 0, "of": 9}, batch_idx=0)
    watcher.on_test_end(trainer, module)
    return outputs | {"hr": hr}


def panes(file: Path, size: int) -> list[np.ndarray]:
    """The five crops of a strip, with two white columns between them."""
    pixels = np.asarray(Image.open(file))
    assert pixels.shape == (size, 5 * size + 8, 3)
    for number in range(1, 5):
        assert (pixels[:, number * (size + 2) - 2 : number * (size + 2)] == 255).all()
    return [pixels[:, number * (size + 2) : number * (size + 2) + size] for number in range(5)]


def middle(image: Tensor, top: int, left: int, size: int) -> np.ndarray:
    """A crop as 8-bit pixels."""
    crop = image[0, :, top : top + size, left : left + size].float()
    return (crop.clamp(0, 1) * 255 + 0.5).floor().byte().permute(1, 2, 0).numpy()


def test_the_strip_shows_lr_bicubic_sr_hr_and_error_of_the_middle(tmp_path):
    shown = example(tmp_path)
    lr, bicubic, sr, hr, error = panes(tmp_path / "Set_photo.png", 8)
    top, left = 8, 8  # (24 - 8) / 2: the image is 24x30, of which a multiple of 24 counts
    assert np.array_equal(hr, middle(shown["hr"] / 255, top, left, 8))
    assert np.array_equal(sr, middle(shown["sr"], top, left, 8))
    assert np.array_equal(bicubic, middle(shown["bicubic"], top, left, 8))
    small = middle(shown["lr"], top // 2, left // 2, 4)
    assert np.array_equal(lr, small.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(error, middle((shown["sr"] - shown["hr"] / 255).abs() * 4, top, left, 8))


def test_a_crop_is_no_larger_than_the_image(tmp_path):
    example(tmp_path, size=1000, height=22)
    assert len(panes(tmp_path / "Set_photo.png", 22)) == 5


@pytest.mark.parametrize(("height", "width"), [(95, 119), (96, 121), (100, 151)])
def test_the_strip_is_of_the_same_place_at_each_scale(tmp_path, height, width):
    photo = tiny.Images("Set", 1, height=height, width=width).hr[0]
    crops = []
    for scale in (2, 3, 4, 8):
        hr = mod_crop(photo, scale)[None]
        outputs: Measured = {
            "lr": tiny.PROTOCOL.make_lr(hr, scale),
            "bicubic": torch.rand(hr.shape),
            "sr": torch.rand(hr.shape),
            "set_name": "Set",
            "image": str(scale),
            "figures": torch.tensor([30.0, 0.9, 29.0, 0.8]),
        }
        module = tiny.sr_module(scale=scale, network=tiny.TinyNet(scale=scale))
        trainer, callback = tiny.trainer(tmp_path), ExampleImages(tmp_path, size=50)
        callback.on_test_start(trainer, module)
        callback.on_test_batch_end(trainer, module, outputs, {"hr": hr, "place": 0, "of": 9}, batch_idx=0)
        callback.on_test_end(trainer, module)
        crops.append(panes(tmp_path / f"Set_{scale}.png", 50)[3])
    assert all(np.array_equal(crop, crops[0]) for crop in crops)


@pytest.mark.parametrize(("kind", "factor"), [("lr", 1), ("bicubic", 1), ("sr", 1), ("hr", 255)])
def test_the_first_images_are_kept_whole_as_they_were_measured(tmp_path, kind, factor):
    kept = example(tmp_path)
    shown = np.asarray(Image.open(saved_images.place(tmp_path, "Set", "photo", kind)))
    height, width = kept[kind].shape[-2:]
    assert shown.shape == (height, width, 3)
    assert np.array_equal(shown, (kept[kind][0].float() / factor * 255 + 0.5).byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("count", "kept"), [(5, 5), (6, 1)])
def test_a_small_set_is_kept_whole(tmp_path, count, kept):
    images = tiny.Images("A", count)
    tiny.trainer(tmp_path, callbacks=[ExampleImages(tmp_path / "images", count=1, size=8)]).test(
        tiny.sr_module(test=[images]), datamodule=tiny.data(test=[images]), verbose=False
    )
    assert len(list((tmp_path / "images" / "A").glob("*.sr.png"))) == kept


def test_a_network_that_restores_luma_has_a_strip_too(tmp_path):
    example(tmp_path, channels=1)
    assert (tmp_path / "Set_photo.png").is_file()


@pytest.mark.parametrize(("count", "shown"), [(1, ["A0", "B0"]), (3, ["A0", "A1", "B0", "B1"])])
def test_the_first_images_of_each_set_are_shown(tmp_path, count, shown):
    sets = [tiny.Images("A", 2), tiny.Images("B", 2)]
    tiny.trainer(tmp_path, callbacks=[ExampleImages(tmp_path / "images", count=count, size=8)]).test(
        tiny.sr_module(test=sets), datamodule=tiny.data(test=sets), verbose=False
    )
    names = sorted(file.name for file in (tmp_path / "images").glob("*.png"))
    assert names == [f"{name[0]}_image{name[1]}.png" for name in shown]


# Progress


def progress(folder: Path, *, terminal: bool) -> str:
    """What a training with the progress bar writes."""
    speed = Speed(batch_size=2)
    bar = TrainingProgress(speed)
    screen = io.StringIO()
    bar.console = Console(file=screen, force_terminal=terminal, width=160)
    images = tiny.Images("A", 1)
    trainer = tiny.trainer(
        folder, max_steps=3, val_check_interval=1, enable_progress_bar=True, callbacks=[speed, bar]
    )
    trainer.fit(tiny.sr_module(val=[images]), tiny.data(val=[images]))
    return screen.getvalue()


def test_the_progress_bar_is_silent_where_nobody_watches(tmp_path, capfd):
    assert progress(tmp_path, terminal=False) == ""
    assert capfd.readouterr().out == ""


def test_the_progress_bar_says_steps_loss_psnr_speed_and_wait(tmp_path):
    shown = progress(tmp_path, terminal=True)
    for word in ("3/3 steps", "loss ", "val PSNR ", " dB", "samples/s", "data "):
        assert word in shown


def test_the_progress_bar_gives_the_terminal_back_after_an_error(tmp_path):
    bar = TrainingProgress(Speed(batch_size=2))
    bar.console = Console(file=io.StringIO(), force_terminal=True)
    trainer = tiny.trainer(tmp_path)
    bar.on_train_start(trainer, tiny.sr_module())
    bar.on_exception(trainer, tiny.sr_module(), RuntimeError("died"))
    assert "\x1b[?25h" in bar.console.file.getvalue()  # the cursor is shown again


# At the end


def test_the_last_step_is_validated_when_the_interval_does_not_divide_the_steps(tmp_path):
    images = tiny.Images("A", 1)
    speed = Speed(batch_size=2)
    record = Record(tmp_path / "metrics.csv", speed, interval=1)
    tiny.trainer(tmp_path, max_steps=5, val_check_interval=2, callbacks=[speed, record, ValidateAtEnd()]).fit(
        tiny.sr_module(val=[images]), tiny.data(val=[images])
    )
    validated = [row["step"] for row in rows(tmp_path / "metrics.csv") if row["val/psnr_y"]]
    assert validated == ["2", "4", "5"]


def test_every_run_is_watched_by_these(tmp_path):
    callbacks = watchers(RunFolder(tmp_path), batch_size=1, row_interval=1)
    assert [type(callback).__name__ for callback in callbacks] == [
        "Speed",
        "Record",
        "TrainingProgress",
        "ExampleImages",
    ]


# What a step costs


def averaged(folder: Path, average: lightning.Callback, **settings: object) -> tuple[dict[str, Tensor], int]:
    """Averaged weights after three steps, and how many went into them."""
    module = tiny.sr_module(learning_rate=0.1)
    steps = tiny.trainer(folder, max_steps=3, limit_val_batches=0, callbacks=[average], **settings)
    steps.fit(module, tiny.data(accumulate=settings.get("accumulate_grad_batches", 1)))
    steps.save_checkpoint(folder / "a.ckpt")
    checkpoint = torch.load(folder / "a.ckpt", weights_only=True)
    return checkpoint["state_dict"], int(checkpoint["averaging_state"]["n_averaged"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_of_the_weights_is_lightnings(tmp_path, accumulate):
    ours, count = averaged(tmp_path, WeightAverage(0.75), accumulate_grad_batches=accumulate)
    theirs, expected = averaged(tmp_path, EMAWeightAveraging(decay=0.75), accumulate_grad_batches=accumulate)
    assert count == expected == 3
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def test_batch_statistics_are_averaged_and_their_count_is_taken_over():
    average, module = WeightAverage(0.75), nn.BatchNorm1d(2)
    trainer = types.SimpleNamespace(global_step=1)
    average._average_model = AveragedModel(module)
    average.on_train_start(trainer, module)
    average.on_train_batch_end(trainer, module)
    module.running_mean += 8
    module.num_batches_tracked += 5
    trainer.global_step = 2
    average.on_train_batch_end(trainer, module)
    kept = average._average_model.module
    assert kept.running_mean.tolist() == [2.0, 2.0]  # a quarter of the way
    assert int(kept.num_batches_tracked) == 5


def test_a_step_of_the_average_walks_through_no_module(monkeypatch):
    average, module = WeightAverage(0.9), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    trainer = types.SimpleNamespace(global_step=1)
    average._average_model = AveragedModel(module)
    average.on_train_start(trainer, module)
    expected = [value.detach().clone() for value in module.parameters()]
    means = list(average._average_model.module.parameters())
    weights = list(module.parameters())
    monkeypatch.setattr(nn.Module, "_named_members", lambda *_, **__: pytest.fail("walked"))
    average.on_train_batch_end(trainer, module)
    for step in range(2, 5):
        for value in weights:
            value.data.add_(step / 7)
        expected = [
            torch.lerp(mean, value.detach(), 1 - 0.9) for mean, value in zip(expected, weights, strict=True)
        ]
        trainer.global_step = step
        average.on_train_batch_end(trainer, module)
    assert all(torch.equal(mean, value) for mean, value in zip(means, expected, strict=True))
    assert all(mean.grad_fn is None for mean in means)


def test_hooks_that_nobody_wrote_are_taken_away_and_the_others_stay():
    class Watch(lightning.Callback):
        def on_after_backward(self, *_: object) -> None:
            """One hook."""

    watch = without_idle_hooks(Watch())
    assert watch.on_train_batch_start is None
    assert callable(watch.on_after_backward)
    assert callable(watch.on_train_start)


def test_a_training_without_idle_hooks_and_profiler_is_the_same(tmp_path):
    seen: list[str] = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, *_: object) -> None:
            seen.append("step")

    def weights(
        module: lightning.LightningModule, *callbacks: lightning.Callback, **settings: object
    ) -> Tensor:
        tiny.trainer(tmp_path, max_steps=3, limit_val_batches=0, callbacks=list(callbacks), **settings).fit(
            module, tiny.data()
        )
        return module.network.head.weight

    lean = weights(without_idle_hooks(tiny.sr_module()), without_idle_hooks(Watch()), profiler=NoProfiler())
    assert torch.equal(lean, weights(tiny.sr_module()))
    assert seen == ["step"] * 3
