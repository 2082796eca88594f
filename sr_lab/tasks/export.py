"""``task=export``: write a network in formats that other programs open, with a model card."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import sr_lab
from sr_lab import files
from sr_lab.checkpoints.opening import Note, open_configured
from sr_lab.config.networks import option_of
from sr_lab.config.schema import ExportConfig, StoredNetwork
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.cache import digest_of
from sr_lab.errors import ConfigError, DataError
from sr_lab.inference.exports import (
    SUFFIXES,
    DType,
    Exported,
    Format,
    Images,
    as_official,
    as_onnx,
    as_pt2,
    as_safetensors,
)
from sr_lab.inference.footprint import measured_scale
from sr_lab.inference.model_card import image_facts, model_card
from sr_lab.layers.network import colour_of, min_size_of
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.markdown import escape
from sr_lab.reporting.runs import Run, read_run
from sr_lab.run_folder import checkpoint_file
from sr_lab.tasks import common
from sr_lab.zoo.published import Published, published

_TRAINING = ("steps", "batch_size", "learning_rate", "ema_decay", "seed", "loss", "optimizer", "dataset")


@dataclass(frozen=True)
class Source:
    """A network that is exported, and what is known about it.

    Args:
        network: The network with its weights, in evaluation mode.
        name: Name of the files without their suffix.
        scale: Upscaling factor.
        record: `StoredNetwork` as plain values; ``None`` if only the network itself is known.
        sections: What the card says in addition to the list of files: title -> lines.
        data_dir: Folder that may contain Set5, on which graphs are checked.
    """

    network: nn.Module
    name: str
    scale: int
    record: Mapping[str, object] | None
    sections: Mapping[str, Sequence[str]]
    data_dir: str


@dataclass(frozen=True)
class Written:
    """The files by format, the model card, and the errors of the formats that failed."""

    files: dict[Format, Path]
    card: Path
    failed: list[ConfigError]


def run(config: ExportConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Export into the folder; a format that fails does not stop the others.

    Raises:
        ConfigError: A file exists, or no format could be written.
        SystemExit: With 1 at the end, if some formats could not be written.
    """
    source = source_of(config, overrides, common.console.print)
    written = export(source, config, say=common.console.print)
    for path in (*written.files.values(), written.card):
        common.console.print(f"written: {common.shown(path)}")
    for why in written.failed:
        common.console.print(f"failed: {why}")
    if written.failed:
        raise SystemExit(1)


def source_of(config: ExportConfig, overrides: Sequence[str], note: Note) -> Source:
    """The network that the settings name.

    Args:
        config: The settings.
        overrides: Overrides of the command line, which must not contradict the checkpoint.
        note: Called with a sentence about what the weights do not determine, such as the scale.

    Raises:
        CheckpointError: See `open_configured`.
        ConfigError: See `open_configured`.
    """
    config, network = open_configured(config, overrides, note)
    return Source(
        network.eval(),
        config.name or name_of(config),
        config.scale,
        config.model_dump(include=set(StoredNetwork.model_fields)),
        sections_of(config.ckpt, config.scale),
        config.paths.data_dir,
    )


def bare_source(network: nn.Module, config: ExportConfig) -> Source:
    """A network about which nothing else is known."""
    scale = measured_scale(network)
    name = config.name or f"{type(network).__name__.lower()}_x{scale}"
    return Source(
        copy.deepcopy(network).cpu().eval(),
        name,
        scale,
        None,
        sections_of(None, scale),
        config.paths.data_dir,
    )


def export(source: Source, config: ExportConfig, *, say: Note) -> Written:
    """Write a network and its card; a format that fails does not stop the others.

    Args:
        source: The network.
        config: Formats, folder, and how graphs are made.
        say: Called with each fact about a file.

    Raises:
        ConfigError: A file exists, or no format could be written.
    """
    folder, size, dtype = Path(config.output).expanduser(), _size(config), config.dtype
    formats = [config.format] if isinstance(config.format, str) else list(dict.fromkeys(config.format))
    card = folder / f"{source.name}.md"
    paths = {kind: folder / f"{source.name}{SUFFIXES[kind]}" for kind in formats}
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: '{folder}' is a file; give a folder")
    common.refuse_existing([*paths.values(), card], overwrite=config.overwrite)
    if dtype != "float32" and "onnx" not in formats:
        raise ConfigError(
            f"dtype: is only for an ONNX graph, got format={','.join(formats)}; add onnx, or leave dtype out"
        )
    if size is not None and not {"onnx", "pt2"} & set(formats):
        raise ConfigError(
            f"size: is only for a graph, got format={','.join(formats)}; add onnx or pt2, or leave size out"
        )
    if size is not None and min(size) < (least := min_size_of(source.network)):
        raise ConfigError(
            f"size: {type(source.network).__name__} needs an LR image of at least {least}x{least} pixels, "
            f"got {config.size}; give a larger size, or leave size out"
        )
    exported: dict[Format, tuple[Path, Exported]] = {}
    failed = []
    for kind, path in paths.items():
        try:
            with common.console.status(f"exporting to {kind}"):
                exported[kind] = path, _exported(kind, source, size, dtype)
        except ConfigError as error:
            failed.append(error)
            continue
        for fact in exported[kind][1].facts:
            say(f"{kind}: {fact}")
    if not exported:
        raise failed[0]
    for path, file in exported.values():
        files.write(path, file.content)
    files.write(
        card,
        model_card(
            source.name, source.network, source.scale, exported, source.sections, size=size, dtype=dtype
        ),
    )
    return Written({kind: path for kind, (path, _) in exported.items()}, card, failed)


def name_of(config: ExportConfig | StoredNetwork) -> str:
    """Network and scale, with tail and strategy if they are not the network's own: ``imdn_x4_deconv``."""
    parts = [option_of(config.model, config.scale), f"x{config.scale}"]
    parts += [config.upsampler.name] if config.upsampler.factory is not None else []
    parts += [config.strategy.name] if config.strategy.apply is not None else []
    return "_".join(parts)


def sections_of(ckpt: str | None, scale: int) -> dict[str, list[str]]:
    """What the card says about the origin of the weights, their training and their figures."""
    said: dict[str, list[str]] = {"Origin": [f"* exported by sr_lab {sr_lab.__version__}"]}
    if ckpt is None:
        return said
    file = checkpoint_file(ckpt)
    digest = digest_of(file)
    if (weights := next((row for row in _published(scale) if row.sha256 == digest), None)) is not None:
        said["Origin"] += [
            f"* weights: by the network's authors, {weights.address}",
            f"* licence: {weights.licence}",
        ]
        said["Figures"] = [
            f"* Set5: {weights.psnr_y:.2f} / {weights.ssim_y:.4f} (PSNR on luma / SSIM, protocol "
            f"{weights.protocol}, by the authors' code); printed: {weights.printed}"
        ]
        return said
    said["Origin"] += [f"* weights: {escape(file.name)}", "* licence: unknown; ask who trained them"]
    if file.parent.name == "checkpoints":
        found = read_run(file.parent.parent)
        said["Origin"] += [f"* run: {escape(found.folder)}"]
        said["Training"] = _training(found)
        said["Figures"] = _figures(found)
    return {title: lines for title, lines in said.items() if lines}


def _published(scale: int) -> list[Published]:
    """The published weights for a scale; some files serve several scales."""
    return [row for row in published().values() if row.scale == scale]


def _training(found: Run) -> list[str]:
    lines = [
        f"* {key}: {escape(_short(found.settings[key]))}"
        for key in _TRAINING
        if found.settings.get(key) is not None
    ]
    return [*lines, *([f"* code: {escape(found.commit)}"] if found.commit else [])]


def _short(setting: object) -> str:
    """A setting in one line; for a class, its name and its arguments without ``cache_dir``."""
    if not isinstance(setting, Mapping):
        return str(setting)
    kind = str(setting.get("_target_", "")).rpartition(".")[2]
    arguments = (
        f"{key}={_short(value)}"
        for key, value in setting.items()
        if not str(key).startswith("_") and key != "cache_dir"
    )
    return f"{kind}({', '.join(arguments)})"


def _figures(found: Run) -> list[str]:
    lines = []
    for name in found.sets:
        psnr, ssim = (found.values.get(f"test/{name}/{key}") for key in ("psnr_y", "ssim_y"))
        if isinstance(psnr, float) and isinstance(ssim, float):
            lines.append(f"* {escape(name)}: {psnr:.2f} / {ssim:.4f} (PSNR on luma / SSIM)")
    if lines and isinstance(says := found.values.get("protocol_says"), str):
        lines.append(f"* protocol: {escape(says)}")
    return lines or ([f"* none: {escape(found.problem)}"] if found.problem else [])


def _exported(kind: Format, source: Source, size: tuple[int, int] | None, dtype: DType) -> Exported:
    network = source.network
    if kind == "safetensors":
        if source.record is None:
            raise ConfigError(
                "format: safetensors: needs the network's settings, which cannot be read from the network "
                "itself; give its checkpoint"
            )
        return as_safetensors(network, source.record)
    if kind == "official":
        return as_official(network)
    images = _images(source)
    if kind == "pt2":
        return as_pt2(network, images, size=size)
    facts = {"model": source.name, "scale": str(source.scale), "sr_lab": sr_lab.__version__}
    metadata = facts | image_facts(network, size)
    return as_onnx(network, images, metadata, size=size, dtype=dtype)


def _images(source: Source) -> Images:
    """Set5, if the folder has it."""
    protocol = PROTOCOLS["classic_y" if colour_of(source.network) == "y" else "rgb_uint8"]
    try:
        found = BenchmarkSet.of("Set5", data_dir=source.data_dir, scale=source.scale, protocol=protocol)
    except (DataError, ConfigError):
        return Images(None, protocol)
    return Images(found, protocol)


def _size(config: ExportConfig) -> tuple[int, int] | None:
    if config.size is None:
        return None
    height, width = config.size.split("x")
    return int(height), int(width)
