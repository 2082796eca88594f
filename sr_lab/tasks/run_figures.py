"""The figures of ``task=analyze`` that show training runs and costs, without running a network."""

import functools
from collections.abc import Mapping, Sequence

from hydra.errors import HydraException
from omegaconf import OmegaConf

from sr_lab.analysis import drawing
from sr_lab.analysis.drawing import Analysis
from sr_lab.analysis.learning_rates import rates
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config import targets
from sr_lab.config.compose import option
from sr_lab.config.messages import explain
from sr_lab.config.schema import AnalyzeConfig, Schedule
from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.reporting import counts, curves, published, tradeoff
from sr_lab.reporting.saved_images import safe
from sr_lab.reporting.tradeoff import Point, Times
from sr_lab.tasks import common, figure_networks
from sr_lab.zoo import published as zoo

_Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def schedule(config: AnalyzeConfig) -> Analysis:
    """Learning rates over the steps (IMFM, Fig. 3): of schedules, or as training runs recorded them.

    Raises:
        ConfigError: Neither schedules nor runs are given, or both are; or a schedule does not fit the steps.
    """
    if bool(config.schedules) == (config.own_runs is not None):
        raise ConfigError(
            "schedules: kind=schedule draws either schedules or training runs; set schedules=[cosine,step] "
            "or own_runs=<the folder of the runs>"
        )
    if not config.schedules:
        return _curves(config, "learning_rate", "learning rate", "Learning rate")
    lines = {name: _planned(config, name) for name in config.schedules}
    return _found(config, lines, "learning_rate", "learning rate", "Learning rate")


def convergence(config: AnalyzeConfig) -> Analysis:
    """Validation PSNR over the steps of training runs (IMFM, Fig. 4; OSFFNet, Fig. 7)."""
    if config.psnr_set is None:
        return _curves(config, "val/psnr_y", "validation PSNR [dB]", "Validation PSNR during training")
    title = f"PSNR on {config.psnr_set} during training"
    return _curves(config, f"val/{config.psnr_set}/psnr_y", f"PSNR on {config.psnr_set} [dB]", title)


def _planned(config: AnalyzeConfig, name: str) -> tuple[list[float], list[float]]:
    """The learning rate of ``schedule=<name>`` over the recipe's steps, whatever the budget."""
    settings = {key: getattr(config, key) for key in ("steps", "steps_per_epoch", "learning_rate")}
    settings |= {key: value for key, value in config.recipe.items() if key in settings}
    try:
        node = OmegaConf.create({**settings, "schedule": option("schedule", name)})
    except HydraException as error:
        raise ConfigError(f"schedules: {explain(error)}") from error
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    own = Schedule.model_validate(found["schedule"])
    targets.check("schedule", own.scheduler, config.allow)
    return rates(
        targets.build("schedule", own.scheduler, config.allow),
        learning_rate=float(settings["learning_rate"]),
        steps=int(settings["steps"]),
        steps_per_unit=float(settings["steps_per_epoch"]) if own.interval == "epoch" else 1.0,
    )


def _curves(config: AnalyzeConfig, column: str, ylabel: str, title: str) -> Analysis:
    if config.own_runs is None:
        raise ConfigError(f"own_runs: kind={config.kind} draws training runs; set own_runs=<their folder>")
    found = curves.read(figure_networks.own_runs(config), column)
    if not found:
        where = figure_networks.where_to_train(config, config.scale)
        raise ConfigError(f"own_runs: no training run has recorded {column} in {where}")
    return _found(config, {curve.name: (curve.steps, curve.values) for curve in found}, column, ylabel, title)


def _found(config: AnalyzeConfig, lines: _Lines, column: str, ylabel: str, title: str) -> Analysis:
    if config.names:
        if len(config.names) != len(lines):
            raise ConfigError(
                f"names: got {len(config.names)} for {len(lines)} lines ({', '.join(lines)}); "
                "give one name for each"
            )
        lines = dict(zip(config.names, lines.values(), strict=True))
    rows = [
        {"run": name, "step": int(step), column: value}
        for name, (steps, values) in lines.items()
        for step, value in zip(steps, values, strict=True)
    ]
    says = [f"{name}: {len(steps)} points, last {values[-1]:.4g}" for name, (steps, values) in lines.items()]
    figure = drawing.curves(lines, title=title, ylabel=ylabel)
    return Analysis("", title, figure, rows, says)


def trade_off(config: AnalyzeConfig) -> Analysis:
    """PSNR against parameters, multiply-adds and time (OSFFNet, Fig. 5; EFRDN, Fig. 7).

    With ``table``, shows that table's networks and values; otherwise all networks that papers compare.
    """
    set_name = config.psnr_set or "Urban100"
    table = None if config.table is None else (config.table.paper, config.table.name)
    runs = [run for run in figure_networks.own_runs(config) if not run.problem and run.scale == config.scale]
    if config.own_runs is not None and not runs:
        where = figure_networks.where_to_train(config, config.scale)
        common.console.print(f"own_runs: there is no finished run at x{config.scale} in {where}")
    times = Times.of([run for run in runs if run.is_cost])
    own = tradeoff.measured([run for run in runs if run.is_as_printed(set_name)], set_name, times)
    if set_name == "Set5":
        own += _weights(config.scale, times, table)
    printed = tradeoff.printed(config.scale, set_name, table=table, times=times)
    points = [*printed, *own] if table else tradeoff.around(own, scale=config.scale, set_name=set_name)
    if not points:
        raise ConfigError(f"psnr_set: no PSNR on {set_name} at x{config.scale} is known; give another set")
    title = f"PSNR on {set_name} and cost, x{config.scale}"
    with drawing.style():
        figure = tradeoff.figure(points, title=title, set_name=set_name, time=times.label)
    says = [f"{len(points)} points, counted by one rule; networks that are not implemented here are left out"]
    if table is not None:
        asked = ("psnr_y", set_name, config.scale)
        rows = [f.row for f in published.table(*table) if (f.metric, f.set_name, f.scale) == asked]
        shown = {point.name.partition(" (")[0] for point in printed}
        if missing := [row for row in rows if row not in shown]:
            says.append(f"not implemented here, or printed with another size: {', '.join(missing)}")
    return Analysis(f"{safe(set_name)}_x{config.scale}", title, figure, tradeoff.rows(points), says)


def _weights(scale: int, times: Times, table: tuple[str, str] | None) -> list[Point]:
    """Published weights with their PSNR on Set5, measured with their authors' code."""
    wanted = None if table is None else {figure.model for figure in published.table(*table)}
    found = []
    for entry in zoo.published().values():
        if entry.scale == scale and (wanted is None or entry.model in wanted):
            size, time = _size(entry.model, scale), times.of_model(entry.model, scale)
            found.append(Point(counts.printed_name(entry.model), *size, entry.psnr_y, "weights", time))
    return found


@functools.cache
def _size(model: str, scale: int) -> tuple[float, float]:
    """Parameters and multiply-adds of a network as it is used, counted like all others."""
    if size := counts.size(model, scale):
        return size.num_params, size.multi_adds
    network = fold(Entry(model, scale).build().eval())
    return num_params(network), multi_adds(network, scale=scale, rule="all")
