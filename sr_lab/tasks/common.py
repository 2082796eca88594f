"""What training and evaluating share: the network, the sets, the results."""

import copy
import datetime
import importlib.metadata
import itertools
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from torch import distributed, nn

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.reading import Checkpoint, load_weights, open_checkpoint
from sr_lab.config import targets
from sr_lab.config.hydra_guard import PACKAGE
from sr_lab.config.identity import identity
from sr_lab.config.schema import CheckpointConfig, Config
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.inference import backends
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import Rule, activations, multi_adds, num_params, peak_memory
from sr_lab.protocol import PROTOCOLS, Protocol
from sr_lab.runs import sweep
from sr_lab.system.devices import device_name, has_gpu, rank
from sr_lab.training.lit_module import ImageResult

console = Console(highlight=False, soft_wrap=True, quiet=rank() != 0)  # the first process speaks for all

Checkpointed = TypeVar("Checkpointed", bound=CheckpointConfig)


def build_network(config: Config) -> nn.Module:
    """The network with its strategy."""
    network: nn.Module = targets.build(config.model)
    if config.strategy.apply is not None:
        network = targets.build(config.strategy.apply)(network)
    return network


def open_network(config: Checkpointed, overrides: Sequence[str]) -> tuple[Checkpointed, nn.Module]:
    """The network of ``ckpt`` with its weights, and the configuration that names it.

    Args:
        config: What is composed; what a checkpoint says of itself replaces it.
        overrides: Overrides of the command line, which may not contradict the checkpoint.

    Raises:
        CheckpointError: It cannot be opened, does not fit, or fits several networks.
        ConfigError: The network has weights and none are given, or a checkpoint denies what is set.
    """
    checkpoint = open_checkpoint(config.ckpt) if config.ckpt is not None else None
    if checkpoint is not None and checkpoint.record is not None:
        config = _as_stored(config, checkpoint, overrides)
    elif checkpoint is not None and not _named(overrides).keys() & {"model", "upsampler"}:
        config = _as_found(config, checkpoint, overrides)
    network = build_network(config)
    if checkpoint is not None:
        load(network, checkpoint)
    elif any(True for _ in network.parameters()):
        raise ConfigError(
            f"ckpt: {type(network).__name__} has weights and none are given; "
            "set ckpt=<run folder or checkpoint file>"
        )
    return config, network


def prepared(config: CheckpointConfig, network: nn.Module) -> Tiled:
    """The network in the form that it runs in, on the CPU; says who computes it, where that was asked for.

    Raises:
        ConfigError: The backend or the tile does not fit the network or the machine.
    """
    with console.status("preparing the network"):
        runs = backends.run_by(
            network,
            config.backend,
            cache_dir=Path(config.paths.cache_dir).expanduser(),
            on_gpu=has_gpu(config.trainer.accelerator),
            note=lambda why: console.print(why, markup=False),
        )
    if config.backend != "eager":
        computed_by = runs if isinstance(runs, backends.BackendNetwork) else "eager"
        console.print(f"backend: {computed_by}", markup=False)
    return Tiled(runs, tile=config.tile, like=network)


def _as_stored(config: Checkpointed, checkpoint: Checkpoint, overrides: Sequence[str]) -> Checkpointed:
    """The configuration with the network that the checkpoint was trained as.

    Raises:
        ConfigError: The command line names another network, or the stored one may not be built.
    """
    assert checkpoint.record is not None
    stored = {key: checkpoint.record.get(key) for key in ("model", "upsampler", "strategy", "scale")}
    for group, override in _named(overrides).items():
        if group in stored:
            raise ConfigError(
                f"{override}: '{checkpoint.path}' says itself which network it holds "
                f"({_network_of(stored)}); drop the override"
            )
    # What a file names is judged like what a user types.
    return config.with_network(stored, str(checkpoint.path))


def _as_found(config: Checkpointed, checkpoint: Checkpoint, overrides: Sequence[str]) -> Checkpointed:
    """The configuration with the network that an official checkpoint fits.

    Raises:
        CheckpointError: It fits none, several, or none at the scale of the command line.
    """
    wanted = config.scale if "scale" in _named(overrides) else None
    entry = catalogue.recognised(checkpoint, wanted, key="ckpt")
    console.print(f"'{checkpoint.path}' holds {entry.option} x{entry.scale}", markup=False)
    found = {
        "model": entry.node(),
        "upsampler": {"name": "native", "factory": None},
        "strategy": config.strategy.model_dump(),
        "scale": entry.scale,
    }
    return config.with_network(found, str(checkpoint.path))


def _named(overrides: Sequence[str]) -> dict[str, str]:
    """Groups and settings that the command line names, and the override that does."""
    return {override.lstrip("+~").partition("=")[0].split(".")[0]: override for override in overrides}


def _network_of(stored: dict[str, object]) -> str:
    model = stored["model"]
    name = str(model.get("_target_")).rpartition(".")[2] if isinstance(model, dict) else "?"
    return f"{name} x{stored['scale']}"


def load(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into the network that the user named.

    Raises:
        CheckpointError: It does not fit: what is missing, what is too much, and which network would fit.
    """
    try:
        load_weights(network, checkpoint)
    except CheckpointError as error:
        fitting = catalogue.fitting(checkpoint)
        names = " or ".join(map(str, fitting)) or "no network of conf/model has these weights"
        raise CheckpointError(f"{error} ({names})") from error


def protocol_of(config: Config) -> Protocol:
    """The protocol that the benchmark names.

    Raises:
        ConfigError: There is none of that name.
    """
    name = config.benchmark.protocol
    if name not in PROTOCOLS:
        near = targets.did_you_mean(name, PROTOCOLS)
        raise ConfigError(f"benchmark.protocol: there is no '{name}'; allowed: {', '.join(PROTOCOLS)}{near}")
    return PROTOCOLS[name]


def benchmark_set(config: Config, name: str, protocol: Protocol) -> BenchmarkSet:
    """A test set by its name, whose folder is looked for now."""
    data_dir = Path(config.paths.data_dir).expanduser()
    return BenchmarkSet.of(name, data_dir=data_dir, scale=config.scale, protocol=protocol)


def gather(results: list[ImageResult]) -> list[ImageResult]:
    """Every rank's images in the order of a single process, of which rank r has ``r, r + world, ...``."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return results
    per_rank: list[list[ImageResult]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(per_rank, results)
    gathered: list[ImageResult] = []
    for name in dict.fromkeys(result.set_name for result in per_rank[0]):  # who has an image of every set
        shares = [[result for result in part if result.set_name == name] for part in per_rank]
        turns = itertools.zip_longest(*shares)
        gathered += [result for turn in turns for result in turn if result is not None]
    return gathered


def means(results: Iterable[ImageResult]) -> dict[str, float]:
    """``test/<Set>/psnr_y`` and so on: means over images, never pooled over pixels."""
    by_set: dict[str, list[ImageResult]] = {}
    for result in results:
        by_set.setdefault(result.set_name, []).append(result)
    values = {}
    for name, images in by_set.items():
        values[f"test/{name}/psnr_y"] = statistics.fmean(r.psnr_y for r in images)
        values[f"test/{name}/ssim_y"] = statistics.fmean(r.ssim_y for r in images)
        values[f"bicubic/{name}/psnr_y"] = statistics.fmean(r.bicubic_psnr_y for r in images)
        values[f"bicubic/{name}/ssim_y"] = statistics.fmean(r.bicubic_ssim_y for r in images)
    return values


def cost(network: nn.Module, scale: int) -> dict[str, int]:
    """What the folded network, which runs in the end, costs at a 1280x720 output.

    ``num_params``, ``multi_adds`` (all, and as the network's paper counts), ``activations`` and
    ``peak_memory_bytes``; also ``num_params_training`` where training takes more than running.
    """
    folded = fold(copy.deepcopy(network).eval())
    rule: Rule = getattr(network, "multi_adds_rule", "all")
    every = multi_adds(folded, scale=scale, rule="all")
    counts = {
        "num_params": num_params(folded),
        "multi_adds": every,
        "multi_adds_paper": every if rule == "all" else multi_adds(folded, scale=scale, rule=rule),
        "activations": activations(folded, scale=scale),
        "peak_memory_bytes": peak_memory(folded, scale=scale),
    }
    if num_params(network) != num_params(folded):
        counts["num_params_training"] = num_params(network)
    return counts


def provenance(config: Config, folder: Path) -> dict[str, object]:
    """Where the numbers come from."""
    return {
        "task": config.task,
        "experiment": config.experiment_name,
        "run": config.run_name,
        "hash": folder.name.rpartition("-")[2],
        "identity": identity(config),
        "model": str(config.model["_target_"]).rpartition(".")[2],
        "upsampler": config.upsampler.name,
        "strategy": config.strategy.name,
        "scale": config.scale,
        "seed": config.seed,
        "device": device_name(config.trainer.accelerator),
        **origin(),
        **({"table": config.table.model_dump()} if config.table is not None else {}),
        **({"row": config.row_label} if config.row_label is not None else {}),
    }


def origin() -> dict[str, object]:
    """Commit, versions and date of what is measured now."""
    packages = ("torch", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """Output of git in our checkout; ``None`` where we are installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def measured(results: Sequence[ImageResult], protocol: Protocol, scale: int) -> dict[str, object]:
    """The part of ``metrics.json`` that a test gives."""
    return {
        "protocol": protocol.name,
        "protocol_says": protocol.describe(scale),
        **means(results),
        "images": [asdict(result) for result in results],
    }


def in_multirun() -> bool:
    """Whether the job is one of several, whose table comes at the end."""
    return sweep.IN_SWEEP in os.environ or in_launcher()


def in_launcher() -> bool:
    """Whether this process runs jobs of a multirun itself, as other launchers than ours have it."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
