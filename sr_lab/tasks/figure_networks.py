"""The networks and the image of a figure: what ``task=compare`` and ``task=analyze`` have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.opening import open_stored
from sr_lab.config.networks import listed_option, model_options
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import PicturedConfig, StoredNetwork
from sr_lab.datasets.benchmark import BenchmarkSet, benchmark_image
from sr_lab.datasets.images import image_size, read_image
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.files import conf_dir
from sr_lab.protocol import PROTOCOLS, Protocol
from sr_lab.reporting import saved_images
from sr_lab.reporting.counts import printed_name
from sr_lab.reporting.crops import Box
from sr_lab.reporting.runs import Run, find_runs, read_run
from sr_lab.run_folder import checkpoint_file
from sr_lab.runs.measurement import protocol_of
from sr_lab.tasks import common

_MAX_PIXELS = 32_000_000  # of a result; the results of all networks are in memory together
BICUBIC = "bicubic"
_TAKEN = ("HR", BICUBIC)  # names in the figure


@dataclass(frozen=True)
class Network:
    """A network in the figure: what it is called, where its weights are from, and its scale."""

    name: str
    source: str
    scale: int
    network: nn.Module


@dataclass(frozen=True)
class Shown:
    """The image that the figure shows.

    Args:
        name: Name of the image.
        set_name: Test set of the image; empty if the image is from none.
        lr: What the networks get, float32 ``(1, 3 or 1, h, w)`` in [0, 1].
        hr: uint8 ``(1, 3, scale * h, scale * w)``; ``None`` if there is no HR image.
        grey: Whether the image comes from a file with one channel.
        protocol: How the image was degraded and how results are measured.
    """

    name: str
    set_name: str
    lr: Tensor
    hr: Tensor | None
    grey: bool
    protocol: Protocol

    def title(self, scale: int) -> str:
        """What the figure shows: ``Set14 barbara x4``."""
        return " ".join(filter(None, (self.set_name, self.name, f"x{scale}")))


@dataclass(frozen=True)
class _Opened:
    """Weights that were opened: where they are from, their network, and the run that trained them."""

    source: str
    stored: StoredNetwork
    network: nn.Module
    run: Run | None


def refuse_unused(config: PicturedConfig, overrides: Sequence[str]) -> None:
    """Refuse settings that would have no effect with the other settings.

    Raises:
        ConfigError: ``only`` is given without ``own_runs``, a protocol without an HR image, or ``crop_size``
            with a window.
    """
    if config.crop != "auto" and is_set("crop_size", overrides):
        raise ConfigError(
            f"crop_size: is the size of the window that crop=auto chooses, got crop={config.crop}; drop one"
        )
    if config.only and config.own_runs is None:
        raise ConfigError(
            "only: chooses among the runs of own_runs, which is not set; set own_runs, or drop only"
        )
    if config.hr is None and is_set("benchmark", overrides):
        raise ConfigError(
            "benchmark: its protocol is used only with an HR image, got none; set hr, or drop benchmark"
        )


def networks(config: PicturedConfig, overrides: Sequence[str]) -> list[Network]:
    """The networks of ``ckpts`` and ``own_runs`` with distinct names.

    Raises:
        ConfigError: No network is given, or two have different scales or the same name.
        CheckpointError: A checkpoint cannot be opened.
    """
    asked = config.scale if is_set("scale", overrides) else None
    opened = [_opened(config, "ckpts", path, asked) for path in config.weights]
    for run in _trained(config, opened[0].stored.scale if opened else config.scale):
        opened.append(_opened(config, "own_runs", str(run.path), None))
    if not opened:
        raise ConfigError(
            "ckpts: no network is given; set ckpts=[<run folder, checkpoint file or zoo/name>, ...]"
        )
    first = opened[0]
    if other := next((each for each in opened if each.stored.scale != first.stored.scale), None):
        scales = f"'{first.source}' is x{first.stored.scale} and '{other.source}' is x{other.stored.scale}"
        raise ConfigError(f"ckpts: {scales}; a figure shows networks of one scale, so leave one out")
    called = _names(opened)
    if config.names and len(config.names) != len(called):
        raise ConfigError(
            f"names: got {len(config.names)} for {len(called)} networks ({', '.join(called)}); "
            "give one name for each"
        )
    names = config.names or called
    if twice := [name for name in names if [*names, *_TAKEN].count(name) > 1]:
        raise ConfigError(f"names: '{twice[0]}' is already in use; give each network a name of its own")
    return [
        Network(name, each.source, each.stored.scale, each.network)
        for name, each in zip(names, opened, strict=True)
    ]


def _opened(config: PicturedConfig, key: str, path: str, scale: int | None) -> _Opened:
    stored, network = open_stored(path, scale, common.console.print, config.allow, key=key)
    fields = {name: getattr(stored, name) for name in StoredNetwork.model_fields}
    common.say_other_code(path, config.model_copy(update=fields))
    file = checkpoint_file(path, key)
    run = read_run(file.parent.parent) if file.parent.name == "checkpoints" else None
    return _Opened(path if run is None else run.folder, stored, network, run)


def _names(opened: Sequence[_Opened]) -> list[str]:
    """Names as papers print them, with what tells training runs apart; equal names also get the weights.

    A network whose settings match no option of ``model=`` is named after its weights.
    """
    of_runs = iter(saved_images.names([each.run for each in opened if each.run is not None]))
    options = model_options()
    found = []
    for each in opened:
        if each.run is not None:
            name = next(of_runs)
            found.append(printed_name(name) if name in options else name)
        else:
            option = listed_option(each.stored.model, each.stored.scale)
            found.append(Path(each.source).stem if option is None else printed_name(option))
    return [
        f"{name} ({each.source})" if [*found, *_TAKEN].count(name) > 1 else name
        for name, each in zip(found, opened, strict=True)
    ]


def own_runs(config: PicturedConfig) -> list[Run]:
    """The runs of ``own_runs`` that ``only`` names, finished or not; none if the folder does not exist.

    Raises:
        ConfigError: ``only`` names a run that does not exist.
    """
    if config.own_runs is None:
        return []
    root = Path(config.own_runs).expanduser()
    try:
        runs = find_runs(root) if root.is_dir() else []
    except ConfigError:  # no run at all
        return []
    for pattern in config.only:
        if runs and not any(fnmatchcase(run.name, pattern) for run in runs):
            known = ", ".join(dict.fromkeys(run.name for run in runs))
            raise ConfigError(f"only: no run in {config.own_runs} is called '{pattern}'; allowed: {known}")
    return [run for run in runs if not config.only or any(fnmatchcase(run.name, p) for p in config.only)]


def _trained(config: PicturedConfig, scale: int) -> list[Run]:
    """The finished training runs in ``own_runs`` at a scale.

    If no such run exists, prints that only the networks of ``ckpts`` are shown.

    Raises:
        CheckpointError: No such run exists, and ``ckpts`` names no network either.
    """
    found = [run for run in own_runs(config) if not run.problem and run.scale == scale and _has_weights(run)]
    if not found and config.own_runs is not None:
        missing = (
            f"own_runs: there is no finished training run at x{scale} in {where_to_train(config, scale)}"
        )
        if not config.weights:
            raise CheckpointError(f"{missing}; or set ckpts=[...]")
        common.console.print(f"{missing}; the figure shows only the networks of ckpts")
    return found


def _has_weights(run: Run) -> bool:
    return (run.path / "checkpoints" / "best.ckpt").is_file()


def where_to_train(config: PicturedConfig, scale: int) -> str:
    """The folder, and how to train what is missing: with a command if the folder is that of an experiment."""
    folder, root = Path(str(config.own_runs)), Path(config.paths.output_dir)
    name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    if not (conf_dir() / "experiment" / f"{name}.yaml").is_file():
        return f"{config.own_runs}; train one, or give another folder"
    return f"{config.own_runs}; train it with python -m sr_lab experiment={name} scale={scale}"


def _file(config: PicturedConfig) -> tuple[Path, str]:
    """The image file that gives the figure its name, and the test set of the image, or an empty string."""
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


def image(config: PicturedConfig, scale: int) -> Shown:
    """The image that the configuration names, degraded for networks of one scale.

    Raises:
        ConfigError: No image is given.
        DataError: An image is missing, broken or too large, or the LR image does not fit the HR image.
    """
    file, set_name = _file(config)
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
        protocol = PROTOCOLS["rgb_uint8"]  # for the bicubic result; nothing is measured
        return Shown(file.stem, "", lr, None, grey=False, protocol=protocol)
    lr_files = None
    if config.input is not None:
        protocol, lr_files = protocol.on_given_lr(), [Path(config.input).expanduser()]
    images = BenchmarkSet(name="hr", files=[file], scale=scale, protocol=protocol, lr_files=lr_files)
    item = images[0]
    return Shown(file.stem, set_name, item["lr"][None], item["hr"][None], item["grey"], protocol)


def whole_set(config: PicturedConfig, scale: int) -> Iterator[Shown] | None:
    """Every image of the test set that ``hr`` names, one after another; ``None`` if it names an image.

    Raises:
        DataError: The set is missing, or an image is broken.
    """
    name = config.hr or ""
    is_set = name and not Path(name).suffix and len(Path(name).parts) == 1 and not Path(name).exists()
    if config.input is not None or not is_set:
        return None
    protocol = protocol_of(config)
    folder = Path(config.paths.data_dir).expanduser()
    images = BenchmarkSet.of(name, data_dir=folder, scale=scale, protocol=protocol)
    return (
        Shown(item["name"], name, item["lr"][None], item["hr"][None], item["grey"], protocol)
        for item in (images[index] for index in range(len(images)))
    )


def window_of(crop: Sequence[int], lr: Tensor, scale: int) -> Box:
    """The given window.

    Raises:
        ConfigError: The window is empty, or not inside the image.
    """
    box = Box(*crop)
    height, width = (scale * side for side in lr.shape[-2:])
    if min(box.width, box.height) < 1 or box.left + box.width > width or box.top + box.height > height:
        raise ConfigError(
            f"crop: the window {','.join(map(str, crop))} (left, top, width, height) is not inside the image "
            f"of {width}x{height} pixels; give another, or crop=auto"
        )
    return box
