import dataclasses
from pathlib import Path

import hydra
import pytest
import torch
from PIL import Image

from sr_lab.config import code
from sr_lab.config.identity import folder_name, hash8, identity, register_resolvers, run_identity
from sr_lab.config.identity_record import code_note
from sr_lab.errors import SRLabError
from sr_lab.files import conf_dir
from sr_lab.run_folder import RunFolder
from sr_lab.system import devices
from tests.composing import compose

BASE = ("trainer=cpu", "budget=short", "model=imdn")


def hash_of(*overrides: str) -> str:
    return hash8(identity(compose(*BASE, *overrides)))


@pytest.fixture(scope="module")
def base() -> str:
    return hash_of()


NEUTRAL = (
    ("paths.data_dir=/elsewhere",),
    ("paths.output_dir=/elsewhere",),
    ("paths.cache_dir=/elsewhere",),
    ("logger=none",),
    ("logger=csv",),
    ("+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor",),
    ("num_workers=0",),
    ("trainer.devices=2",),
    ("trainer.accumulate_grad_batches=2",),  # batch_size includes accumulation
    ("trainer.compile=true",),
    ("trainer.channels_last=true",),
    ("trainer.precision=32-true",),  # auto means this on a CPU
    ("resume=never",),
    ("benchmark=set5",),
    ("benchmark.lr=given",),  # the held-out images get LR images from 8-bit RGB in any case
    ("experiment_name=other",),
    ("run_name=other",),
)
CHANGING = (
    "model=osffnet",
    "+model.num_feat=32",
    "upsampler=deconv",
    "schedule=step",
    "schedule.interval=epoch",
    "schedule.scheduler.eta_min=0.0",
    "dataset.lr_patch_size=16",
    "+dataset.augment=false",
    "loss=charbonnier",
    "optimizer=adamw",
    "+optimizer.betas=[0.9,0.99]",
    "scale=2",
    "seed=1",
    "steps=10",
    "steps_per_epoch=500",
    "batch_size=4",
    "learning_rate=1e-3",
    "ema_decay=0.999",
    "budget=smoke",
    "trainer.precision=bf16-mixed",
    "trainer.gradient_clip_val=0.5",
    "trainer.float32_matmul_precision=highest",
    "callbacks=early_stopping",
    "+callbacks.mean._target_=lightning.pytorch.callbacks.EMAWeightAveraging",
)


@pytest.mark.parametrize("overrides", NEUTRAL, ids=lambda overrides: overrides[0])
def test_the_hash_ignores_settings_that_cannot_change_the_result(base, overrides):
    assert hash_of(*overrides) == base


@pytest.mark.parametrize("override", CHANGING)
def test_the_hash_changes_with_settings_that_can_change_the_result(base, override):
    assert hash_of(override) != base


def test_the_hash_includes_the_settings_but_not_the_name_of_a_callback_that_stops_a_run():
    stops = (
        "callbacks.{}={{_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/psnr_y,patience:{}}}"
    )
    one, same, other = (hash_of(f"+{stops.format(*how)}") for how in (("a", 1), ("b", 1), ("a", 2)))
    assert one == same != other


def test_the_hash_on_a_gpu_includes_the_requested_precision(monkeypatch):
    def hash_on_a_gpu(precision: str, capability: tuple[int, int] = (7, 0)) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
            return hash8(identity(config(precision)))

    def config(precision: str):
        return compose("budget=short", "model=imdn", f"trainer.precision={precision}")

    assert hash_on_a_gpu("auto") == hash_on_a_gpu("auto", (8, 0))
    assert hash_on_a_gpu("16-mixed") == hash_of("trainer.precision=16-mixed", "trainer.accelerator=auto")
    assert identity(config("auto"))["precision"] == "32-true"  # this machine has no GPU


def test_the_automatic_budget_has_the_hash_of_the_budget_that_it_chooses(base):
    assert hash_of("budget=auto") == base


def photographs(folder: Path, sizes: list[int]) -> tuple[str, ...]:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.effect_noise((size, size), 50).convert("RGB").save(folder / f"{number}.png")
    return ("dataset=folder", f"dataset.hr_dir='{folder}'")


def test_the_hash_changes_with_the_images_and_not_with_their_folder(tmp_path):
    first = hash_of(*photographs(tmp_path / "a", [40, 41]))
    (tmp_path / "a").rename(tmp_path / "moved")
    assert hash_of("dataset=folder", f"dataset.hr_dir='{tmp_path}/moved'") == first
    assert hash_of(*photographs(tmp_path / "b", [40, 60])) != first


def test_the_hash_changes_with_the_content_of_a_checkpoint_and_not_with_its_name(tmp_path):
    for name, value in (("a", 1.0), ("same", 1.0), ("b", 2.0)):
        torch.save({"w": torch.tensor(value)}, tmp_path / "weights.pth")
        (tmp_path / "weights.pth").rename(tmp_path / f"{name}.pth")
    first, same, other = (hash_of(f"init_ckpt='{tmp_path}/{name}.pth'") for name in ("a", "same", "b"))
    assert first == same != other
    assert first != hash_of()


def test_the_hash_of_a_complexity_run_covers_the_code_of_the_network(monkeypatch):
    words = ("task=complexity", "model=imdn", "trainer=cpu")
    before = identity.__wrapped__(compose(*words))
    read = code._read
    monkeypatch.setattr(code, "_read", lambda name: dataclasses.replace(read(name), digest="edited"))
    after = identity.__wrapped__(compose(*words))
    assert hash8(after) != hash8(before)
    assert {**after, "code": before["code"]} == before


def test_the_hash_of_a_complexity_run_covers_the_devices_that_it_measures(monkeypatch):
    def hash_on(*overrides: str, gpu: str = "", threads: int = 4, name: str = "a CPU") -> str:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
            patch.setattr(torch.cuda, "get_device_name", lambda *_: gpu)
            patch.setattr(torch, "get_num_threads", lambda: threads)
            patch.setattr(devices, "processor", lambda: name)
            return hash8(identity.__wrapped__(compose("task=complexity", "model=imdn", *overrides)))

    plain = hash_on()
    assert hash_on("trainer=cpu", gpu="H200") == plain
    others = [hash_on(gpu="H200"), hash_on(gpu="V100"), hash_on(threads=8), hash_on(name="another CPU")]
    assert len({plain, *others}) == 5


def test_the_hash_covers_every_callback_that_the_user_defines(base, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_callbacks.py").write_text("import lightning\nclass Freeze(lightning.Callback): ...\n")
    words = ("allow=[own_callbacks]", "+callbacks.freeze._target_=own_callbacks.Freeze")
    assert hash_of(*words) != base
    assert "own_callbacks" in identity(compose(*BASE, *words))["code"]


def test_a_missing_checkpoint_is_reported(tmp_path):
    with pytest.raises(SRLabError, match=r"init_ckpt: there is no file '.*nowhere.pth'"):
        hash_of(f"init_ckpt='{tmp_path}/nowhere.pth'")


@pytest.mark.parametrize(
    "override", ["benchmark=set5", "benchmark.protocol=classic_y", "model=bicubic", "scale=2"]
)
def test_the_hash_of_an_evaluation_changes_with_what_it_measures(override):
    base = ("task=evaluate", "trainer=cpu", "model=imdn")
    assert hash8(identity(compose(*base, override))) != hash8(identity(compose(*base)))


def test_the_hash_of_an_evaluation_ignores_the_folder_of_its_images():
    base = ("task=evaluate", "trainer=cpu", "model=imdn")
    assert hash8(identity(compose(*base, "paths.data_dir=/elsewhere"))) == hash8(identity(compose(*base)))


def test_the_hash_function_never_changes():
    """The hash is a prefix of the SHA-256 of JSON with sorted keys; if it changed, no run would be found."""
    assert hash8({"b": [1, 2.5, None], "a": 1, "c": {"e": True, "d": "x"}}) == "87b400cb"


def test_the_order_of_keys_does_not_matter():
    assert hash8({"a": 1, "b": {"c": 2, "d": 3}}) == hash8({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_name_of_the_folder_is_the_run_name_and_the_hash(tmp_path, base):
    assert folder_name(compose(*BASE), tmp_path) == f"imdn_x4_short-{base}"


def run_dir(*overrides: str) -> str:
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("config", list(overrides), return_hydra_config=True)
    return composed.hydra.run.dir


def test_a_run_that_was_interrupted_before_it_recorded_its_code_gets_no_note_about_code(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.attempt():
        assert folder.has_begun()
    assert code_note(run_identity(compose("trainer=cpu")), folder) is None


def test_hydra_gets_the_run_folder_from_the_identity(base):
    folder = run_dir(*BASE, "paths.output_dir=/out", "experiment_name=imfm/table3")
    assert folder == f"/out/imfm/table3/imdn_x4_short-{base}"


def test_another_task_writes_next_to_the_training_folder():
    assert run_dir("paths.output_dir=/out", "task=complexity", "model=imdn").startswith(
        "/out/complexity/imdn_x4"
    )


def test_a_report_is_written_to_the_folder_of_the_runs():
    assert run_dir("task=report", "runs=/some/runs") == "/some/runs"


def test_a_renamed_run_keeps_its_folder(tmp_path, base):
    (tmp_path / f"first_name-{base}").mkdir()
    assert folder_name(compose(*BASE, "run_name=second_name"), tmp_path) == f"first_name-{base}"
