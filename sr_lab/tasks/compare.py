"""``task=compare``: the figure that papers print, of a window of an image in HR, bicubic and each network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.opening import open_stored
from sr_lab.config.compose import model_options, option_of
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import CompareConfig, StoredNetwork
from sr_lab.datasets.benchmark import BenchmarkSet, benchmark_image
from sr_lab.datasets.images import image_size, read_image
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.files import conf_dir
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.folding import for_inference
from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.colour import rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.metrics import quantise
from sr_lab.ops.resize import imresize
from sr_lab.protocol import PROTOCOLS, Protocol
from sr_lab.reporting import crops, saved_images
from sr_lab.reporting.counts import printed_name
from sr_lab.reporting.crops import Box, Comparison, Version
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.progress import Progress
from sr_lab.reporting.runs import Run, find_runs, read_run
from sr_lab.reporting.saved_images import Pixels, safe
from sr_lab.run_folder import checkpoint_file
from sr_lab.runs.measured import protocol_of
from sr_lab.system.devices import check_gpu, device_of
from sr_lab.tasks import common
from sr_lab.training.lit_module import SRModule

_MAX_PIXELS = 32_000_000  # of a result; the results of all networks are in memory together
_BICUBIC = "bicubic"
_TAKEN = ("HR", _BICUBIC)  # names in the picture


@dataclass(frozen=True)
class _Network:
    """A network of the picture: what it is called, where its weights are from, and its scale."""

    name: str
    source: str
    scale: int
    network: nn.Module


@dataclass(frozen=True)
class _Opened:
    """Weights that were opened: where they are from, their network, and the run that trained them."""

    source: str
    stored: StoredNetwork
    network: nn.Module
    run: Run | None


@dataclass(frozen=True)
class _Shown:
    """The image of the picture.

    Args:
        name: Its name.
        set_name: Its test set; empty for any other image.
        lr: What the networks get, float32 ``(1, 3 or 1, h, w)`` in [0, 1].
        hr: uint8 ``(1, 3, scale * h, scale * w)``; ``None`` if there is no HR image.
        grey: Whether the image comes from a file with one channel.
        protocol: How it was degraded and is measured.
    """

    name: str
    set_name: str
    lr: Tensor
    hr: Tensor | None
    grey: bool
    protocol: Protocol


def run(config: CompareConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Upscale the image by every network, and write the figure into the folder.

    Raises:
        ConfigError: There is no image or network, the networks have different scales, the window is not in
            the image, or a file exists.
        CheckpointError: See `open_stored`.
        DataError: An image is missing or broken, or the LR image does not fit the HR image.
    """
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    if config.crop != "auto" and is_set("crop_size", overrides):
        raise ConfigError(
            f"crop_size: is of the window that crop=auto chooses, got crop={config.crop}; drop one"
        )
    file, set_name = _file(config)
    networks = _networks(config, overrides)
    scale = networks[0].scale
    shown = _image(config, file, set_name, scale)
    given = None if config.crop == "auto" else _window(config.crop, shown.lr, scale)
    stem = "_".join(
        [safe(shown.name), f"x{scale}", *(["-".join(map(str, config.crop))] if given is not None else [])]
    )
    names = [*([] if shown.hr is None else ["HR"]), _BICUBIC, *(each.name for each in networks)]
    for path in crops.files_of(folder, stem, names):
        if path.exists() and not config.overwrite:
            raise ConfigError(f"output: '{path}' exists; add overwrite=true, or choose another output")
    comparison = _compared(shown, networks, device_of(config.trainer.accelerator, config.trainer.devices))
    box = comparison.window(config.crop_size) if given is None else given
    paths = crops.write_figure(folder, stem, comparison, box, rule="auto" if given is None else "given")
    _say(shown, comparison, box, scale)
    for path in paths[:4]:
        common.console.print(f"written: {common.shown(path)}")
    common.console.print(f"written: {len(paths) - 4} images for the LaTeX file")


def _file(config: CompareConfig) -> tuple[Path, str]:
    """The file of the image whose name the picture has, and its test set if it is of one."""
    if config.hr is None and config.input is None:
        raise ConfigError(
            "hr: no image is given; set hr=<HR image, or Set14/barbara>, or input=<photo> without an HR image"
        )
    file = Path(config.hr or config.input or "").expanduser()
    if config.hr is not None and not file.exists() and len(file.parts) == 2 and not file.suffix:
        set_name, file = benchmark_image(Path(config.paths.data_dir).expanduser(), config.hr, where="hr")
        return file, set_name
    for key, path in (("hr", config.hr), ("input", config.input)):
        if path is not None and not Path(path).expanduser().is_file():
            raise DataError(f"{key}: there is no file {path}; give an image")
    return file, ""


def _networks(config: CompareConfig, overrides: Sequence[str]) -> list[_Network]:
    """The networks of ``ckpts`` and ``own_runs`` with distinct names."""
    asked = config.scale if is_set("scale", overrides) else None
    opened = [_opened(config, "ckpts", path, asked) for path in config.weights]
    for run in _own_runs(config, opened[0].stored.scale if opened else config.scale):
        opened.append(_opened(config, "own_runs", str(run.path), None))
    if not opened:
        raise ConfigError(
            "ckpts: no network is given; set ckpts=[<run folder, checkpoint file or zoo/name>, ...]"
        )
    first = opened[0]
    if other := next((each for each in opened if each.stored.scale != first.stored.scale), None):
        scales = f"'{first.source}' is x{first.stored.scale} and '{other.source}' is x{other.stored.scale}"
        raise ConfigError(f"ckpts: {scales}; a picture shows networks of one scale, so leave one out")
    called = _names(opened)
    if config.names and len(config.names) != len(called):
        raise ConfigError(
            f"names: there are {len(config.names)} names for {len(called)} networks ({', '.join(called)}); "
            "give one each"
        )
    names = config.names or called
    if twice := [name for name in names if [*names, *_TAKEN].count(name) > 1]:
        raise ConfigError(f"names: two crops are called '{twice[0]}'; give each network another name")
    return [
        _Network(name, each.source, each.stored.scale, each.network)
        for name, each in zip(names, opened, strict=True)
    ]


def _opened(config: CompareConfig, key: str, path: str, scale: int | None) -> _Opened:
    stored, network = open_stored(path, scale, common.console.print, config.allow, key=key)
    fields = {name: getattr(stored, name) for name in StoredNetwork.model_fields}
    common.say_other_code(path, config.model_copy(update=fields))
    file = checkpoint_file(path, key)
    run = read_run(file.parent.parent) if file.parent.name == "checkpoints" else None
    return _Opened(path if run is None else run.folder, stored, network, run)


def _names(opened: Sequence[_Opened]) -> list[str]:
    """What papers call the networks, and what tells trainings apart; with the weights where two are equal."""
    of_runs = iter(saved_images.names([each.run for each in opened if each.run is not None]))
    options = model_options()
    found = []
    for each in opened:
        name = option_of(each.stored.model, each.stored.scale) if each.run is None else next(of_runs)
        found.append(printed_name(name) if name in options else name)
    return [
        f"{name} ({each.source})" if [*found, *_TAKEN].count(name) > 1 else name
        for name, each in zip(found, opened, strict=True)
    ]


def _own_runs(config: CompareConfig, scale: int) -> list[Run]:
    """The finished training runs of ``own_runs`` at a scale; a line says so if there are none."""
    if config.own_runs is None:
        return []
    root = Path(config.own_runs).expanduser()
    try:
        runs = find_runs(root) if root.is_dir() else []
    except ConfigError:  # no run at all
        runs = []
    found = [run for run in runs if not run.problem and run.scale == scale and _has_weights(run)]
    if not found:
        where = f"{config.own_runs}{_training(config, scale)}"
        missing = f"own_runs: there is no finished training at x{scale} in {where}"
        if not config.weights:
            raise CheckpointError(f"{missing}; or set ckpts=[...]")
        common.console.print(f"{missing}; the picture shows the networks of ckpts alone")
    return found


def _has_weights(run: Run) -> bool:
    return (run.path / "checkpoints" / "best.ckpt").is_file()


def _training(config: CompareConfig, scale: int) -> str:
    """The command that trains what is missing, if the folder is that of an experiment."""
    folder, root = Path(str(config.own_runs)), Path(config.paths.output_dir)
    name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    if not (conf_dir() / "experiment" / f"{name}.yaml").is_file():
        return "; train one, or give another folder"
    return f"; train it with python -m sr_lab experiment={name} scale={scale}"


def _image(config: CompareConfig, file: Path, set_name: str, scale: int) -> _Shown:
    protocol = protocol_of(config)
    height, width = image_size(file)
    if config.hr is None:
        height, width = scale * height, scale * width
    if height * width > _MAX_PIXELS:
        key = "input" if config.hr is None else "hr"
        raise DataError(
            f"{key}: the result for {file} has {width}x{height} pixels; allowed: {_MAX_PIXELS} in all; give "
            "a part of the image"
        )
    if config.hr is None:
        pixels = read_image(file)
        lr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        protocol = PROTOCOLS["rgb_uint8"]  # makes the bicubic result; nothing is measured
        return _Shown(file.stem, "", lr, None, grey=False, protocol=protocol)
    lr_files = None
    if config.input is not None:
        protocol, lr_files = protocol.on_given_lr(), [Path(config.input).expanduser()]
    images = BenchmarkSet(name="hr", files=[file], scale=scale, protocol=protocol, lr_files=lr_files)
    item = images[0]
    return _Shown(file.stem, set_name, item["lr"][None], item["hr"][None], item["grey"], protocol)


def _window(crop: Sequence[int], lr: Tensor, scale: int) -> Box:
    """The given window.

    Raises:
        ConfigError: It is empty, or leaves the image.
    """
    box = Box(*crop)
    height, width = (scale * side for side in lr.shape[-2:])
    if min(box.width, box.height) < 1 or box.left + box.width > width or box.top + box.height > height:
        raise ConfigError(
            f"crop: the window {','.join(map(str, crop))} (left, top, width, height) is not inside the image "
            f"of {width}x{height} pixels; give another, or crop=auto"
        )
    return box


@torch.inference_mode()
def _compared(shown: _Shown, networks: Sequence[_Network], device: torch.device) -> Comparison:
    scale = networks[0].scale
    every = [_Network(_BICUBIC, "", scale, Bicubic(scale=scale)), *networks]
    colours = shown.lr
    if shown.hr is not None and colours.shape[1] == 1:
        colours = PROTOCOLS["rgb_uint8"].make_lr(shown.hr, scale)
    methods = []
    with Progress(len(every), "networks", console=common.console, transient=True) as progress:
        for number, each in enumerate(every):
            progress.update(number, each.name)
            runs = Tiled(for_inference(each.network), tile="auto", like=each.network).to(device).eval()
            module = SRModule(runs, scale=scale, protocol=shown.protocol)
            sr = module.upscale(shown.lr.to(device), grey=shown.grey).cpu()
            runs.cpu()
            psnr, ssim = math.nan, math.nan
            if shown.hr is not None:
                figures = shown.protocol.measure(sr, shown.hr, scale, grey=shown.grey)
                psnr, ssim = (figure.item() for figure in figures)
            pixels = _pixels(_in_colour(sr, colours, shown, scale))
            name = shown.protocol.name if shown.hr is not None else ""
            methods.append(Version(each.name, pixels, psnr, ssim, name, each.source))
    hr = None if shown.hr is None else Version("HR", shown.hr[0].permute(1, 2, 0).numpy())
    whole = _pixels(shown.lr) if hr is None else hr.pixels
    return Comparison(shown.set_name, shown.name, scale, hr, whole, tuple(methods))


def _in_colour(sr: Tensor, lr: Tensor, shown: _Shown, scale: int) -> Tensor:
    """A result as RGB; one of luma gets bicubic chroma, as in papers."""
    if sr.shape[1] == 3:
        return sr
    if shown.grey and shown.protocol.grey == "luma":
        return sr.expand(-1, 3, -1, -1)
    chroma = imresize(rgb_to_ycbcr(lr.double())[:, 1:], numerator=scale)
    return ycbcr_to_rgb(torch.cat((sr.double(), chroma), dim=1))


def _pixels(image: Tensor) -> Pixels:
    """``(1, 3, H, W)`` in [0, 1] as ``(H, W, 3)`` of 8 bits, quantised as for measuring."""
    levels = quantise(image.double()) * 255
    return levels.round().byte()[0].permute(1, 2, 0).numpy()


def _say(shown: _Shown, comparison: Comparison, box: Box, scale: int) -> None:
    say = common.console.print
    for method in comparison.methods:
        figures = f": {fixed(method.psnr, 2)} dB / {fixed(method.ssim, 4)}" if shown.hr is not None else ""
        say(f"{method.name}{figures}{f' ({method.source})' if method.source else ''}")
    if shown.hr is not None:
        say(f"protocol: {shown.protocol.describe(scale)}")
    say(f"crop: {box.left},{box.top},{box.width},{box.height}")
