"""Hostile run folders that a run resumes from, hostile shards that are streamed, and hostile photos."""

import contextlib
import copy
import inspect
import json
import os
import random
import shutil
import sys
from pathlib import Path

import fsspec
import lightning
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, SpikeDetection
from lightning.pytorch.plugins import MixedPrecision
from torch import optim
from torch.optim import lr_scheduler

from sr_lab import files
from sr_lab.config.messages import explain
from sr_lab.config.schema import DoctorConfig
from sr_lab.config.untrusted import below
from sr_lab.datasets import shards
from sr_lab.datasets.images import list_images, read_image
from sr_lab.datasets.layouts import places
from sr_lab.datasets.shards import Shards, read_index
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.inference.inputs import search
from sr_lab.reporting.runs import find_runs
from sr_lab.run_folder import RunFolder
from sr_lab.run_folder import read_index as read_sweep
from sr_lab.tasks import doctor
from sr_lab.tasks.status import find_jobs
from sr_lab.training.checkpointing import Checkpoints, DurableCheckpointIO, RandomState, newest
from sr_lab.training.resume import _check_schedule, check_resume
from sr_lab.training.weight_average import WeightAverage
from tests import tiny
from tests.composing import compose
from tests.loopback import serving
from tests.security import hostile
from tests.training import test_checkpointing
from tests.training.test_checkpointing import saved, train

pytestmark = test_checkpointing.pytestmark  # filters the warnings of training

# Run folders


def kept_by_the_user(folder: Path) -> ModelCheckpoint:
    """A user's callback; Lightning follows every path in its stored state."""
    return ModelCheckpoint(folder / "checkpoints", "mine", monitor="val/psnr_y", mode="max")


def forge(folder: Path, victim: str) -> None:
    """Change the callback states in ``last.ckpt`` so that the next checkpoint would replace a victim."""
    content = saved(folder, "last")
    worst = torch.tensor(-1.0)
    for name, state in content["callbacks"].items():
        if name.startswith(("Checkpoints", "ModelCheckpoint")):
            state |= {"best_model_path": victim, "kth_best_model_path": victim, "kth_value": worst}
            state |= {"best_model_score": worst, "best_k_models": {victim: worst}}
    DurableCheckpointIO().save_checkpoint(content, folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "way", ["../../precious", "../../precious/best.ckpt", "..", "photo.png", "folder.ckpt"]
)
def test_resuming_removes_no_file_that_a_checkpoint_names(tmp_path, way):
    run = tmp_path / "run"
    train(run, 2, kept_by_the_user(run))
    for file in (tmp_path / "precious" / "best.ckpt", run / "checkpoints" / "folder.ckpt" / "x"):
        file.parent.mkdir()
        file.write_text("precious")
    (run / "checkpoints" / "photo.png").write_text("precious")
    forge(run, str(run / "checkpoints" / way))
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="not a checkpoint of this run"):
        train(run, 4, kept_by_the_user(run), ckpt=str(run / "checkpoints" / "last.ckpt"))
    assert there <= {path for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["photo.png", "folder.ckpt", "link/a.ckpt", "../precious/a.ckpt"])
def test_only_a_checkpoint_in_a_folder_of_the_run_is_removed(tmp_path, way):
    for folder in ("run/folder.ckpt", "precious"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to("../precious")
    for file in ("run/photo.png", "run/a.ckpt", "precious/a.ckpt"):
        (tmp_path / file).touch()
    (tmp_path / "linked").symlink_to("run")  # by the user
    writer = DurableCheckpointIO(folders=[tmp_path / "other", tmp_path / "linked"])
    with pytest.raises(CheckpointError, match="not a checkpoint of this run"):
        writer.remove_checkpoint(tmp_path / "linked" / way)
    assert (tmp_path / "run" / way).exists()
    writer.remove_checkpoint(tmp_path / "linked" / "a.ckpt")
    assert not (tmp_path / "run" / "a.ckpt").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt", "best.ckpt"])
def test_a_folder_in_place_of_a_checkpoint_is_reported(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}' is a folder, but the run saves a file"):
        newest(tmp_path, print)


def test_our_own_checkpoint_callbacks_follow_no_path_in_a_file(tmp_path):
    train(tmp_path, 2)
    forge(tmp_path, str(tmp_path / "checkpoints" / "other.ckpt"))
    (tmp_path / "checkpoints" / "other.ckpt").write_text("precious")
    train(tmp_path, 4, ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert (tmp_path / "checkpoints" / "other.ckpt").read_text() == "precious"
    states = [state for name, state in saved(tmp_path, "last")["callbacks"].items() if "Checkpoints" in name]
    assert {Path(state["best_model_path"]).name for state in states} == {"best.ckpt"}


def test_spike_detection_resumes_and_writes_nothing_to_a_path_from_a_checkpoint(tmp_path):
    train(tmp_path, 2, SpikeDetection())
    content = saved(tmp_path, "last")
    content["callbacks"]["SpikeDetection"]["bad_batches_path"] = str(tmp_path / "evil" / "precious.json")
    DurableCheckpointIO().save_checkpoint(content, tmp_path / "checkpoints" / "last.ckpt")
    spikes = SpikeDetection(atol=0.0, rtol=0.0, mode="max", warmup=0)
    with contextlib.suppress(TrainingSpikeException):
        train(tmp_path, 4, spikes, ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert spikes.exclude_batches_path == str(tmp_path / "skip_batches.json")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("numpy", ("MT19937", [0] * 624, 2**31 - 1, 0, 0.0)),  # NumPy would read out of bounds and crash
        ("numpy", ("MT19937", [0] * 624, 625, 0, 0.0)),
        ("numpy", ("MT19937", [0] * 624, -1, 0, 0.0)),
        ("numpy", ("MT19937", [0], 0, 0, 0.0)),
        ("numpy", None),
        ("python", (3, (0,) * 7, None)),
        ("torch", torch.zeros(3, dtype=torch.uint8)),
        ("torch", "text"),
    ],
)
def test_a_damaged_random_state_is_refused(tmp_path, key, value):
    train(tmp_path, 2, RandomState())
    content = saved(tmp_path, "last")
    content["random_state"][0][key] = value
    path = tmp_path / "checkpoints" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content, path)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(CheckpointError, match="random state is damaged"):
            train(tmp_path, 4, RandomState(), ckpt=str(path))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def test_a_random_state_that_was_just_seeded_resumes(tmp_path):
    np.random.seed(0)  # noqa: NPY002
    assert np.random.get_state()[2] == 624  # noqa: NPY002 - the highest position
    train(tmp_path, 2, RandomState())
    train(tmp_path, 4, RandomState(), ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))


@pytest.mark.parametrize("score", [31.5, "31", torch.zeros(2), [torch.zeros(1)]])
@pytest.mark.parametrize("key", ["best_model_score", "current_score"])
def test_a_best_score_that_is_not_a_number_is_refused(tmp_path, key, score):
    scores = {"best_model_score": torch.tensor(31.5), "current_score": torch.tensor(31.5)}
    Checkpoints(tmp_path).load_state_dict(dict(scores))
    with pytest.raises(CheckpointError, match="best score is not a number"):
        Checkpoints(tmp_path).load_state_dict(scores | {key: score})


def trained(folder: Path, steps: int, ckpt: Path | None = None) -> None:
    """Train with everything that a checkpoint can contain."""
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
    """A genuine run folder after two steps."""
    folder = tmp_path_factory.mktemp("honest")
    trained(folder, 2)
    return folder


@pytest.fixture
def resumed(honest, tmp_path):
    """Check whether a run could resume from the genuine checkpoint after a change to its content."""
    images = tiny.Images("A", 1)
    trainer = tiny.trainer(tmp_path, max_steps=4, callbacks=[WeightAverage(0.9)])
    module = tiny.sr_module(
        val=[images],
        record=RECORD,
        make_optimizer=lambda weights: optim.Adam(weights, lr=1e-3),
        make_scheduler=lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3),
    )

    def resume(place: tuple[object, ...] = (), value: object = None) -> None:
        content = saved(honest, "last") | {"sr_lab": RECORD}
        if place:
            change(content, place, value)
        torch.save(content, tmp_path / "last.ckpt")
        check_resume(tmp_path / "last.ckpt", trainer, module)

    return resume


RECORD = {"version": 1, "scale": 2}
MISSING = object()
NAN, HUGE = float("nan"), 10**400
GROUP = ("optimizer_states", 0, "param_groups", 0)
ADAM = ("optimizer_states", 0, "state", 0)
LOOP = ("loops", "fit_loop")
STEP = (*LOOP, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed")
BATCHES = (*LOOP, "epoch_loop.batch_progress", "current", "ready")
WEIGHT = ("state_dict", "network.head.weight")
SCHEDULE = ("lr_schedulers", 0)
ENDLESS: list[object] = [0.1]
ENDLESS.append(ENDLESS)
BOMB = torch.zeros(1).expand(10**12)  # four bytes that claim to be four terabytes of floats
LIES = [
    *((("pytorch-lightning_version",), value) for value in (MISSING, "evil", "1.5.0", 2)),
    *((("sr_lab",), value) for value in (MISSING, "evil", RECORD | {"scale": torch.tensor([2, 2])})),
    *((("state_dict",), value) for value in (MISSING, "evil", {})),
    *((WEIGHT, value) for value in (MISSING, "evil", torch.zeros(3), torch.full((12, 3, 3, 3), NAN), BOMB)),
    (WEIGHT, torch.zeros(12, 3, 3, 3, dtype=torch.int64)),
    (("state_dict", "network.tail.evil"), torch.zeros(3)),
    *((("current_model_state", "network.head.bias"), value) for value in (MISSING, torch.zeros(3))),
    *((("global_step",), value) for value in (MISSING, -1, 1, 2.0, "evil", 5, HUGE, NAN)),
    *((STEP, value) for value in (MISSING, 1, 3, -1)),
    *((BATCHES, value) for value in (-1, 1.5, "evil")),
    (LOOP, MISSING),
    *((("skipped_steps",), value) for value in ("evil", -1, 3, HUGE)),
    *((("losses",), value) for value in ("evil", torch.zeros(2, 2), BOMB)),
    *((("optimizer_states",), value) for value in (MISSING, "evil", [], [{}], [{"state": {}}])),
    *(((*GROUP, "lr"), value) for value in ("evil", NAN, -1.0, float("inf"), None, MISSING, HUGE)),
    *(((*GROUP, "betas"), value) for value in ("evil", (0.9,))),
    *(((*GROUP, "params"), value) for value in ([1, 0], [0], "evil")),
    *(((*GROUP, key), True) for key in ("maximize", "amsgrad")),
    *((ADAM, value) for value in ("evil", {"step": 1})),
    *(((*ADAM, "exp_avg"), value) for value in (torch.zeros(3), BOMB, 1.0, torch.full((12, 3, 3, 3), NAN))),
    ((*ADAM, "exp_avg"), torch.zeros(12, 3, 3, 3).to_sparse()),
    *((("lr_schedulers",), value) for value in (MISSING, "evil", [], [{}])),
    *(((*SCHEDULE, key), "evil") for key in ("step", "optimizer", "get_lr", "_update_lr", "__class__")),
    *(((*SCHEDULE, "last_epoch"), value) for value in (-1, "evil", 10**12, -(10**12), HUGE, 2.0)),
    *(((*SCHEDULE, "T_mult"), value) for value in ("evil", 7)),
]


def change(content: dict[str, object], place: tuple[object, ...], value: object) -> None:
    """Set the value at a position in nested content, or delete it."""
    *way, last = place
    here: object = content
    for key in way:
        here = here[key]
    if value is MISSING:
        del here[last]
    else:
        here[last] = value


def test_content_that_no_run_can_have_saved_is_refused_in_one_sentence(resumed):
    accepted = []
    for place, lie in LIES:
        try:
            resumed(place, lie)
        except CheckpointError as error:
            said = str(error)
            assert said.startswith("resume: cannot resume from '")
            assert said.endswith(
                "put the run's own checkpoint there, or train from scratch with resume=never"
            )
            assert len(said.splitlines()) == 1
            assert "evil" not in said
        else:
            accepted.append((place, lie))
    assert accepted == []


def test_a_checkpoint_that_a_run_has_saved_resumes(honest, resumed, tmp_path):
    resumed()
    shutil.copytree(honest, tmp_path / "run")
    trained(tmp_path / "run", 4, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved(tmp_path / "run", "last")["global_step"] == 4


OF_ANOTHER_VERSION = [
    (("pytorch-lightning_version",), "99.0"),
    *(((*SCHEDULE, "_is_initial"), value) for value in (MISSING, False)),
    *(((*SCHEDULE, key), MISSING) for key in ("_get_lr_called_within_step", "_last_lr")),
    ((*SCHEDULE, "verbose"), False),
    *(((*GROUP, "decoupled_weight_decay"), value) for value in (MISSING, False)),
    *(((*GROUP, key), MISSING) for key in ("fused", "foreach", "differentiable")),
    ((*GROUP, "another"), 1.0),
    (("another",), "key"),
    ((*LOOP, "epoch_loop.another"), {}),
    ((*LOOP, "epoch_loop.scheduler_progress"), MISSING),
    (("loops", "predict_loop"), MISSING),
    (("callbacks", "Another"), {"a": ENDLESS}),
    (("skipped_steps",), 0),
    (("losses",), MISSING),
]


@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning v99")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used")
def test_a_checkpoint_of_another_minor_version_of_torch_or_lightning_resumes(honest, tmp_path):
    content = saved(honest, "last")
    for place, value in OF_ANOTHER_VERSION:
        with contextlib.suppress(KeyError):  # this version lacks the key
            change(content, place, value)
    torch.save(content, honest / "checkpoints" / "other.ckpt")
    shutil.copytree(honest, tmp_path / "run")
    trained(tmp_path / "run", 4, tmp_path / "run" / "checkpoints" / "other.ckpt")
    assert saved(tmp_path / "run", "last")["global_step"] == 4


def test_each_key_of_another_version_is_tolerated(resumed):
    for place, value in OF_ANOTHER_VERSION:
        with contextlib.suppress(KeyError):
            resumed(place, value)


def test_averaged_weights_are_refused_as_weights_to_train(honest, tmp_path):
    with pytest.raises(CheckpointError, match="its weights are averages, but this run does not average"):
        train(tmp_path, 4, ckpt=str(honest / "checkpoints" / "last.ckpt"))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("SGD MultiStepLR", "the checkpoint's scheduler is MultiStepLR, this run's is CosineAnnealingLR"),
        ("SGD StepLR", "the checkpoint's scheduler is StepLR, this run's is CosineAnnealingLR"),
        ("Adam CosineAnnealingLR", "the checkpoint's optimizer is Adam, this run's is SGD"),
    ],
)
def test_a_message_names_an_optimizer_or_schedule_of_another_class(tmp_path, made, sentence):
    def setting(optimizer: str, scheduler: str) -> dict[str, object]:
        return {
            "make_optimizer": lambda weights: getattr(optim, optimizer)(weights, lr=1e-3),
            "make_scheduler": lambda made: getattr(lr_scheduler, scheduler)(made, **SCHEDULERS[scheduler]),
        }

    train(tmp_path, 2, **setting(*made.split()))
    with pytest.raises(CheckpointError, match=sentence):
        train(
            tmp_path,
            4,
            ckpt=str(tmp_path / "checkpoints" / "last.ckpt"),
            **setting("SGD", "CosineAnnealingLR"),
        )


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
def test_every_optimizer_and_schedule_resumes(tmp_path, optimizer, scheduler):
    settings = {"momentum": 0.9} if optimizer == "SGD" else {}

    def resume(steps: int, ckpt: str | None) -> None:
        train(
            tmp_path,
            steps,
            ckpt=ckpt,
            make_optimizer=lambda weights: getattr(optim, optimizer)(weights, lr=1e-3, **settings),
            make_scheduler=lambda made: getattr(lr_scheduler, scheduler)(made, **SCHEDULERS[scheduler]),
        )

    resume(2, None)
    resume(4, str(tmp_path / "checkpoints" / "last.ckpt"))
    assert saved(tmp_path, "last")["global_step"] == 4


def in_sequence(optimizer):
    inner = [lr_scheduler.LinearLR(optimizer), lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]
    return lr_scheduler.SequentialLR(optimizer, inner, milestones=[3])


def on_plateau(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")


INNER = ("_schedulers", 1)
FALSE_STATES = [
    *((in_sequence, ("_milestones",), value) for value in (MISSING, "evil", [1], [3, HUGE])),
    *((in_sequence, ("_schedulers",), value) for value in (MISSING, "evil", [], [{}, {}])),
    *((in_sequence, (*INNER, key), "evil") for key in ("step", "optimizer", "get_lr", "_update_lr")),
    *((in_sequence, (*INNER, "last_epoch"), value) for value in ("evil", HUGE, -2)),
    (in_sequence, (*INNER, "T_max"), 7),
    *((on_plateau, (key,), value) for key in ("best", "num_bad_epochs") for value in ("evil", BOMB, MISSING)),
    *((on_plateau, (key,), 5) for key in ("patience", "factor", "mode", "min_lrs")),
    (on_plateau, ("_reduce_lr",), 5),
]


@pytest.mark.parametrize(("make", "place", "lie"), FALSE_STATES)
def test_a_false_state_of_a_schedule_with_parts_or_a_metric_is_refused(make, place, lie):
    scheduler = make(optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
    state = copy.deepcopy(scheduler.state_dict())
    _check_schedule(scheduler, state, 2)
    change(state, place, lie)
    with pytest.raises(Exception):  # noqa: B017, PT011 - `check_resume` turns any error into its sentence
        _check_schedule(scheduler, state, 2)


class Moods(lr_scheduler.LRScheduler):
    """A user's schedule, whose attributes change, grow and increase in number during training."""

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
    """A user's optimizer like Prodigy: a number in its group turns negative, and a new entry appears."""

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
    """A user's callback, whose state gets a new entry at every step."""

    def __init__(self) -> None:
        self.seen = {"start": 0.0}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.seen[str(trainer.global_step)] = -1.0

    def state_dict(self) -> dict[str, float]:
        return dict(self.seen)


def train_own_classes(folder: Path, steps: int, ckpt: Path | None = None) -> None:
    """Train with classes that are neither from torch nor from sr_lab."""
    where = None if ckpt is None else str(ckpt)
    train(folder, steps, Counting(), ckpt=where, make_optimizer=Estimating, make_scheduler=Moods)


def test_a_run_with_the_users_own_classes_resumes(tmp_path):
    train_own_classes(tmp_path, 2)
    train_own_classes(tmp_path, 4, tmp_path / "checkpoints" / "last.ckpt")
    content = saved(tmp_path, "last")
    assert content["lr_schedulers"][0]["seen"] == [0.1] * 4
    assert content["optimizer_states"][0]["param_groups"][0]["count"] == 4


def test_a_resumed_run_may_keep_fewer_checkpoints(tmp_path):
    def keeping(count: int) -> ModelCheckpoint:
        return ModelCheckpoint(
            tmp_path / "mine", "{step}", monitor="val/psnr_y", mode="max", save_top_k=count
        )

    train(tmp_path, 6, keeping(3))
    train(tmp_path, 8, keeping(1), ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert saved(tmp_path, "last")["global_step"] == 8


@pytest.mark.timeout(20)
def test_no_reader_waits_for_a_pipe_in_a_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.lock, folder.record, tmp_path / "sweep.json"):
        os.mkfifo(path)
    assert folder.state() == "interrupted"
    assert folder.since() is None
    assert folder.progress() == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sweep(tmp_path)
    for path in (folder.lock, folder.record):
        with pytest.raises(ConfigError, match=f"{path.name}: is a pipe"), folder.attempt():
            pass
        path.unlink()
    os.mkfifo(folder.log)
    with pytest.raises(ConfigError, match=r"log\.txt: is a pipe"), folder.attempt():
        pass


@pytest.mark.parametrize("name", ["checkpoints", "images"])
def test_a_run_does_not_write_into_a_folder_that_is_a_link(tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match=f"{name}: is a link"), RunFolder(tmp_path / "run").attempt():
        pass


# Experiments


WRITERS = {
    "callbacks.dirpath": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath"),
    "callbacks.filename": ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", "filename"),
    "logger.sub_dir": ("logger", "lightning.pytorch.loggers.TensorBoardLogger", "sub_dir"),
    "logger.prefix": ("logger", "lightning.pytorch.loggers.CSVLogger", "prefix"),
}


WAYS = [
    *("/tmp/precious", "~/precious", "../precious", "a/../../precious", "a/..", "$HOME/precious"),
    *("file:///tmp/precious", "simplecache::memory://precious", "{step].__class__}/precious", "{0}"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_cannot_make_anything_write_outside_of_the_run_folder(tmp_path, writer, way):
    group, target, key = WRITERS[writer]
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\n{group}:\n  mine:\n    _target_: {target}\n    {key}: {way!r}\n"
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    words = ("experiment=sly", "trainer=cpu", "budget=smoke", f"hydra.searchpath=[{tmp_path}]")
    with pytest.raises(
        ConfigError, match=f"{group}.mine.{key}: a file may not (lead out of the run folder|name a server)"
    ):
        compose(*words)
    used = getattr(compose(*words, f"{group}.mine.{key}='{way}'"), group)["mine"]
    assert used[key] == (
        str(Path(way).expanduser().absolute()) if key.endswith("dir") or key == "dirpath" else way
    )
    assert below(tmp_path / "run", used) == used


def test_a_relative_path_in_a_file_is_placed_below_the_run_folder(tmp_path):
    node = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "outputs/other/checkpoints"}
    assert below(tmp_path, node) == node | {"dirpath": f"{tmp_path}/outputs/other/checkpoints"}
    assert below(tmp_path, {"filename": "a/{val/psnr_y:.2f}"}) == {"filename": "a/{val/psnr_y:.2f}"}


# Shards


@pytest.mark.parametrize("digest", ["../../precious/x", "/tmp/precious/xx", "0" * 63, "0" * 65, "", "G" * 64])
def test_the_digest_of_a_shard_is_not_a_path(tmp_path, digest):
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
        index_of(size=191),  # 8x8 RGB pixels take 192 bytes
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
def test_impossible_sizes_of_shards_and_images_are_refused(index):
    fsspec.filesystem("memory").pipe("/sizes/index.json", index)
    with pytest.raises(DataError, match="is not a valid index: ") as caught:
        read_index("memory://sizes")
    assert len(str(caught.value)) < 300


def test_a_valid_index_is_read():
    fsspec.filesystem("memory").pipe("/honest/index.json", index_of(("x2-bicubic-symmetric",)))
    assert read_index("memory://honest").shards[0].size == 300


@pytest.mark.timeout(20)
@pytest.mark.parametrize("announced", [10**15, None, 400])
@pytest.mark.parametrize("file", ["index.json", "0.safetensors"])
def test_a_download_of_more_bytes_than_allowed_is_cut_off(tmp_path, monkeypatch, file, announced):
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
    assert announced == 400 or "it has more than" in str(said.value)  # aiohttp gives its own message
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device", "long"])
def test_an_index_in_a_folder_must_be_a_regular_file_of_limited_size(tmp_path, kind):
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
def test_no_reader_waits_for_a_pipe_named_like_a_photo(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="Expecting value"):
        files.read_json(tmp_path / "photo.png")


def test_the_name_of_a_photo_sends_no_control_characters_to_the_terminal(tmp_path, capsys):
    file = tmp_path / "\x1b]0;evil\x07.png"
    file.write_bytes(b"no photograph")
    with pytest.raises(SystemExit):
        doctor.run(DoctorConfig.model_construct(folder=str(tmp_path)), tmp_path, [])
    assert "evil" in (shown := capsys.readouterr().out)
    assert "\x1b]" not in shown
    with pytest.raises(DataError) as refused:
        read_image(file)
    assert "\x1b" not in explain(refused.value)


def test_no_depth_of_folders_ends_a_command(tmp_path, monkeypatch):
    """Python's own functions for walking folders recurse: a thousand nested folders would make them fail."""
    deepest = tmp_path / "run" / Path(*["a"] * 300)
    deepest.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    (deepest / "config.yaml").touch()
    (deepest / "a.png").write_bytes(hostile.png(4, 4))
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 200)
        assert list(files.below(tmp_path / "run" / "a"))[-1].parent == deepest
        assert [run.path for run in find_runs(tmp_path / "run" / "a")] == [deepest]
        assert [job.path for job, _ in find_jobs(tmp_path / "run" / "a")] == [deepest]
        with RunFolder(tmp_path / "run").attempt():
            pass
        assert search([str(tmp_path)], but_not=tmp_path / "big").images[0][0] == deepest / "a.png"
        assert [place.folder for place in places(tmp_path)] == [deepest]
        with pytest.raises(DataError, match="its sub-folders have images"):
            list_images(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
