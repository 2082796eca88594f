"""``task=analyze``: figures of what happens inside networks, during training, and where results are wrong."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sr_lab import files
from sr_lab.analysis import attribution, drawing, errors, features, spectrum, stages
from sr_lab.analysis.drawing import Panel
from sr_lab.analysis.stages import Stage
from sr_lab.config.schema import AnalyzeConfig
from sr_lab.errors import ConfigError
from sr_lab.layers.network import colour_of
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import quantise
from sr_lab.reporting import curves
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.saved_images import safe
from sr_lab.system.devices import check_gpu
from sr_lab.tasks import common, pictured
from sr_lab.tasks.pictured import Network, Shown
from sr_lab.training.lit_module import SRModule


@dataclass(frozen=True)
class Found:
    """What an analysis found.

    Args:
        figure: The picture.
        rows: The numbers behind it.
        says: What they say, a sentence for each network.
    """

    figure: Figure
    rows: Sequence[Mapping[str, object]]
    says: Sequence[str] = ()


def run(config: AnalyzeConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Draw one kind of analysis, and write it as PNG, PDF and CSV into the folder.

    Raises:
        ConfigError: A setting that the kind needs is missing, a network does not suit it, or a file exists.
        CheckpointError: A checkpoint cannot be opened.
        DataError: An image is missing or broken.
    """
    if config.kind in _OF_RUNS:
        stem, found = str(config.kind), _OF_RUNS[config.kind](config)
    else:
        check_gpu(config.trainer.accelerator, config.trainer.devices)
        networks = pictured.networks(config, overrides)
        scale = networks[0].scale
        shown = pictured.image(config, scale)
        stem = f"{config.kind}_{safe(shown.name)}_x{scale}"
        with common.console.status(f"{config.kind} of {len(networks)} networks"):
            found = _OF_NETWORKS[config.kind](config, networks, shown)
    paths = {suffix: folder / f"{stem}.{suffix}" for suffix in ("png", "pdf", "csv")}
    for path in paths.values():
        if path.exists() and not config.overwrite:
            raise ConfigError(f"output: '{path}' exists; add overwrite=true, or choose another output")
    for suffix, content in drawing.written(found.figure).items():
        files.write(paths[suffix], content)
    columns = list(dict.fromkeys(key for row in found.rows for key in row))
    files.write(paths["csv"], csv_text(columns, found.rows))
    for sentence in found.says:
        common.console.print(sentence)
    for path in paths.values():
        common.console.print(f"written: {common.shown(path)}")


def _psd(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    """Two Strategies, Figs. 1 and 5."""
    drawn, rows, says = {}, [], []
    for each in networks:
        found = stages.stages(each.network, _input(each, shown))
        less = spectrum.lacking(found)
        blocks = [stage for stage in found if stage.module != "head"]
        drawn[each.name] = [(s.name, spectrum.psd(s.output), s.name in less) for s in blocks]
        for name, power, lacks in drawn[each.name]:
            rows += [
                {"network": each.name, "block": name, "less_than_before": lacks}
                | {"frequency_cycles_per_pixel": float(f), "power_db": float(p)}
                for f, p in zip(power.frequency, power.decibels, strict=True)
            ]
        count = len(blocks) - 1
        which = f" ({', '.join(less)})" if less else ""
        says.append(
            f"{each.name}: {len(less)} of {count} blocks have less power above {spectrum.HIGH} cycles/pixel "
            f"than the block before{which}"
        )
    title = f"Power spectral density of each block's output, {_titled(networks, shown)}"
    return Found(drawing.spectra(drawn, title=title), rows, says)


def _residual(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    """Two Strategies, Figs. 2 and 6."""
    drawn, rows, says = {}, [], []
    for each in networks:
        found = stages.stages(each.network, _input(each, shown))
        known = [(stage, stage.residual) for stage in found if stage.module != "head"]
        values = [(stage.name, float(r.abs().mean())) for stage, r in known if r is not None]
        if not values:
            raise ConfigError(f"analyze: no block of {each.name} keeps the shape of its input; leave it out")
        drawn[each.name] = values
        spread = {stage.name: float(stage.input.std()) for stage, _ in known}
        rows += [
            {"network": each.name, "block": name, "mean_absolute_residual": value, "input_std": spread[name]}
            for name, value in values
        ]
        largest = max(values, key=lambda value: value[1])
        mean = math.fsum(value for _, value in values) / len(values)
        says.append(f"{each.name}: mean {mean:.4g}, largest {largest[1]:.4g} (block {largest[0]})")
    title = f"Mean absolute residual of each block, {_titled(networks, shown)}"
    return Found(drawing.residuals(drawn, title=title), rows, says)


def _features(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    """OSFFNet, Fig. 1; EFRDN, Fig. 6."""
    drawn, rows = {}, []
    for each in networks:
        found = _chosen(stages.stages(each.network, _input(each, shown)), config.blocks, each.name)
        panels = [Panel(_called(stage), features.mean_map(stage.output), "magnitude") for stage in found]
        for number, map_ in features.strongest(found[-1].output, config.channels):
            panels.append(Panel(f"{_called(found[-1])}, channel {number}", map_, "value"))
        drawn[each.name] = panels
        for stage in found:
            map_, power = features.mean_map(stage.output), spectrum.psd(stage.output)
            values = {"mean": float(map_.mean()), "std": float(map_.std()), "power_high_db": power.high}
            rows.append({"network": each.name, "block": stage.name} | values)
    title = f"Mean magnitude of the features, shallow to deep, {_titled(networks, shown)}"
    return Found(drawing.maps(drawn, title=title), rows)


def _attention(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    drawn, rows = {}, []
    for each in networks:
        found = features.attention(each.network, _input(each, shown), only=config.modules)
        drawn[each.name] = [Panel(f"{own.kind} {own.name}", own.map, "factor") for own in found]
        rows += [
            {"network": each.name, "module": own.name, "kind": own.kind}
            | {"mean": float(own.map.mean()), "std": float(own.map.std())}
            for own in found
        ]
    title = f"Attention: what each pixel is multiplied by, {_titled(networks, shown)}"
    return Found(drawing.maps(drawn, title=title, shared=True), rows)


def _lam(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    window = _window(config, networks[0].scale, shown)
    place = ",".join(map(str, window))
    return _attributed(
        networks,
        shown,
        lambda each: attribution.local_attribution(each.network.eval(), _input(each, shown), window),
        title=f"Local attribution of the window {place}, {_titled(networks, shown)}",
    )


def _receptive_field(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    return _attributed(
        networks,
        shown,
        lambda each: attribution.receptive_field(each.network.eval(), _input(each, shown)),
        title=f"Effective receptive field of the central pixel, {_titled(networks, shown)}",
    )


def _attributed(
    networks: Sequence[Network],
    shown: Shown,
    attribute: Callable[[Network], attribution.Attribution],
    *,
    title: str,
) -> Found:
    drawn, rows, says = {}, [], []
    grey = rgb_to_y(shown.lr) if shown.lr.shape[1] == 3 else shown.lr
    faint = grey[0].expand(3, -1, -1).permute(1, 2, 0).cpu() * 0.5
    for each in networks:
        found = attribute(each)
        heat = found.map.cpu().sqrt()[..., None]  # the root makes small contributions visible
        red = torch.tensor([1.0, 0.15, 0.1])
        drawn[each.name] = [
            Panel(f"DI {found.diffusion_index:.1f}", faint * (1 - heat) + red * heat),
            Panel("", found.map.cpu().clamp_min(1e-4).log10(), "log10 of the contribution", (-4.0, 0.0)),
        ]
        side = attribution.side_of(found.map)
        rows.append(
            {"network": each.name, "diffusion_index": found.diffusion_index, "side_of_95_percent": side}
        )
        says.append(f"{each.name}: diffusion index {found.diffusion_index:.2f}, 95 % within {side} LR pixels")
    return Found(drawing.maps(drawn, title=title), rows, says)


def _errors(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Found:
    if shown.hr is None:
        raise ConfigError("hr: errors are differences to an HR image; set hr=<HR image, or Set14/barbara>")
    scale = networks[0].scale
    hr = _luma(shown.hr / 255, scale, shown)
    found, rows, says = {}, [], []
    for each in networks:
        module = SRModule(each.network.eval(), scale=scale, protocol=shown.protocol)
        with torch.inference_mode():
            sr = module.upscale(shown.lr, grey=shown.grey)
        found[each.name] = own = errors.errors(_luma(sr, scale, shown), hr)
        rows.append(
            {"network": each.name, "mse_edges": own.edges, "mse_elsewhere": own.flat}
            | {"error_power_high_db": own.spectrum.high}
        )
        says.append(f"{each.name}: mean squared error {own.edges:.2f} at edges, {own.flat:.2f} elsewhere")
    title = f"Error on luma, {_titled(networks, shown)}"
    return Found(drawing.error_figure(found, title=title), rows, says)


def _curves(config: AnalyzeConfig, column: str, ylabel: str, title: str) -> Found:
    if config.runs is None:
        raise ConfigError(f"runs: kind={config.kind} draws trainings; set runs=<the folder of their runs>")
    found = curves.read(find_runs(Path(config.runs)), column)
    if not found:
        raise ConfigError(f"runs: no training in {config.runs} has recorded {column}; give another folder")
    rows = [
        {"run": curve.name, "step": int(step), column: value}
        for curve in found
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]
    says = [f"{curve.name}: {len(curve.steps)} points, last {curve.values[-1]:.4g}" for curve in found]
    lines = {curve.name: (curve.steps, curve.values) for curve in found}
    return Found(drawing.curves(lines, title=title, ylabel=ylabel), rows, says)


def _schedule(config: AnalyzeConfig) -> Found:
    """IMFM, Fig. 3."""
    return _curves(config, "learning_rate", "learning rate", "Learning rate")


def _convergence(config: AnalyzeConfig) -> Found:
    """IMFM, Fig. 4; OSFFNet, Fig. 7."""
    return _curves(config, "val/psnr_y", "validation PSNR [dB]", "Validation PSNR during training")


_OF_NETWORKS: dict[str, Callable[[AnalyzeConfig, Sequence[Network], Shown], Found]] = {
    "psd": _psd,
    "residual": _residual,
    "features": _features,
    "attention": _attention,
    "lam": _lam,
    "receptive_field": _receptive_field,
    "errors": _errors,
}
_OF_RUNS: dict[str, Callable[[AnalyzeConfig], Found]] = {"schedule": _schedule, "convergence": _convergence}


def _window(config: AnalyzeConfig, scale: int, shown: Shown) -> tuple[int, int, int, int]:
    """The given window of the result, or one in its middle: left, top, width, height."""
    height, width = (scale * side for side in shown.lr.shape[-2:])
    if config.crop == "auto":
        side = min(config.crop_size, height, width)
        return (width - side) // 2, (height - side) // 2, side, side
    box = pictured.window_of(config.crop, shown.lr, scale)
    return box.left, box.top, box.width, box.height


def _titled(networks: Sequence[Network], shown: Shown) -> str:
    return shown.title(networks[0].scale)


def _input(each: Network, shown: Shown) -> Tensor:
    """What the network gets of the image."""
    return shown.protocol.network_input(shown.lr, colour_of(each.network), grey=shown.grey).float()


def _chosen(found: Sequence[Stage], blocks: Sequence[str], name: str) -> list[Stage]:
    """The head and the chosen blocks; at most six spread over the depth if none are chosen."""
    if not blocks:
        count = min(6, len(found))
        return [found[round(k * (len(found) - 1) / max(1, count - 1))] for k in range(count)]
    known = {stage.name: stage for stage in found}
    if missing := [block for block in blocks if block not in known]:
        raise ConfigError(f"blocks: {name} has no '{missing[0]}'; allowed: {', '.join(known)}")
    return [known[block] for block in blocks]


def _called(stage: Stage) -> str:
    return stage.name if stage.module == "head" else f"block {stage.name}"


def _luma(image: Tensor, scale: int, shown: Shown) -> Tensor:
    """Luma in [0, 255] without the border that the protocol leaves out."""
    levels = quantise(image.double())
    y = 255 * (rgb_to_y(levels) if levels.shape[1] == 3 else levels)
    border = shown.protocol.crop_border(scale)
    return y[0, 0, border : y.shape[-2] - border, border : y.shape[-1] - border]
