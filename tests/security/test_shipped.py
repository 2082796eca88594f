"""A stranger's run folder that is gone on with, shards that are streamed, photographs that are looked at."""

import json
import os
import random
import shutil
from pathlib import Path

import fsspec
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import optim
from torch.optim import lr_scheduler

from sr_lab import files
from sr_lab.config.messages import explain
from sr_lab.config.schema import DoctorConfig
from sr_lab.datasets import shards
from sr_lab.datasets.images import read_image
from sr_lab.datasets.shards import Shards, read_index
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.run_folder import RunFolder
from sr_lab.run_folder import read_index as read_sweep
from sr_lab.tasks import doctor
from sr_lab.tasks.train import _check_same
from sr_lab.training.callbacks import WeightAverage
from sr_lab.training.checkpointing import DurableCheckpointIO, RandomState
from tests import tiny
from tests.conftest import compose
from tests.loopback import serving
from tests.training.test_checkpointing import pytestmark, saved, train  # noqa: F401 - the warnings of a training

# Run folders


def forge(folder: Path, victim: str) -> None:
    """Let the callbacks' states of ``last.ckpt`` say that the next checkpoint takes the place of a victim."""
    content = saved(folder, "last")
    for name, state in content["callbacks"].items():
        if name.startswith("Checkpoints"):
            worst = torch.tensor(-1.0)
            state |= {"best_model_path": victim, "kth_best_model_path": victim, "kth_value": worst}
            state |= {"best_model_score": worst, "best_k_models": {victim: worst}}
    DurableCheckpointIO().save_checkpoint(content, folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "way", ["../../precious", "../../precious/best.ckpt", "..", "photo.png", "folder.ckpt"]
)
def test_going_on_removes_nothing_that_a_checkpoint_names(tmp_path, way):
    run = tmp_path / "run"
    train(run, 2)
    for file in (tmp_path / "precious" / "best.ckpt", run / "checkpoints" / "folder.ckpt" / "x"):
        file.parent.mkdir()
        file.write_text("precious")
    (run / "checkpoints" / "photo.png").write_text("precious")
    forge(run, str(run / "checkpoints" / way))
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="no checkpoint of this run"):
        train(run, 4, ckpt=str(run / "checkpoints" / "last.ckpt"))
    assert there <= {path for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("numpy", ("MT19937", [0] * 624, 2**31 - 1, 0, 0.0)),  # NumPy would read beyond its state, and crash
        ("numpy", ("MT19937", [0] * 624, -1, 0, 0.0)),
        ("numpy", ("MT19937", [0], 0, 0, 0.0)),
        ("numpy", None),
        ("python", (3, (0,) * 7, None)),
        ("torch", torch.zeros(3, dtype=torch.uint8)),
        ("torch", "text"),
    ],
)
def test_a_random_state_that_is_none_is_refused(tmp_path, key, value):
    train(tmp_path, 2, RandomState())
    content = saved(tmp_path, "last")
    content["random_state"][0][key] = value
    path = tmp_path / "checkpoints" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content, path)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(CheckpointError, match="random state is none"):
            train(tmp_path, 4, RandomState(), ckpt=str(path))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def judged(folder: Path, steps: int, ckpt: Path | None = None) -> None:
    """A training with all that a checkpoint can hold."""
    train(
        folder,
        steps,
        WeightAverage(0.9),
        EarlyStopping("val/psnr_y", mode="max"),
        RandomState(),
        ckpt=None if ckpt is None else str(ckpt),
        make_optimizer=lambda weights: optim.Adam(weights, lr=1e-3),
        make_scheduler=lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3),
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))],
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run folder after two steps."""
    folder = tmp_path_factory.mktemp("honest")
    judged(folder, 2)
    return folder


MISSING = object()
NAN, HUGE = float("nan"), 10**400
GROUP = ("optimizer_states", 0, "param_groups", 0)
ADAM = ("optimizer_states", 0, "state", 0)
FIT = ("loops", "fit_loop")
OPTIMIZER = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer")
BATCHES = (*FIT, "epoch_loop.batch_progress")
WEIGHT = ("state_dict", "network.head.weight")
LIES = [
    *((("pytorch-lightning_version",), value) for value in (MISSING, "evil", "99.0", "1.5.0", 2, None)),
    *((("state_dict",), value) for value in (MISSING, "evil", {})),
    *((WEIGHT, value) for value in (MISSING, "evil", torch.zeros(3), torch.full((12, 3, 3, 3), NAN))),
    *((WEIGHT, value) for value in (torch.zeros(12, 3, 3, 3, dtype=torch.int64), torch.empty(12, 3, 3, 0))),
    (("state_dict", "network.tail.evil"), torch.zeros(3)),
    (("current_model_state",), MISSING),
    (("current_model_state", "network.head.bias"), torch.zeros(3)),
    *((("averaging_state",), value) for value in (MISSING, "evil", {})),
    *((("epoch",), value) for value in (MISSING, -1, "evil")),
    *((("global_step",), value) for value in (MISSING, -1, 1, 2.0, True, "evil", 5, 10**9, HUGE, NAN)),
    *((("loops",), value) for value in (MISSING, "evil", {}, {"fit_loop": {}})),
    (FIT, MISSING),
    ((*FIT, "state_dict"), {"combined_loader": [{"evil": 1}]}),
    ((*BATCHES, "is_last_batch"), "evil"),
    *(((*BATCHES, "current", "ready"), value) for value in (-1, 1.5, 10**9, "evil", NAN, MISSING)),
    ((*BATCHES, "current"), {"ready": 2, "started": 2, "processed": 2, "completed": 2, "reset": 2}),
    *(((*OPTIMIZER, "step", "total", "completed"), value) for value in (1, 3, -1, 10**9)),
    *((("skipped_steps",), value) for value in ("evil", -1, NAN, 3, HUGE)),
    (("validation_due",), "evil"),
    *((("losses",), value) for value in ("evil", torch.zeros(2, 2), torch.zeros(1).expand(10**12))),
    *((("random_state",), value) for value in ("evil", 1)),
    *((("callbacks",), value) for value in (MISSING, "evil", {}, [1])),
    *((("callbacks", "WeightAverage"), value) for value in (MISSING, "evil", {})),
    *((("callbacks", "WeightAverage", "latest_update_step"), value) for value in (-1, "evil", NAN)),
    *((("callbacks", "EarlyStopping", "best_score"), value) for value in ("evil", torch.zeros(3))),
    *((("callbacks", "Checkpoints"), value) for value in (MISSING, "evil", {})),
    *((("callbacks", "Checkpoints", "best_model_path"), value) for value in (MISSING, 3, None)),
    *((("callbacks", "Checkpoints", "dirpath"), value) for value in (MISSING, 3)),
    *(
        (("callbacks", "Checkpoints", "best_k_models"), v)
        for v in ("evil", {3: torch.tensor(1.0)}, {"a": "b"})
    ),
    *((("callbacks", "Checkpoints", "kth_value"), v) for v in ("evil", torch.zeros(3), torch.tensor(NAN))),
    *((("optimizer_states",), value) for value in (MISSING, "evil", [], [{}], ["evil"], [{"state": {}}])),
    *(
        ((*GROUP, "lr"), value)
        for value in ("evil", NAN, -1.0, float("inf"), None, MISSING, HUGE, 1, torch.ones(2))
    ),
    *(((*GROUP, "betas"), value) for value in ("evil", (0.9,), (0.9, NAN), [0.9, 0.99, 0.9])),
    *(((*GROUP, "params"), value) for value in ([1, 0], [0], [0, 0], "evil")),
    *(((*GROUP, key), True) for key in ("maximize", "differentiable", "capturable", "amsgrad", "evil")),
    *((ADAM, value) for value in ({}, "evil", {"step": 1})),
    *(((*ADAM, "step"), value) for value in (torch.tensor(-1.0), torch.tensor(NAN), "evil", torch.zeros(3))),
    *(((*ADAM, "exp_avg"), value) for value in (torch.zeros(3), torch.zeros(1).expand(12, 3, 3, 3), 1.0)),
    ((*ADAM, "exp_avg"), torch.zeros(12, 3, 3, 3).to_sparse()),
    (("optimizer_states", 0, "state", 7), {}),
    *((("lr_schedulers",), value) for value in (MISSING, "evil", [], [{}], ["evil"])),
    *(
        (("lr_schedulers", 0, key), "evil")
        for key in ("step", "optimizer", "get_lr", "_update_lr", "__class__")
    ),
    *(
        (("lr_schedulers", 0, "last_epoch"), value)
        for value in (-1, "evil", NAN, 10**12, -(10**12), HUGE, 2.0)
    ),
    *((("lr_schedulers", 0, "base_lrs"), value) for value in ([], ["evil"], [NAN], [-1.0], [1e-3, 1e-3])),
    *((("lr_schedulers", 0, "T_i"), value) for value in ("evil", -1, 1.5, MISSING)),
    *((("MixedPrecision",), value) for value in ("evil", {}, None)),
    *((("MixedPrecision", "scale"), value) for value in ("evil", NAN, -1.0)),
    (("native_amp_scaling_state",), {"scale": "evil"}),
]


def lying(content: dict[str, object], place: tuple[object, ...], lie: object) -> None:
    """Put a lie in its place; a callback's is named by how its key begins."""
    *way, last = place
    here: object = content
    for key in way:
        here = here[_key(here, key)]
    if lie is MISSING:
        del here[_key(here, last)]
    else:
        here[_key(here, last)] = lie


def _key(here: object, key: object) -> object:
    if isinstance(here, dict) and key in ("Checkpoints", "EarlyStopping"):
        return next(name for name in here if name.startswith(key))
    return key


@pytest.mark.parametrize(
    ("place", "lie"),
    LIES,
    ids=[f"{'.'.join(map(str, place))[-50:]}-{n}" for n, (place, _) in enumerate(LIES)],
)
def test_what_no_run_can_have_saved_is_refused_before_the_first_step(honest, tmp_path, place, lie):
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    last = run / "checkpoints" / "last.ckpt"
    content = saved(run, "last")
    lying(content, place, lie)
    DurableCheckpointIO().save_checkpoint(content, last)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as caught:
        judged(run, 4, last)
    said = str(caught.value)
    assert said.startswith(f"resume: '{last}' is no checkpoint of such a run: ")
    assert said.endswith(" that saved it), or begin anew with resume=never")
    assert len(said.splitlines()) == 1
    assert "evil" not in said
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_what_a_run_has_saved_is_gone_on_with(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "run")
    judged(tmp_path / "run", 4, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved(tmp_path / "run", "last")["global_step"] == 4


def test_averages_are_not_taken_for_weights(honest, tmp_path):
    with pytest.raises(CheckpointError, match="its weights are averages, which this run does not make"):
        train(tmp_path, 4, ckpt=str(honest / "checkpoints" / "last.ckpt"))


def test_a_record_of_tensors_is_of_no_network(honest, tmp_path):
    content = saved(honest, "last")
    content["sr_lab"] = {"version": 1, "scale": torch.tensor([2, 2])}
    DurableCheckpointIO().save_checkpoint(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="holds no network"):
        _check_same(tmp_path / "last.ckpt", tiny.sr_module(record={"version": 1, "scale": 2}))


OPTIMIZERS = [
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "NAdam", "RAdam"),
    *("RMSprop", "Rprop", "SGD"),
]
SCHEDULERS = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 1, "T_mult": 3},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-3},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": lambda step: 1 / (step + 1)},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [1, 3]},
    "OneCycleLR": {"max_lr": 1e-2, "total_steps": 9},
    "PolynomialLR": {},
    "StepLR": {"step_size": 1},
}


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [*((name, "StepLR") for name in OPTIMIZERS), *(("SGD", name) for name in SCHEDULERS if name != "StepLR")],
)
def test_every_optimizer_and_schedule_is_gone_on_with(tmp_path, optimizer, scheduler):
    settings = {"momentum": 0.9} if optimizer == "SGD" else {}

    def go_on(steps: int, ckpt: str | None) -> None:
        train(
            tmp_path,
            steps,
            ckpt=ckpt,
            make_optimizer=lambda weights: getattr(optim, optimizer)(weights, lr=1e-3, **settings),
            make_scheduler=lambda made: getattr(lr_scheduler, scheduler)(made, **SCHEDULERS[scheduler]),
        )

    go_on(2, None)
    go_on(4, str(tmp_path / "checkpoints" / "last.ckpt"))
    assert saved(tmp_path, "last")["global_step"] == 4


class Moods(lr_scheduler.LRScheduler):
    """A user's schedule, whose attributes become others, longer and more on the way."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.best, self.phase, self.seen, self.slope, self.least = None, "warm-up", [], 0.0, float("inf")
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if self.last_epoch > 0:
            self.best, self.phase, self.slope, self.extra = 1.5, "decay", -0.5, 1.0
            self.seen.append(0.1)


class Estimating(optim.Adam):
    """A user's optimizer, like Prodigy: a number of its group becomes negative, another entry is new."""

    def __init__(self, weights: object) -> None:
        super().__init__(weights, lr=1e-3)
        for group in self.param_groups:
            group |= {"estimate": 0.0, "count": 0}

    def step(self, closure: object = None) -> object:
        for group in self.param_groups:
            group["count"] += 1
            if group["count"] > 1:
                group |= {"estimate": -1e-3, "mood": "fast"}
        return super().step(closure)


class Counting(lightning.Callback):
    """A user's callback, which keeps more from step to step."""

    def __init__(self) -> None:
        self.seen = {"start": 0.0}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.seen[str(trainer.global_step)] = -1.0

    def state_dict(self) -> dict[str, float]:
        return dict(self.seen)


def of_a_users_own(folder: Path, steps: int, ckpt: Path | None = None) -> None:
    """A training with classes that are neither torch's nor ours."""
    where = None if ckpt is None else str(ckpt)
    train(folder, steps, Counting(), ckpt=where, make_optimizer=Estimating, make_scheduler=Moods)


def test_classes_of_a_users_own_are_gone_on_with(tmp_path):
    of_a_users_own(tmp_path, 2)
    of_a_users_own(tmp_path, 4, tmp_path / "checkpoints" / "last.ckpt")
    content = saved(tmp_path, "last")
    assert content["lr_schedulers"][0]["seen"] == [0.1] * 4
    assert content["optimizer_states"][0]["param_groups"][0]["count"] == 4


ENDLESS: list[object] = [0.1]
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("place", "lie"),
    [
        *((("lr_schedulers", 0, "best"), value) for value in (NAN, HUGE, 1j, torch.tensor(NAN), ENDLESS)),
        *((("lr_schedulers", 0, name), "evil") for name in ("step", "get_lr", "optimizer", "last_epoch")),
        *((("lr_schedulers",), value) for value in ("evil", [], [1], [{}, {}])),
        *(((*GROUP, "estimate"), value) for value in (NAN, [float("inf")], torch.zeros(1).expand(10**12))),
        *(((*GROUP, name), "evil") for name in ("lr", "params")),
        *((("optimizer_states",), value) for value in ("evil", [], [1], [{}], [{"param_groups": [1]}])),
        ((*ADAM, "exp_avg"), torch.full((12, 3, 3, 3), NAN)),
        *((("callbacks", "Counting"), value) for value in ("evil", {"start": NAN})),
    ],
)
def test_what_is_not_plain_and_finite_is_refused_of_a_users_own_classes(
    users, tmp_path, monkeypatch, place, lie
):
    monkeypatch.setattr("sr_lab.training.resume._MOST_VALUES", 1000)  # millions take seconds
    content = saved(users, "last")
    lying(content, place, lie)
    last = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content, last)
    with pytest.raises(CheckpointError, match="is no checkpoint of such a run"):
        of_a_users_own(tmp_path, 4, last)


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """A run folder after two steps with a user's own classes."""
    folder = tmp_path_factory.mktemp("users")
    of_a_users_own(folder, 2)
    return folder


def test_fewer_checkpoints_can_be_kept_from_now_on(tmp_path):
    def keeping(count: int) -> ModelCheckpoint:
        return ModelCheckpoint(
            tmp_path / "mine", "{step}", monitor="val/psnr_y", mode="max", save_top_k=count
        )

    train(tmp_path, 6, keeping(3))
    train(tmp_path, 8, keeping(1), ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert saved(tmp_path, "last")["global_step"] == 8


@pytest.mark.timeout(20)
def test_no_pipe_in_a_run_folder_is_waited_for(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.lock, folder.record, tmp_path / "sweep.json"):
        os.mkfifo(path)
    assert folder.state() == "interrupted"
    assert folder.since() is None
    assert folder.progress() == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"\.lock: is a pipe"), folder.attempt():
        pass


@pytest.mark.parametrize("name", ["checkpoints", "images"])
def test_a_folder_that_leads_elsewhere_is_not_written_into(tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match=f"{name}: is a link"), RunFolder(tmp_path / "run").attempt():
        pass


# Experiments


WRITERS = {
    "callbacks.dirpath": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath"),
    "callbacks.filename": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "filename"),
    "logger.version": ("logger", "lightning.pytorch.loggers.CSVLogger", "version"),
}


@pytest.mark.parametrize("way", ["/tmp/precious", "~/precious", "../precious", "a/../../precious"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_lets_nothing_write_outside_of_the_run_folder(tmp_path, writer, way):
    group, target, key = WRITERS[writer]
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\n{group}:\n  mine:\n    _target_: {target}\n    {key}: {way}\n"
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    words = ("experiment=sly", "trainer=cpu", "budget=smoke", f"hydra.searchpath=[{tmp_path}]")
    with pytest.raises(ConfigError, match=f"{group}.mine.{key}: leads out of the run folder"):
        compose(*words)
    said = compose(*words, f"{group}.mine.{key}='{way}'")
    assert getattr(said, group)["mine"][key] == way


# Shards


@pytest.mark.parametrize("digest", ["../../precious/x", "/tmp/precious/xx", "0" * 63, "0" * 65, "", "G" * 64])
def test_the_digest_of_a_shard_is_no_path(tmp_path, digest):
    image = {"name": "a", "height": 8, "width": 8}
    shard = {"name": "0.safetensors", "size": 4, "sha256": digest, "source": "", "images": [image]}
    store = fsspec.filesystem("memory")
    store.pipe("/evil/index.json", json.dumps({"format": 1, "lr": [], "shards": [shard]}).encode())
    store.pipe("/evil/0.safetensors", b"evil")
    (tmp_path / "precious").mkdir()
    with pytest.raises(DataError, match=r"is not a valid index: .*0-9a-f"):
        Shards(
            "memory://evil", read_index("memory://evil"), folder=tmp_path / "a" / "b", limit=1e9, keep_open=1
        ).file(0)
    assert list((tmp_path / "precious").iterdir()) == []


IMAGE = {"name": "a", "height": 8, "width": 8}
SHARD = {"name": "0.safetensors", "size": 300, "sha256": "0" * 64, "source": "", "images": [IMAGE]}


def index_of(lr: tuple[str, ...] = (), **changes: object) -> bytes:
    return json.dumps({"format": 1, "lr": list(lr), "shards": [SHARD | changes]}).encode()


@pytest.mark.parametrize(
    "index",
    [
        index_of(size=10**15),
        index_of(size=191),  # 8x8 pixels have 192 bytes
        index_of(size=192 + 5000),
        index_of(images=[IMAGE | {"height": 10**15}]),
        index_of(images=[IMAGE | {"height": 10**15}], size=24 * 10**15),
        index_of(images=[IMAGE] * 10**5),
        index_of(lr=("x2-bicubic-symmetric",), size=192),
        index_of(lr=("x0-bicubic-symmetric",)),
        index_of(lr=("../x2",)),
        b'{"format": 1, "lr": [], "shards": [' + b"[" * 10**5,
    ],
)
def test_sizes_that_the_images_of_a_shard_cannot_have_are_refused(index):
    fsspec.filesystem("memory").pipe("/sizes/index.json", index)
    with pytest.raises(DataError, match="is not a valid index: ") as caught:
        read_index("memory://sizes")
    assert len(str(caught.value)) < 300


def test_an_honest_index_is_read():
    fsspec.filesystem("memory").pipe("/honest/index.json", index_of(("x2-bicubic-symmetric",)))
    assert read_index("memory://honest").shards[0].size == 300


@pytest.mark.timeout(20)
@pytest.mark.parametrize("announced", [10**15, None, 400])
@pytest.mark.parametrize("file", ["index.json", "0.safetensors"])
def test_a_server_that_sends_more_than_it_may_is_cut_off(tmp_path, monkeypatch, file, announced):
    monkeypatch.setattr(shards, "MAX_INDEX", 250)
    folder = tmp_path / "shards"
    with serving() as server:
        server.files |= {"/index.json": index_of(), f"/{file}": index_of() + b" " * 10**7}
        assert len(index_of()) < 250
        server.announced[f"/{file}"] = announced
        with pytest.raises(
            DataError, match=r"cannot (read|fetch) .*: (it has more than (250|300) bytes|\w+)"
        ) as said:
            Shards(server.url, read_index(server.url), folder=folder, limit=1e9, keep_open=1).file(0)
    assert len(str(said.value)) < 300
    assert announced == 400 or "it has more than" in str(said.value)  # what aiohttp sees has its words
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device", "long"])
def test_an_index_in_a_folder_is_a_file_of_some_megabytes(tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / "index.json")
    elif kind == "device":
        (tmp_path / "index.json").symlink_to("/dev/zero")
    else:
        with (tmp_path / "index.json").open("wb") as file:
            file.truncate(shards.MAX_INDEX + 1)
    with pytest.raises(DataError, match="there is no file of at most 268,435,456 bytes"):
        read_index(str(tmp_path))


# Photographs


@pytest.mark.timeout(20)
def test_a_pipe_that_is_called_a_photograph_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="Expecting value"):
        files.read_json(tmp_path / "photo.png")


def test_the_name_of_a_photograph_does_not_steer_the_terminal(tmp_path, capsys):
    file = tmp_path / "\x1b]0;evil\x07.png"
    file.write_bytes(b"no photograph")
    with pytest.raises(SystemExit):
        doctor.run(DoctorConfig.model_construct(folder=str(tmp_path)), tmp_path, [])
    assert "evil" in (shown := capsys.readouterr().out)
    assert "\x1b]" not in shown
    with pytest.raises(DataError) as refused:
        read_image(file)
    assert "\x1b" not in explain(refused.value)
