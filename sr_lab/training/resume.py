"""Whether a run can resume from a checkpoint."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from packaging.version import Version
from torch import Tensor, optim
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sr_lab.checkpoints.reading import is_plain
from sr_lab.errors import CheckpointError
from sr_lab.losses.weighted import WeightedLoss
from sr_lab.training import recipe
from sr_lab.training.lit_module import Saved, SRModule

_OLDEST = Version("2.0")  # Lightning rewrites checkpoints of earlier versions
_OPTIMIZERS = [k for k in vars(optim).values() if isinstance(k, type)]
_SCHEDULERS = [k for k in vars(lr_scheduler).values() if isinstance(k, type) and issubclass(k, LRScheduler)]
# Settings that torch's own optimizers and schedules change while training, or that depend on the device.
_PLATEAU = {"best", "num_bad_epochs", "cooldown_counter"}
_MOVING = {
    "lr",
    "momentum",
    "betas",
    "foreach",
    "fused",
    "last_epoch",
    "T_cur",
    "T_i",
    "lr_lambdas",
} | _PLATEAU


class _MisfitError(Exception):
    """The reason why a run cannot resume."""


def check_resume(path: Path, trainer: Trainer, module: SRModule) -> None:
    """Refuse a checkpoint that this run cannot resume from, before anything uses its content.

    Opening an untrusted file runs no code, but Lightning and torch trust its content. The weights must have
    this run's names and shapes and be finite, the counts must be consistent, and optimizer and schedule must
    have this run's classes and settings. A key that another version of torch or Lightning adds or leaves out
    is tolerated.

    Args:
        path: The checkpoint.
        trainer: A Trainer that is set up but not started.
        module: The module that the Trainer will train.

    Raises:
        CheckpointError: The run cannot resume from it.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    try:
        _check_record(content.get("sr_lab"), module.record)
        _check_tensors(content)
        _check_weights(content, trainer, module)
        _check_counts(content, trainer, module)
        _check_optimizer(content, module)
    except Exception as error:  # a file from elsewhere can fail in any way
        why = str(error) if isinstance(error, _MisfitError) else f"it does not fit ({type(error).__name__})"
        raise CheckpointError(
            f"resume: cannot resume from '{path}': {why}; put the run's own checkpoint there, or train from "
            "scratch with resume=never"
        ) from error


def _check_record(record: Any, own: Mapping[str, object]) -> None:
    if record.get("version") != own.get("version"):
        raise _MisfitError("it was saved by another version of sr_lab (update sr_lab)")
    if any(record.get(key) != value for key, value in own.items()):
        raise _MisfitError("it contains another network")


def _check_tensors(content: object) -> None:
    """Check that every tensor contains all its values; a small file can claim a huge tensor."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor) and not is_plain(value):
            raise _MisfitError("it contains a tensor that lacks some of its values")
        if isinstance(value, dict | list | tuple | set) and id(value) not in seen:  # it may contain itself
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def _check_weights(content: Saved, trainer: Trainer, module: SRModule) -> None:
    own, keys = module.state_dict(), ["state_dict"]
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        keys.append("current_model_state")
    elif "current_model_state" in content:
        raise _MisfitError("its weights are averages, but this run does not average its weights (ema_decay)")
    for key in keys:
        if content[key].keys() != own.keys():
            raise _MisfitError(f"{key} does not have the weights of the network")
        for name, weight in own.items():
            value = content[key][name]
            if value.shape != weight.shape or value.dtype != weight.dtype:
                raise _MisfitError(f"{key}: {name} is not {weight.dtype} {tuple(weight.shape)}")
            if not value.isfinite().all():
                raise _MisfitError(f"{key}: {name} contains values that are not finite")


def _check_counts(content: Saved, trainer: Trainer, module: SRModule) -> None:
    step, most = content["global_step"], trainer.max_steps if trainer.max_steps > 0 else 2**53
    if Version(content["pytorch-lightning_version"]) < _OLDEST:
        raise _MisfitError(f"it was saved by a Lightning older than {_OLDEST}")
    _check_counters(trainer.fit_loop.state_dict(), content["loops"]["fit_loop"])
    progress = content["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    if progress["optimizer"]["step"]["total"]["completed"] != step:
        raise _MisfitError("its loops are at a different step than global_step")
    for key, count, limit in (
        ("global_step", step, most),
        ("skipped_steps", content.get("skipped_steps", 0), step),
    ):
        if type(count) is not int or not 0 <= count <= limit:
            raise _MisfitError(f"{key} is not an integer from 0 to {limit}")
    losses = content.get("losses", torch.empty(0))
    if losses.ndim != 1 or not losses.is_floating_point():
        raise _MisfitError("losses is not a vector of floating-point numbers")
    terms = content.get("loss_terms", losses[:, None][:, :0])
    count = len(module.loss.names) if isinstance(module.loss, WeightedLoss) else 0
    if terms.shape != (len(losses), count) or not terms.is_floating_point():
        raise _MisfitError(f"loss_terms does not have {count} terms for each loss")


def _check_counters(own: object, given: Any) -> None:
    """Check that each counter of Lightning's loops in the checkpoint is a valid count."""
    if isinstance(own, dict):
        for key in own.keys() & given.keys():
            _check_counters(own[key], given[key])
    elif isinstance(own, int) and (type(given) is not type(own) or given < 0):
        raise _MisfitError("a counter of its loops is not a whole number of at least 0")


def _check_optimizer(content: Saved, module: SRModule) -> None:
    """Check that optimizer and schedule have this run's classes and settings, and can take a step."""
    (state,), (schedule,) = content["optimizer_states"], content["lr_schedulers"]
    weights, optimizer, scheduler = recipe.on_copies(module)
    groups = optimizer.state_dict()["param_groups"]
    for own, given in zip(groups, state["param_groups"], strict=True):
        _check_settings("optimizer", optimizer, own, given, _OPTIMIZERS)
        if not 0 <= float(given["lr"]) < math.inf:
            raise _MisfitError("the learning rate is not a finite number of at least 0")
    _check_schedule(scheduler, schedule, content["global_step"] / module.steps_per_unit)
    for tensors in state["state"].values():
        if any(isinstance(value, Tensor) and not value.isfinite().all() for value in tensors.values()):
            raise _MisfitError("the optimizer's state contains values that are not finite")
    optimizer.load_state_dict(state)
    recipe.step_once(weights, optimizer)


def _check_schedule(scheduler: LRScheduler, given: Saved, units: float) -> None:
    """Check that a schedule has advanced by at most about ``units``, and check the schedules inside it."""
    own = scheduler.state_dict()
    _check_settings("scheduler", scheduler, own, given, _SCHEDULERS)
    if "optimizer" in given or any(callable(getattr(type(scheduler), key, None)) for key in given):
        raise _MisfitError("the scheduler's state would replace a method")
    # The last_epoch of a schedule in a sequence is -1 until that schedule begins.
    last, least = given.get("last_epoch", 0), min(0, int(own.get("last_epoch", 0)))
    if type(last) is not int or not least <= last <= units + 1:
        raise _MisfitError(f"the scheduler's last_epoch is not an integer from {least} to {units + 1:.0f}")
    if isinstance(scheduler, ReduceLROnPlateau):
        for key in _PLATEAU:
            if type(given.get(key)) not in (int, float):
                raise _MisfitError(f"the scheduler's {key} is not a number")
    if given.get("_milestones") != own.get("_milestones"):
        raise _MisfitError(f"_milestones of the checkpoint's scheduler is not {own.get('_milestones')}")
    inner = list(vars(scheduler).get("_schedulers", ()))
    for child, state in zip(inner, given.get("_schedulers", ()), strict=True):
        _check_schedule(child, state, units)


def _check_settings(
    what: str, owner: Optimizer | LRScheduler, own: Saved, given: Saved, kinds: list[type]
) -> None:
    """Check that a state fits its owner's class and, if that class is torch's, this run's settings."""
    ours, theirs = (_kind_of(state, [type(owner), *kinds]) for state in (own, given))
    if not issubclass(theirs, ours):  # AdamW is an Adam with other settings
        raise _MisfitError(f"the checkpoint's {what} is {theirs.__name__}, this run's is {ours.__name__}")
    if type(owner).__module__.startswith("torch.optim."):
        for key in own.keys() & given.keys() - _MOVING:
            if not key.startswith("_") and own[key] != given[key]:
                raise _MisfitError(f"{key} of the checkpoint's {what} is not {own[key]}")


def _kind_of(state: Saved, kinds: list[type]) -> type:
    """The class that best fits the settings in a state; the first class if several fit equally well."""

    def fit(kind: type) -> int:
        settings = inspect.signature(kind).parameters.keys() - {"params", "optimizer", "last_epoch"}
        return len(settings & state.keys()) - len(settings - state.keys())

    return max(kinds, key=fit)
