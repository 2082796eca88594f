"""``task=complexity``: cost of a network in parameters, multiply-adds, activations, memory and time."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from sr_lab import files
from sr_lab.analysis import drawing
from sr_lab.checkpoints.opening import build_network
from sr_lab.config.compose import to_yaml
from sr_lab.config.networks import option_of
from sr_lab.config.schema import ComplexityConfig
from sr_lab.layers.folding import for_inference
from sr_lab.ops.complexity import HR_SIZE, lr_image
from sr_lab.reporting import counts, published, saved_images, tradeoff
from sr_lab.reporting.experiment import print_experiment, print_runs
from sr_lab.reporting.runs import Run, find_runs, read_run
from sr_lab.reporting.safe_csv import csv_text, runs_to_csv
from sr_lab.reporting.tradeoff import Point, Source, Times
from sr_lab.run_folder import RunFolder
from sr_lab.runs.provenance import provenance
from sr_lab.system.devices import check_gpu, device_of, exact_float32, has_gpu
from sr_lab.tasks import common

_CPU_SIZE = (HR_SIZE[0] // 2, HR_SIZE[1] // 2)  # so small that even the largest network takes only seconds


def run(config: ComplexityConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Count operations, measure time, and write both into the run folder.

    Raises:
        ConfigError: ``psnr_set`` or ``runs`` is given, but only a multirun draws a plot; or the device is
            missing.
    """
    common.refuse_alone(("psnr_set", "runs"), overrides)
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    run_folder = RunFolder(folder)
    with run_folder.attempt(wait=common.waiting_note(folder)) as done_meanwhile:
        if not done_meanwhile:
            _measure(config, run_folder)
    if not common.in_multirun():
        print_runs([read_run(folder)], columns=config.columns)


def _measure(config: ComplexityConfig, folder: RunFolder) -> None:
    network = build_network(config, config.allow).eval()
    counted = common.cost(network, config.scale)
    network = for_inference(network)  # time is measured on the folded network
    cost: dict[str, float | str] = counted | cpu_time(network, config.scale)
    if has_gpu(config.trainer.accelerator):
        with torch.cuda.device(device_of(config.trainer.accelerator, config.trainer.devices)):
            cost |= gpu_time(network, config.scale)
    folder.write_config(to_yaml(config))
    option = option_of(config.model, config.scale)
    folder.write_metrics(provenance(config, folder.path) | {"option": option} | cost)


def collect(config: ComplexityConfig, folders: Sequence[Path]) -> None:
    """Print a table of several networks, and write CSV and plots next to their run folders."""
    counted, place = [read_run(folder) for folder in folders], folders[0].parent
    if counted[0].table is not None:  # rows of trained networks: PSNR and costs in one table
        print_experiment([run.path for run in find_runs(place) if not run.problem], columns=config.columns)
    else:
        print_runs(counted, columns=config.columns)
    files.write(place / "complexity.csv", runs_to_csv(counted))
    common.console.print(f"table: {place / 'complexity.csv'}")
    for old in place.glob("complexity_x*.*"):
        old.unlink()
    trained = find_runs(Path(config.runs)) if config.runs is not None else []
    times = Times.of(counted)
    for scale in sorted({run.scale for run in counted if not run.problem}):
        of_scale = [run for run in counted if run.scale == scale]
        found = {
            name: _points(name, run, trained, config.psnr_set, times)
            for name, run in zip(saved_images.names(of_scale), of_scale, strict=True)
        }
        if points := [point for own in found.values() for point in own]:
            for path in _write_plot(points, place / f"complexity_x{scale}", config.psnr_set, times, scale):
                common.console.print(f"plot: {path}")
        if left_out := [name for name, own in found.items() if not own]:
            common.console.print(
                f"not in the plot (no paper prints their PSNR on {config.psnr_set}): {', '.join(left_out)}"
            )


def _write_plot(points: Sequence[Point], stem: Path, set_name: str, times: Times, scale: int) -> list[Path]:
    title = f"PSNR on {set_name} and cost, x{scale}"
    with drawing.style():
        figure = tradeoff.figure(points, title=title, set_name=set_name, time=times.label)
    numbers = tradeoff.rows(points)
    contents: dict[str, str | bytes] = {**drawing.written(figure, made_by="task=complexity", says=title)}
    contents["csv"] = csv_text(list(numbers[0]), numbers)
    paths = []
    for suffix, content in contents.items():
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        files.write(paths[-1], content)
    return paths


def _points(name: str, run: Run, trained: Sequence[Run], set_name: str, times: Times) -> list[Point]:
    """The points of a network: its paper's PSNR, and the PSNR of trained runs of the same network.

    A variant of a network has no printed PSNR.
    """
    num_params, multi_adds = run.number("num_params") or 0, run.number("multi_adds")
    if multi_adds is None:
        return []
    network = tradeoff.network_of(run)
    reached = [
        other.number(f"test/{set_name}/psnr_y")
        for other in trained
        if tradeoff.network_of(other) == network and other.is_as_printed(set_name)
    ]
    sources: list[tuple[Source, float | None]] = [("paper", _printed(run, set_name))]
    sources += [("run", value) for value in reached]
    return [
        Point(name, num_params, multi_adds, value, source, times.values.get(network))
        for source, value in sources
        if value is not None
    ]


def _printed(run: Run, set_name: str) -> float | None:
    """The PSNR that the run's own table prints for the network, or else the one that most papers print."""
    if not tradeoff.is_of_paper(run):
        return None
    wanted = (run.scale, set_name, "psnr_y")
    table = published.table(*run.table) if run.table is not None else ()
    own = [f.value for f in table if f.row in run.labels and (f.scale, f.set_name, f.metric) == wanted]
    return own[0] if own else counts.psnr(str(run.values.get("option")), run.scale, set_name)


def cpu_time(network: nn.Module, scale: int) -> dict[str, float]:
    """Seconds per megapixel of an eager float32 forward pass on the CPU, with an output of 640x360.

    Attention over the whole image costs more per megapixel in a larger image. Compare only times from one
    run of this task, since they depend on the machine, its threads and its load.
    """
    lr = lr_image(network, scale, "cpu", _CPU_SIZE).uniform_()
    seconds = _times(lambda: network(lr))
    megapixels = lr.shape[2] * lr.shape[3] * scale**2 / 1e6
    return _quartiles("cpu_s_per_megapixel", [second / megapixels for second in seconds])


def gpu_time(network: nn.Module, scale: int) -> dict[str, float]:
    """Milliseconds and peak memory of an eager float32 forward pass on the GPU, with a 1280x720 output."""
    network = network.cuda()
    lr = lr_image(network, scale, "cuda").uniform_()
    torch.cuda.reset_peak_memory_stats()
    seconds = _times(lambda: network(lr), synchronise=torch.cuda.synchronize)
    memory = torch.cuda.max_memory_allocated()
    network.cpu()
    return _quartiles("gpu_ms", [second * 1e3 for second in seconds]) | {"gpu_peak_memory_bytes": memory}


@torch.inference_mode()
def _times(
    forward: Callable[[], object],
    *,
    synchronise: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of each forward pass after a warm-up: at least five passes, and at least one second in all."""
    seconds: list[float] = []
    warm_up = 3 if torch.cuda.is_available() else 1  # first, a GPU chooses kernels and raises its clock
    with exact_float32():
        while len(seconds) < warm_up + 5 or sum(seconds[warm_up:]) < 1:
            synchronise()
            started = time.perf_counter()
            forward()
            synchronise()
            seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def _quartiles(key: str, values: Sequence[float]) -> dict[str, float]:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {key: median, f"{key}_q1": q1, f"{key}_q3": q3}
