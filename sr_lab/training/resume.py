"""Whether a checkpoint that a run would go on from can be one of its own."""

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from packaging.version import InvalidVersion, Version
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from sr_lab.checkpoints.reading import is_plain
from sr_lab.errors import CheckpointError
from sr_lab.training.checkpointing import RandomState
from sr_lab.training.lit_module import SRModule

# Lightning rewrites checkpoints of an earlier one before anybody can look at them.
_OLDEST = Version("2.0")
_MOST = 2**53  # as far as a float counts
# What training changes in torch's own; `fused` and `foreach` depend on the device, schedules move the others.
_MOVED: dict[type[Optimizer | LRScheduler], set[str]] = {
    Optimizer: {"fused", "foreach", "lr", "momentum", "betas"},
    LRScheduler: {"last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"},
    lr_scheduler.CosineAnnealingWarmRestarts: {"T_cur", "T_i"},
    lr_scheduler.SequentialLR: {"_schedulers"},
    lr_scheduler.ChainedScheduler: {"_schedulers"},
    lr_scheduler.LambdaLR: {"lr_lambdas"},
    lr_scheduler.MultiplicativeLR: {"lr_lambdas"},
}
_LOSSES_OF_A_STEP = 1000  # LBFGS asks for more than one
_MOST_VALUES = 4 * 10**6  # a few bytes can stand for more than a machine walks through


def judge(path: Path, trainer: lightning.Trainer, module: SRModule) -> None:
    """Refuse a checkpoint that no run like this one can have saved, before anything follows what it says.

    Opening it runs nothing, but whoever made it has made its SHA-256 too, and Lightning and torch believe
    it: a rate that is a text ends in the middle of a step, and a schedule takes over any attribute. So all
    that they take over is held beside what this run would store: names, kinds, shapes, finite numbers. What
    a class of the user's own stores is free in all but the last: plain, finite, and no method's name.

    Args:
        path: What `newest` gave.
        trainer: Set up, but not started.
        module: What it will train.

    Raises:
        CheckpointError: It is none; the sentence says where.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    fault = next(_all_faults(content, trainer, module), None)
    if fault is not None:
        raise CheckpointError(
            f"resume: '{path}' is no checkpoint of such a run: {fault}; take another (or the torch and "
            "lightning that saved it), or begin anew with resume=never"
        )


def _all_faults(content: dict[str, Any], trainer: lightning.Trainer, module: SRModule) -> Iterator[str]:
    """Faults of a checkpoint; each is looked for once there are none before it."""

    def compared(own: Mapping[str, object], most: int = _MOST) -> Iterator[str]:
        return _faults(own, {key: content.get(key) for key in own}, most=most)

    if not _is_known(content.get("pytorch-lightning_version")):
        yield f"pytorch-lightning_version is none from {_OLDEST} to {lightning.__version__}"
    weights = module.state_dict()
    yield from compared({"state_dict": weights})
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, WeightAveraging) for callback in callbacks):
        averaging = {"n_averaged": torch.tensor(0)}
        yield from compared({"current_model_state": weights, "averaging_state": averaging})
    elif "current_model_state" in content:
        yield "its weights are averages, which this run does not make"

    steps = trainer.max_steps if trainer.max_steps > 0 else _MOST
    yield from compared({"epoch": 0, "global_step": 0}, most=steps)
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    batches = (steps + 1) * trainer.accumulate_grad_batches * (1 + sum(module.val_sets.values()))
    counters = {name: getattr(trainer, name).state_dict() for name in loops}
    yield from compared({"loops": counters}, most=_LOSSES_OF_A_STEP * batches)
    step = content["global_step"]
    progress = content["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    if progress["optimizer"]["step"]["total"]["completed"] != step:
        yield "loops are at another step than global_step"
    counts = {
        key: own for key, own in {"skipped_steps": 0, "validation_due": False}.items() if key in content
    }
    yield from compared(counts, most=step)
    losses = content.get("losses", torch.empty(0))
    if not (is_plain(losses) and losses.ndim == 1 and losses.is_floating_point() and _is_dense(losses)):
        yield "losses are no list of losses"
    draws = any(isinstance(callback, RandomState) for callback in callbacks)
    if draws and not (isinstance(content.get("random_state"), list) and content["random_state"]):
        yield "random_state is none"

    if not isinstance(content.get("callbacks"), dict):
        yield "callbacks are none"
    for callback in callbacks:
        yield from _callback_faults(callback, content["callbacks"].get(callback.state_key), step)
    optimizer, scheduler = _after_a_step(module)
    yield from _optimizer_faults(optimizer, content.get("optimizer_states"))
    yield from _scheduler_faults(scheduler, content.get("lr_schedulers"))
    if content["lr_schedulers"][0].get("last_epoch", 0) > step / module.steps_per_unit + 1:
        yield "lr_schedulers are further than global_step"
    if scaler := trainer.precision_plugin.state_dict():  # without one nothing is taken over
        names = {type(trainer.precision_plugin).__qualname__, "native_amp_scaling_state"}
        yield from compared(dict.fromkeys(sorted(names & content.keys()), scaler))


def _is_known(version: object) -> bool:
    """Whether Lightning takes such a checkpoint over as it is."""
    try:
        return isinstance(version, str) and _OLDEST <= Version(version) <= Version(lightning.__version__)
    except InvalidVersion:
        return False


def _callback_faults(callback: lightning.Callback, given: object, step: int) -> Iterator[str]:
    own, where = callback.state_dict(), f"callbacks.{type(callback).__name__}"
    if given is None and not (own and isinstance(callback, ModelCheckpoint | WeightAveraging)):
        return  # one that the user has added since
    free = not (_is_known_class(callback) or isinstance(callback, ModelCheckpoint | WeightAveraging))
    if not isinstance(given, dict) or (own and not free and given.keys() != own.keys()):
        yield f"{where} has other entries than it should"
    elif free:
        yield from _plain_faults(own, given, where)
    elif isinstance(callback, ModelCheckpoint):
        yield from _faults({"monitor": own["monitor"]}, {"monitor": given["monitor"]}, where)
        kept = given["best_k_models"]
        paths = [given[key] for key in own if key.endswith("path")]
        scores = [given[key] for key in ("best_model_score", "current_score", "kth_value")]
        if not isinstance(kept, dict) or not all(isinstance(path, str) for path in (*kept, *paths)):
            yield f"{where} has a path that is none"
        elif kept and given["kth_best_model_path"] not in kept:
            yield f"{where} has a path that it does not keep"
        if not all(map(_is_score, [*kept.values(), *(score for score in scores if score is not None)])):
            yield f"{where} has a score that is none"
    else:  # of others only what is not made in the course of a training
        plain = {key: value for key, value in own.items() if isinstance(value, bool | int | float | Tensor)}
        most = step if isinstance(callback, WeightAveraging) else _MOST
        yield from _faults(plain, {key: given[key] for key in plain}, where, most=most)
        if type(callback).__module__.startswith("lightning."):
            try:
                copy.copy(callback).load_state_dict(copy.deepcopy(given))
            except Exception:  # whatever it makes of it
                yield f"{where} is not to be taken over"


def _is_score(given: object) -> bool:
    return (
        isinstance(given, Tensor) and given.shape == () and not bool(given.isnan()) and not given.is_complex()
    )


def _after_a_step(module: SRModule) -> tuple[Optimizer, LRScheduler]:
    """A new optimizer that has made a step, so that it has a state of each parameter, and its schedule."""
    assert module.make_optimizer is not None
    assert module.make_scheduler is not None
    weights = [
        nn.Parameter(weight.detach().clone(), weight.requires_grad) for weight in module.network.parameters()
    ]
    optimizer = module.make_optimizer(iter(weights))
    scheduler = module.make_scheduler(optimizer)
    for weight in weights:
        weight.grad = torch.ones_like(weight) if weight.requires_grad else None
    optimizer.step(lambda: torch.ones(()))  # type: ignore[arg-type, return-value]
    return optimizer, scheduler


def _optimizer_faults(optimizer: Optimizer, given: object) -> Iterator[str]:
    """Faults of ``optimizer_states``: one optimizer, of these parameters."""
    own = optimizer.state_dict()
    if isinstance(given, list) and given and isinstance(given[0], dict):
        states = given[0].get("state")
        if isinstance(states, dict):  # a parameter that has not learnt yet has none; LBFGS's history grows
            first = {key: state for key, state in own["state"].items() if key in states}
            own["state"] = states if isinstance(optimizer, LBFGS) else first
    if not _is_known_class(optimizer):
        yield from _own_optimizer_faults(own, given, "optimizer_states")
        return
    yield from _faults([own], given, "optimizer_states")
    assert isinstance(given, list)
    for group, other in zip(own["param_groups"], given[0]["param_groups"], strict=True):
        yield from _settings_faults(optimizer, group, other)


def _own_optimizer_faults(own: dict[str, Any], given: object, where: str) -> Iterator[str]:
    """Faults of the state of a user's own optimizer: torch assigns it to parameters, by groups."""
    yield from _plain_faults([own], given, where)
    if not (isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict)):
        yield f"{where} are not those of one optimizer"
        return
    states, groups = given[0].get("state"), given[0].get("param_groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        yield f"{where} has groups that are none"
        return
    ours, theirs = (
        [{key: group.get(key) for key in ("params", "lr")} for group in each]
        for each in (own["param_groups"], groups)
    )
    yield from _faults(ours, theirs, where)
    if not isinstance(states, dict):
        yield f"{where} has no states of parameters"


def _scheduler_faults(scheduler: LRScheduler, given: object) -> Iterator[str]:
    """Faults of ``lr_schedulers``: one schedule, any of whose attributes a file can name."""
    own, where = scheduler.state_dict(), "lr_schedulers"
    if not (isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict)):
        yield f"{where} are not those of one schedule"
        return
    state = given[0]
    if _is_known_class(scheduler):
        yield from _faults(own, state, where)
        yield from _settings_faults(scheduler, own, state)
        return
    yield from _plain_faults(own, state, where)
    names = [key for key in state if not isinstance(key, str) or key == "optimizer"]
    if names or any(callable(getattr(scheduler, key, None)) and key not in own for key in state):
        yield f"{where} has an entry in the place of a method"
    counted = {key: own[key] for key in ("last_epoch", "_step_count", "base_lrs", "_last_lr") if key in own}
    yield from _faults(counted, {key: state.get(key) for key in counted}, where)


def _settings_faults(
    owner: Optimizer | LRScheduler, own: dict[str, Any], given: dict[str, Any]
) -> Iterator[str]:
    """Settings that a file would put in the place of this run's, where it is known what training changes."""
    if type(owner).__module__.startswith("torch.optim."):
        moved = set().union(*(names for kind, names in _MOVED.items() if isinstance(owner, kind)))
        for key, value in own.items():
            if key not in moved and given[key] != value:
                yield f"{key} of {type(owner).__name__} is not this run's"


def _is_known_class(owner: object) -> bool:
    """Whether it is torch's, Lightning's or ours; the user has vouched for others (``allow``)."""
    return type(owner).__module__.partition(".")[0] in ("torch", "lightning", "sr_lab")


def _plain_faults(own: object, given: object, where: str) -> Iterator[str]:
    """What is not plain, finite and bounded; names, kinds and lengths are free, and what our own has, too."""
    waiting, left = [(own, given)], _MOST_VALUES
    while waiting:
        mine, value = waiting.pop()
        if isinstance(value, dict | list | tuple | set):
            left -= len(value)
            if left < 0:  # it may hold itself
                yield f"{where} has more than {_MOST_VALUES} values"
            known, children = (_numbered(each) for each in (mine, value))
            waiting += [(known.get(key), child) for key, child in children.items()]
        elif isinstance(value, Tensor):
            free = isinstance(mine, Tensor) and not torch.isfinite(mine).all()
            if not (is_plain(value) and _is_dense(value) and (free or torch.isfinite(value).all())):
                yield f"{where} has a tensor that is not of finite numbers"
        elif isinstance(value, int | float):
            same = type(mine) is type(value) and mine == value
            if not same and not (abs(value) <= _MOST if isinstance(value, int) else math.isfinite(value)):
                yield f"{where} has a number that is not finite"
        elif not isinstance(value, str | torch.dtype | torch.device | None):
            yield f"{where} has something that is no plain value"


def _numbered(values: object) -> dict[Any, object]:
    """Values by their key or place; nothing of what has none."""
    if isinstance(values, dict):
        return values
    return dict(enumerate(values)) if isinstance(values, list | tuple | set) else {}


def _faults(own: object, given: object, where: str = "", *, most: int = _MOST) -> Iterator[str]:
    """What of a state no state like our own can hold.

    Args:
        own: State of what is newly made: tells entries, lengths, kinds and shapes.
        given: State from a file.
        where: Its place in there.
        most: No count is larger, unless our own is.
    """
    if isinstance(own, dict):
        if not isinstance(given, dict) or given.keys() != own.keys():
            yield f"{where or 'the whole'} has other entries than it should"
            return
        for key, value in own.items():
            yield from _faults(value, given[key], f"{where}.{key}".removeprefix("."), most=most)
    elif isinstance(own, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(own):
            yield f"{where} has another length than it should"
            return
        for number, value in enumerate(own):
            yield from _faults(value, given[number], f"{where}.{number}", most=most)
    elif isinstance(own, Tensor):
        if not isinstance(given, Tensor) or not _is_alike(own, given):
            yield f"{where} is no tensor of numbers in {tuple(own.shape)}"
        elif where.endswith(".step") and given < 0:
            yield f"{where} is negative"
    elif own is None or isinstance(own, bool):  # some switches are None until they are turned
        if given is not None and not isinstance(given, bool):
            yield f"{where} is no yes or no"
    elif isinstance(own, int):
        if type(given) is not int or not (given == own or 0 <= given <= max(own, most)):
            yield f"{where} is no count" + (f" up to {most}" if most < _MOST else "")
    elif isinstance(own, float):
        allowed = type(given) is float and (
            given == own or (math.isfinite(given) and (given >= 0 or not 0 <= own < math.inf))
        )
        if not allowed:
            yield f"{where} is no such number"
    elif type(given) is not type(own) or given != own:
        yield f"{where} is not this run's"


def _is_alike(own: Tensor, given: Tensor) -> bool:
    """Whether it has the kind and shape, and finite numbers in places of their own."""
    return (
        is_plain(given)
        and given.shape == own.shape
        and given.is_floating_point() == own.is_floating_point()
        and not given.is_complex()
        and _is_dense(given)
        and bool(torch.isfinite(given.to(own.dtype)).all() or not torch.isfinite(own).all())
    )


def _is_dense(given: Tensor) -> bool:
    """Whether no two of its numbers lie in one place: to those nothing can be written."""
    return torch.empty_like(given, device="meta").stride() == given.stride()
