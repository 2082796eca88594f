"""``task=analyze``: draw what networks compute and cost, how they train, where their results are wrong."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sr_lab import files
from sr_lab.analysis import attribution, drawing, features, pixel_errors, spectrum, stages
from sr_lab.analysis.drawing import Analysis, Panel
from sr_lab.analysis.pixel_errors import Errors
from sr_lab.analysis.stages import Stage
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import AnalyzeConfig
from sr_lab.errors import ConfigError
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.network import colour_of
from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import quantise
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.saved_images import safe
from sr_lab.system.devices import check_gpu
from sr_lab.tasks import common, figure_networks, run_figures
from sr_lab.tasks.figure_networks import BICUBIC, Network, Shown
from sr_lab.training.lit_module import SRModule

# The kinds that run networks.
_LOOK = ("psd", "residual", "features", "attention", "lam", "receptive_field", "errors")
# Settings that only some kinds use.
_USED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("crop", "crop_size"), ("lam",)),
    **dict.fromkeys(("blocks", "channels"), ("features",)),
    "modules": ("attention",),
    **dict.fromkeys(("schedules", "steps", "steps_per_epoch", "learning_rate"), ("schedule",)),
    "psnr_set": ("convergence", "tradeoff"),
    "names": (*_LOOK, "schedule", "convergence"),
    **dict.fromkeys(("ckpts", "hr", "input", "benchmark", "trainer"), _LOOK),
}


def run(config: AnalyzeConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Draw one kind of analysis, and write it as PNG, PDF and CSV into the folder.

    Raises:
        ConfigError: A setting that the kind needs is missing, one that it does not use is given, a network
            does not suit the kind, or a file exists.
        CheckpointError: A checkpoint cannot be opened.
        DataError: An image is missing or broken.
    """
    for key, users in _USED_BY.items():
        if config.kind not in users and is_set(key, overrides):
            kinds = ", ".join(f"kind={user}" for user in users)
            raise ConfigError(
                f"{key}: is used only by {kinds}, and this is kind={config.kind}; leave {key} out"
            )
    figure_networks.refuse_unused(config, overrides)
    if config.kind in _OF_RUNS:
        found = _OF_RUNS[config.kind](config)
        sources = config.own_runs or "values that papers print"
    else:
        check_gpu(config.trainer.accelerator, config.trainer.devices)
        networks = figure_networks.networks(config, overrides)
        with common.console.status(f"{config.kind} of {', '.join(each.name for each in networks)}"):
            found = _looked(config, networks)
        sources = ", ".join(f"{each.name} ({each.source})" for each in networks)
    stem = "_".join(filter(None, (config.kind, found.of)))
    paths = {suffix: folder / f"{stem}.{suffix}" for suffix in ("png", "pdf", "csv")}
    common.refuse_existing(paths.values(), overwrite=config.overwrite)
    made_by = f"task=analyze kind={config.kind}"
    for suffix, content in drawing.written(
        found.figure, made_by=made_by, says=f"{found.title}: {sources}"
    ).items():
        files.write(paths[suffix], content)
    columns = list(dict.fromkeys(key for row in found.rows for key in row))
    files.write(paths["csv"], csv_text(columns, found.rows))
    for sentence in found.says:
        common.console.print(sentence)
    for path in paths.values():
        common.console.print(f"written: {common.shown(path)}")


def _looked(config: AnalyzeConfig, networks: Sequence[Network]) -> Analysis:
    scale = networks[0].scale
    whole = figure_networks.whole_set(config, scale) if config.kind == "errors" else None
    if whole is not None:
        return _errors_of_set(networks, whole)
    return _OF_NETWORKS[config.kind](config, networks, figure_networks.image(config, scale))


def _psd(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
    """Power spectra of the blocks, as in Two Strategies, Figs. 1 and 5."""
    drawn, rows, says = {}, [], []
    for each in networks:
        found = stages.stages(each.network, _input(each, shown))
        less = spectrum.lacking(found)
        blocks = [stage for stage in found if stage.module != "head"]
        drawn[each.name] = [(s.name, spectrum.psd(s.output), s.name in less) for s in blocks]
        for name, power, lacks in drawn[each.name]:
            rows += [
                {"network": each.name, "block": name, "less_than_before": lacks, "share_high": power.share}
                | {"frequency_cycles_per_pixel": float(f), "power_db": float(p)}
                for f, p in zip(power.frequency, power.decibels, strict=True)
            ]
        count = len(blocks) - 1
        which = f" ({', '.join(less)})" if less else ""
        (_, first, _), *_, (_, last, _) = drawn[each.name]
        says.append(
            f"{each.name}: {len(less)} of {count} blocks have less power above {spectrum.HIGH} cycles/pixel "
            f"than the block before{which}; the share of these frequencies is {first.share:.0%} after the "
            f"first block, {last.share:.0%} after the last"
        )
    title = f"Power spectral density of each block's output, {_titled(networks, shown)}"
    return Analysis(_of(networks, shown), title, drawing.spectra(drawn, title=title), rows, says)


def _residual(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
    """Residuals of the blocks, as in Two Strategies, Figs. 2 and 6."""
    drawn, rows, says = {}, [], []
    for each in networks:
        found = stages.stages(each.network, _input(each, shown))
        known = [(stage, stage.residual) for stage in found if stage.module != "head"]
        values = [(stage.name, float(r.abs().mean())) for stage, r in known if r is not None]
        if not values:
            raise ConfigError(
                f"analyze: no block of {each.name} keeps the shape of its input; leave {each.name} out"
            )
        drawn[each.name] = values
        spread = {stage.name: float(stage.input.std()) for stage, _ in known}
        rows += [
            {"network": each.name, "block": name, "mean_absolute_residual": value, "input_std": spread[name]}
            for name, value in values
        ]
        largest = max(values, key=lambda value: value[1])
        mean = math.fsum(value for _, value in values) / len(values)
        relative = math.fsum(value / max(spread[name], 1e-12) for name, value in values) / len(values)
        says.append(
            f"{each.name}: mean {mean:.4g}, largest {largest[1]:.4g} (block {largest[0]}); in standard "
            f"deviations of a block's input: mean {relative:.2f}"
        )
    title = f"Mean absolute residual of each block, {_titled(networks, shown)}"
    return Analysis(_of(networks, shown), title, drawing.residuals(drawn, title=title), rows, says)


def _features(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
    """Feature maps, as in OSFFNet, Fig. 1, and EFRDN, Fig. 6."""
    drawn, rows = {}, []
    for each in networks:
        found = _chosen(each, _input(each, shown), config.blocks)
        panels = [Panel(_called(stage), features.mean_map(stage.output), "magnitude") for stage in found]
        for number, map_ in features.strongest(found[-1].output, config.channels):
            panels.append(Panel(f"{_called(found[-1])}, channel {number}", map_, "value"))
        drawn[each.name] = panels
        for stage in found:
            map_, power = features.mean_map(stage.output), spectrum.psd(stage.output)
            values = {"mean": float(map_.mean()), "std": float(map_.std())}
            values |= {"power_high_db": power.high, "share_high": power.share}
            rows.append({"network": each.name, "block": stage.name} | values)
    title = f"Mean magnitude of the features, shallow to deep, {_titled(networks, shown)}"
    return Analysis(_of(networks, shown), title, drawing.maps(drawn, title=title), rows)


def _attention(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
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
    return Analysis(_of(networks, shown), title, drawing.maps(drawn, title=title, shared=True), rows)


def _lam(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
    window = _window(config, networks[0].scale, shown)
    place = ",".join(map(str, window))
    return _attributed(
        networks,
        shown,
        lambda each: attribution.local_attribution(each.network.eval(), _input(each, shown), window),
        title=f"Local attribution of the window {place}, {_titled(networks, shown)}",
    )


def _receptive_field(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
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
) -> Analysis:
    drawn: dict[str, list[Panel]] = {"over the LR image": [], "alone": []}
    rows, says = [], []
    grey = rgb_to_y(shown.lr) if shown.lr.shape[1] == 3 else shown.lr
    faint = grey[0].expand(3, -1, -1).permute(1, 2, 0).cpu() * 0.5
    red = torch.tensor([1.0, 0.15, 0.1])
    for each in networks:
        found = attribute(each)
        heat = found.map.cpu().sqrt()[..., None]  # the root makes small contributions visible
        over, alone = drawn.values()
        over.append(Panel(f"{each.name}, DI {found.diffusion_index:.1f}", faint * (1 - heat) + red * heat))
        log = found.map.cpu().clamp_min(1e-4).log10()
        alone.append(Panel("", log, "log10 of the contribution", (-4.0, 0.0)))
        side = attribution.side_of(found.map)
        rows.append(
            {"network": each.name, "diffusion_index": found.diffusion_index, "side_of_95_percent": side}
        )
        says.append(f"{each.name}: diffusion index {found.diffusion_index:.2f}, 95 % within {side} LR pixels")
    if len(networks) == 1:  # side by side
        drawn = {"": [panel for panels in drawn.values() for panel in panels]}
    return Analysis(_of(networks, shown), title, drawing.maps(drawn, title=title), rows, says)


def _errors(config: AnalyzeConfig, networks: Sequence[Network], shown: Shown) -> Analysis:
    if shown.hr is None:
        raise ConfigError(
            "hr: errors are differences from an HR image; set hr=<HR image, Set14/barbara, or the set Set14>"
        )
    found = {each.name: _measured(each, shown) for each in (_bicubic(networks), *networks)}
    rows = [_row(name, "", *own) for name, own in found.items()]
    means = {name: own for name, (own, _) in found.items()}
    rows += _spectra(means)
    bicubic = means.pop(BICUBIC)
    title = f"Error on luma, {_titled(networks, shown)}"
    says = [_says(name, own) for name, own in means.items()]
    return Analysis(_of(networks, shown), title, drawing.error_maps(means, bicubic, title=title), rows, says)


def _errors_of_set(networks: Sequence[Network], images: Iterable[Shown]) -> Analysis:
    """For each image, how far networks beat the first one, or a single network beats bicubic upscaling."""
    every = [_bicubic(networks), *networks]
    found: dict[str, dict[str, tuple[Errors, float]]] = {each.name: {} for each in every}
    set_name = ""
    for shown in images:
        set_name = shown.set_name
        for each in every:
            found[each.name][shown.name] = _measured(each, shown)
    rows = [_row(name, image, *own) for name, of in found.items() for image, own in of.items()]
    psnrs = {name: {image: psnr for image, (_, psnr) in of.items()} for name, of in found.items()}
    means = {name: pixel_errors.mean([own for own, _ in of.values()]) for name, of in found.items()}
    rows += _spectra(means)
    bicubic = means.pop(BICUBIC)
    says = [_says(name, own) for name, own in means.items()]
    against = networks[0].name if len(networks) > 1 else BICUBIC
    gains = {name: pixel_errors.wins(psnrs[name], psnrs[against]) for name in means if name != against}
    for name, images_ in gains.items():
        (best, most), (worst, least) = images_[0], images_[-1]
        says.append(
            f"{name} beats {against} on {sum(gain > 0 for _, gain in images_)} of {len(images_)} images; "
            f"most on {best} ({most:+.2f} dB), least on {worst} ({least:+.2f} dB)"
        )
    title = f"Error on luma, {set_name} x{networks[0].scale}"
    figure = drawing.wins(gains, means, bicubic, against=against, title=title)
    return Analysis(f"{safe(set_name)}_x{networks[0].scale}", title, figure, rows, says)


def _bicubic(networks: Sequence[Network]) -> Network:
    scale = networks[0].scale
    return Network(BICUBIC, "", scale, Bicubic(scale=scale))


@torch.inference_mode()
def _measured(each: Network, shown: Shown) -> tuple[Errors, float]:
    """The errors of a network on the shown image, and the PSNR in dB; ``shown`` must have an HR image."""
    assert shown.hr is not None
    runs = Tiled(each.network.eval(), tile="auto", like=each.network)
    sr = SRModule(runs, scale=each.scale, protocol=shown.protocol).upscale(shown.lr, grey=shown.grey)
    psnr, _ = shown.protocol.measure(sr, shown.hr, each.scale, grey=shown.grey)
    own = pixel_errors.errors(_luma(sr, each.scale, shown), _luma(shown.hr / 255, each.scale, shown))
    return own, psnr.item()


def _row(name: str, image: str, own: Errors, psnr: float) -> dict[str, object]:
    of_image = {"image": image} if image else {}
    return {
        "network": name,
        **of_image,
        "psnr_db": psnr,
        "mse_edges": own.edges,
        "mse_elsewhere": own.flat,
        "error_power_high_db": own.spectrum.high,
    }


def _spectra(found: Mapping[str, Errors]) -> list[dict[str, object]]:
    return [
        {"network": name, "frequency_cycles_per_pixel": float(f), "error_power_db": float(power)}
        for name, own in found.items()
        for f, power in zip(own.spectrum.frequency, own.spectrum.decibels, strict=True)
    ]


def _says(name: str, own: Errors) -> str:
    return f"{name}: mean squared error {own.edges:.2f} at edges, {own.flat:.2f} elsewhere"


_OF_NETWORKS: dict[str, Callable[[AnalyzeConfig, Sequence[Network], Shown], Analysis]] = {
    "psd": _psd,
    "residual": _residual,
    "features": _features,
    "attention": _attention,
    "lam": _lam,
    "receptive_field": _receptive_field,
    "errors": _errors,
}
_OF_RUNS: dict[str, Callable[[AnalyzeConfig], Analysis]] = {
    "schedule": run_figures.schedule,
    "convergence": run_figures.convergence,
    "tradeoff": run_figures.trade_off,
}


def _window(config: AnalyzeConfig, scale: int, shown: Shown) -> tuple[int, int, int, int]:
    """The given window of the result, or one in its middle: left, top, width, height."""
    height, width = (scale * side for side in shown.lr.shape[-2:])
    if config.crop == "auto":
        side = min(config.crop_size, height, width)
        return (width - side) // 2, (height - side) // 2, side, side
    box = figure_networks.window_of(config.crop, shown.lr, scale)
    return box.left, box.top, box.width, box.height


def _of(networks: Sequence[Network], shown: Shown) -> str:
    return f"{safe(shown.name)}_x{networks[0].scale}"


def _titled(networks: Sequence[Network], shown: Shown) -> str:
    return shown.title(networks[0].scale)


def _input(each: Network, shown: Shown) -> Tensor:
    """The image as the network takes it."""
    return shown.protocol.network_input(shown.lr, colour_of(each.network), grey=shown.grey).float()


def _chosen(each: Network, lr: Tensor, blocks: Sequence[str]) -> list[Stage]:
    """The chosen blocks and other modules; at most six parts spread over the depth if none are chosen."""
    found = stages.stages(each.network, lr)
    if not blocks:
        count = min(6, len(found))
        return [found[round(k * (len(found) - 1) / max(1, count - 1))] for k in range(count)]
    known = {stage.name: stage for stage in found}
    modules = dict(each.network.named_modules())
    others = [name for name in blocks if name not in known]
    if missing := [name for name in others if name not in modules]:
        raise ConfigError(
            f"blocks: {each.name} has no '{missing[0]}'; allowed: {', '.join(known)}, and the path of any "
            "module, e.g. body.0"
        )
    for stage in stages.record(each.network, lr, {name: modules[name] for name in others}) if others else ():
        known.setdefault(stage.name, stage)
    if silent := [name for name in others if name not in known]:
        raise ConfigError(
            f"blocks: {each.name} does not run '{silent[0]}' on one tensor; leave '{silent[0]}' out"
        )
    return [known[name] for name in blocks]


def _called(stage: Stage) -> str:
    return f"block {stage.name}" if stage.module.isdecimal() else stage.name


def _luma(image: Tensor, scale: int, shown: Shown) -> Tensor:
    """Luma in [0, 255] without the border that the protocol leaves out."""
    levels = quantise(image.double())
    y = 255 * (rgb_to_y(levels) if levels.shape[1] == 3 else levels)
    border = shown.protocol.crop_border(scale)
    return y[0, 0, border : y.shape[-2] - border, border : y.shape[-1] - border]
