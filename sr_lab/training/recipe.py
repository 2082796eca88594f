"""Which weights are trained, and whether optimizer and schedule fit them; checked before images are read."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sr_lab.errors import ConfigError
from sr_lab.training.lit_module import SRModule


def freeze(network: nn.Module, patterns: Sequence[str]) -> int:
    """Exclude the weights that match a pattern from the training.

    A pattern is a dotted name or its beginning: ``body`` is everything in the body, ``body.*.conv`` the part
    ``conv`` of each block; ``*``, ``?`` and ``[0-9]`` match as in file names.

    Args:
        network: Changed in place.
        patterns: The patterns.

    Returns:
        The number of frozen values.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    names = dict(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        found = [
            name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in _beginnings(name))
        ]
        if not found:
            parts = dict.fromkeys(
                ".".join(name.split(".")[:-1][:depth]) for name in names for depth in (1, 2)
            )
            known = ", ".join([part for part in parts if part][:12])
            raise ConfigError(
                f"freeze: no weight of {type(network).__name__} matches '{pattern}'; its parts are {known}"
            )
        for name in found:
            names[name].requires_grad_(False)
    return sum(weight.numel() for weight in network.parameters() if not weight.requires_grad)


def _beginnings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def on_copies(module: SRModule) -> tuple[list[nn.Parameter], Optimizer, LRScheduler]:
    """Copies of the trained weights on the CPU, and an optimizer and a schedule for them."""
    assert module.make_optimizer is not None
    assert module.make_scheduler is not None
    weights = [nn.Parameter(weight.detach().cpu().clone()) for _, weight in module.trained()]
    optimizer = module.make_optimizer(list(weights))
    return weights, optimizer, module.make_scheduler(optimizer)


def step_once(weights: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
    """Take a step in which every gradient is one."""
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step(lambda: torch.ones(()))  # type: ignore[arg-type, return-value]


def check(module: SRModule, *, steps: int, interval: str, say: Callable[[str], None]) -> None:
    """Try the optimizer and the schedule on copies of the weights.

    Args:
        module: The module.
        steps: Optimizer steps of the training.
        interval: The unit of the schedule (``schedule.interval``).
        say: Prints a line for the user.

    Raises:
        ConfigError: The optimizer refuses a weight, or the schedule does not fit the training.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            weights, optimizer, scheduler = on_copies(module)
            step_once(weights, optimizer)
    except Exception as error:
        _explain_refusal(module)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"optimizer: cannot take a step: {_line(error)}; choose another optimizer"
        ) from error
    _check_interval(scheduler, module, interval)
    if interval != "validation":
        _check_length(scheduler.state_dict(), int(steps / module.steps_per_unit + 1e-9), interval, say)


def _explain_refusal(module: SRModule) -> None:
    """Raise an error that names the first weight that the optimizer refuses, unless it refuses all."""
    assert module.make_optimizer is not None
    for name, weight in [("", torch.zeros(2, 2)), *module.trained()]:
        copy = nn.Parameter(weight.detach().cpu().clone())
        try:
            optimizer = module.make_optimizer([copy])
            step_once([copy], optimizer)
        except Exception as error:
            if not name:  # it refuses even a 2x2 matrix, so shapes are not the cause
                return
            raise ConfigError(
                f"optimizer: refuses {name}, whose shape is {tuple(weight.shape)} ({_line(error)}); use "
                "optimizer=adam, or leave such weights out with freeze=[...]"
            ) from error


def _line(error: BaseException) -> str:
    """The first line of the library's message."""
    cause = error.__cause__ if isinstance(error, ConfigError) and error.__cause__ is not None else error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _check_interval(scheduler: LRScheduler, module: SRModule, interval: str) -> None:
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau) != (interval == "validation"):
        fits = "step or epoch" if interval == "validation" else "validation"
        raise ConfigError(f"schedule.interval: {name} needs {fits}, got {interval}")
    metrics = [f"val/{each}/{kind}" for each in module.val_sets for kind in ("psnr_y", "ssim_y")]
    metrics.insert(0, "val/psnr_y")
    if interval != "validation":
        if module.monitor is not None:
            raise ConfigError(
                f"schedule.monitor: {name} monitors no metric, got {module.monitor}; leave monitor out"
            )
    elif module.monitor not in metrics:
        raise ConfigError(
            f"schedule.monitor: must be a metric of the validation, got {module.monitor}; allowed: "
            f"{', '.join(metrics)}"
        )


def _check_length(state: dict[str, Any], units: int, interval: str, say: Callable[[str], None]) -> None:
    """Compare the length of OneCycleLR, even inside a sequence, with that of the training."""
    inner = state.get("_schedulers", [])
    edges = [0, *state.get("_milestones", []), units]
    for place, child in enumerate(inner):
        _check_length(child, min(units, edges[place + 1]) - edges[place], interval, say)
    if (length := state.get("total_steps")) is None or length == units:
        return
    use = f"set its total_steps to {units}"
    use += " (schedule.scheduler.total_steps='${steps}')" if interval == "step" and not inner else ""
    if length < units:
        raise ConfigError(f"schedule: OneCycleLR ends after {length} of {units} {interval}s; {use}")
    say(
        f"schedule: OneCycleLR takes {length} {interval}s, but this training run has only {units} for it, "
        f"so the cycle stops midway; {use}"
    )
