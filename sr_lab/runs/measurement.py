"""What a run is measured on: its protocol, its test sets, and the digests of their images."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sr_lab.checkpoints.fetching import provide
from sr_lab.checkpoints.opening import described
from sr_lab.config.overrides import key_of
from sr_lab.config.schema import Config, EvaluateConfig, TrainConfig
from sr_lab.datasets.benchmark import BenchmarkSet, benchmark_files
from sr_lab.datasets.cache import digest_of
from sr_lab.datasets.registry import benchmark_dir
from sr_lab.errors import ConfigError, DataError, did_you_mean
from sr_lab.protocol import PROTOCOLS, Protocol
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.terminal import Terminal
from sr_lab.run_folder import RunFolder
from sr_lab.zoo import published


@functools.lru_cache(maxsize=1)  # called once for the folder's name and once by the job
def with_measured_identity(config: Config, overrides: tuple[str, ...]) -> Config:
    """The configuration, completed with the parts of its identity that are not settings.

    An evaluation gets the network in its checkpoint and the digest of its images; a training run gets the
    digest of the benchmark sets that it validates on.

    Raises:
        CheckpointError, ConfigError: See `open_configured`.
        DataError: The images are missing.
    """
    if isinstance(config, TrainConfig):
        return config.model_copy(update={"validation_images": validation_images(config)})
    if not isinstance(config, EvaluateConfig):
        return config
    if config.ckpt is not None:
        if (weights := published.named(config.ckpt)) is not None:
            provide(weights, "ckpt", Terminal(stderr=True, markup=False).print)
        config, _ = described(config, overrides, config.ckpt, note=lambda _: None)  # the task prints the note
    return config.model_copy(update={"images": images(config), "lr_folders": _lr_folders(config)})


def images(config: EvaluateConfig) -> str:
    """SHA-256 of the names and contents of the test images, independent of their folder."""
    data_dir = Path(config.paths.data_dir).expanduser()
    sets = {
        name: [(file.name, digest_of(file)) for file in benchmark_files(data_dir, name)]
        for name in config.benchmark.sets
    }
    return hashlib.sha256(json.dumps(sets, sort_keys=True).encode()).hexdigest()


def _lr_folders(config: EvaluateConfig) -> list[str]:
    """The folders of the test sets' own LR images, with a sub-folder for each scale, if they are used."""
    if config.benchmark.lr == "made" or config.benchmark.lr_dir is not None:
        return []
    data_dir = Path(config.paths.data_dir).expanduser()
    return [str(benchmark_dir(data_dir, name).parent / "LR") for name in config.benchmark.sets]


def validation_images(config: TrainConfig) -> str | None:
    """SHA-256 of the images of ``validation.sets``; ``None`` if there are no sets."""
    if not config.validation.sets:
        return None
    protocol = protocol_of(config)
    sets = {name: benchmark_set(config, name, protocol).digest() for name in config.validation.sets}
    return hashlib.sha256(json.dumps(sets, sort_keys=True).encode()).hexdigest()


def protocol_of(config: Config) -> Protocol:
    """The protocol that the benchmark names, with given LR images if the benchmark uses them.

    Raises:
        ConfigError: There is no protocol with that name, or folders of LR images do not fit the benchmark.
    """
    name = config.benchmark.protocol
    if name not in PROTOCOLS:
        near = did_you_mean(name, PROTOCOLS)
        raise ConfigError(f"benchmark.protocol: there is no '{name}'; allowed: {', '.join(PROTOCOLS)}{near}")
    protocol, benchmark = PROTOCOLS[name], config.benchmark
    if benchmark.lr_dir is not None:
        count = len(lr_dirs(config))
        if benchmark.lr == "made":
            raise ConfigError(
                "benchmark.lr_dir: is used only with benchmark.lr=given, got made; set both or neither"
            )
        if count != len(benchmark.sets):
            raise ConfigError(
                f"benchmark.lr_dir: must have one folder for each test set ({', '.join(benchmark.sets)}), "
                f"got {count}"
            )
    return protocol if benchmark.lr == "made" else protocol.on_given_lr()


def lr_dirs(config: Config) -> list[str]:
    """The folders of ``benchmark.lr_dir``, as the user gave them."""
    given = config.benchmark.lr_dir
    return [] if given is None else [given] if isinstance(given, str) else given


def benchmark_set(config: Config, name: str, protocol: Protocol) -> BenchmarkSet:
    """A test set by its name; its folder must exist already."""
    data_dir = Path(config.paths.data_dir).expanduser()
    given = dict(zip(config.benchmark.sets, lr_dirs(config), strict=False))
    lr_dir = Path(given[name]).expanduser() if name in given else None
    return BenchmarkSet.of(name, data_dir=data_dir, scale=config.scale, protocol=protocol, lr_dir=lr_dir)


def not_measured(config: TrainConfig, folder: RunFolder, overrides: Sequence[str]) -> str:
    """Says on which images a finished run was not measured, and which command measures it; empty if none.

    Args:
        config: What the user asks for now.
        folder: The run folder.
        overrides: Overrides of the command line.
    """
    run, benchmark, protocol = read_run(folder.path), config.benchmark, protocol_of(config)
    before = run.values.get("test_images_sha256")  # missing in runs of earlier versions
    digests = before if isinstance(before, Mapping) else {}
    wanted: dict[str, str] = {}  # name of each set -> what the run was not measured on
    for name in benchmark.sets:
        if name not in run.sets or run.values.get("protocol") != protocol.name:
            wanted[name] = name
        elif name in digests and _digest(config, name, protocol) not in (None, digests[name]):
            wanted[name] = f"the current images of {name}"
    if run.problem or not wanted:
        return ""
    given = [] if benchmark.lr == "made" else [f"benchmark.lr={benchmark.lr}"]
    if dirs := [path for name, path in zip(benchmark.sets, lr_dirs(config), strict=False) if name in wanted]:
        given.append(f"'benchmark.lr_dir=[{','.join(dirs)}]'")
    bare = (override.replace("'", "") for override in overrides if key_of(override) == "paths.data_dir")
    given += [f"'{override}'" for override in bare]
    return (
        f"benchmark: this run was not measured on {', '.join(wanted.values())} with {protocol.name}; run "
        f"task=evaluate 'ckpt={folder.path}' 'benchmark.sets=[{','.join(wanted)}]' "
        + " ".join([f"benchmark.protocol={benchmark.protocol}", *given])
    )


def _digest(config: Config, name: str, protocol: Protocol) -> str | None:
    """The digest of a test set; ``None`` if its images cannot be read now."""
    with contextlib.suppress(DataError, OSError):
        return benchmark_set(config, name, protocol).digest()
    return None
