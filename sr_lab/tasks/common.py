"""Helpers that several tasks share: the console, the test sets and the results."""

import copy
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch import distributed, nn

from sr_lab.config.identity import code_of
from sr_lab.config.identity_record import trained_by
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import CheckpointConfig, Config
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.facts import as_published
from sr_lab.errors import ConfigError
from sr_lab.inference import backends
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.folding import fold
from sr_lab.layers.network import multi_adds_rule_of
from sr_lab.ops.complexity import activations, multi_adds, num_params, peak_memory
from sr_lab.protocol import Protocol
from sr_lab.reporting.terminal import Terminal
from sr_lab.runs import sweep
from sr_lab.runs.measurement import lr_dirs
from sr_lab.system.devices import has_gpu, rank
from sr_lab.training.lit_module import ImageResult

# Only the first process prints.
console = Terminal(markup=False, highlight=False, soft_wrap=True, quiet=rank() != 0)


def prepared(config: CheckpointConfig, network: nn.Module) -> Tiled:
    """The network in the form in which it runs, on the CPU; prints the backend if it is not eager PyTorch.

    Raises:
        ConfigError: The backend or the tile does not fit the network or the machine.
    """
    if config.ckpt is not None:
        say_other_code(config.ckpt, config)
    with console.status("preparing the network"):
        runs = backends.run_by(
            network,
            config.backend,
            cache_dir=Path(config.paths.cache_dir).expanduser(),
            on_gpu=has_gpu(config.trainer.accelerator),
            note=console.print,
        )
    if config.backend != "eager":
        computed_by = runs if isinstance(runs, backends.BackendNetwork) else "eager"
        console.print(f"backend: {computed_by}")
    return Tiled(runs, tile=config.tile, like=network)


def say_other_code(ckpt: str, config: Config) -> None:
    """Print a line if a checkpoint was trained by code other than the current one.

    Args:
        ckpt: The checkpoint.
        config: A configuration with the network of the checkpoint.
    """
    if words := trained_by(ckpt, code_of(config).digests):
        console.print(
            f"code: '{ckpt}' was trained by {words}, so its weights may not fit the current network"
        )


def gather(results: list[ImageResult]) -> list[ImageResult]:
    """The results of all processes in single-process order; rank r has images ``r, r + world, ...``."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return results
    per_rank: list[list[ImageResult]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(per_rank, results)
    gathered: list[ImageResult] = []
    for name in dict.fromkeys(result.set_name for result in per_rank[0]):  # rank 0 has an image of every set
        shares = [[result for result in part if result.set_name == name] for part in per_rank]
        turns = itertools.zip_longest(*shares)
        gathered += [result for turn in turns for result in turn if result is not None]
    return gathered


def means(results: Iterable[ImageResult]) -> dict[str, float]:
    """``test/<Set>/psnr_y`` and so on: means over images, not over pooled pixels."""
    by_set: dict[str, list[ImageResult]] = {}
    for result in results:
        by_set.setdefault(result.set_name, []).append(result)
    values = {}
    for name, images in by_set.items():
        values[f"test/{name}/psnr_y"] = statistics.fmean(r.psnr_y for r in images)
        values[f"test/{name}/ssim_y"] = statistics.fmean(r.ssim_y for r in images)
        values[f"bicubic/{name}/psnr_y"] = statistics.fmean(r.bicubic_psnr_y for r in images)
        values[f"bicubic/{name}/ssim_y"] = statistics.fmean(r.bicubic_ssim_y for r in images)
        for metric in images[0].perceptual:
            values[f"test/{name}/{metric}"] = statistics.fmean(r.perceptual[metric] for r in images)
    return values


def cost(network: nn.Module, scale: int) -> dict[str, int | str]:
    """Cost of a network in the form in which it is used (folded), at a 1280x720 output.

    Contains ``num_params``, ``multi_adds`` (all operations), ``activations`` and ``peak_memory_bytes``;
    ``multi_adds_rule``, the counting rule of the network's paper, and ``multi_adds_by_rule``, our count by
    that rule; also ``num_params_training`` if folding removes parameters. Operations are counted from shapes,
    without pixel values. If a network needs values (``.item()``), only its parameters are counted, and a line
    is printed.
    """
    folded = fold(copy.deepcopy(network).eval())
    rule = multi_adds_rule_of(network)
    counts: dict[str, int | str] = {"num_params": num_params(folded)}
    try:
        counts |= {
            "multi_adds": multi_adds(folded, scale=scale, rule="all"),
            "multi_adds_rule": rule,
            "multi_adds_by_rule": multi_adds(folded, scale=scale, rule=rule),
            "activations": activations(folded, scale=scale),
            "peak_memory_bytes": peak_memory(folded, scale=scale),
        }
    except Exception as error:  # a failed count must not lose a long training run
        why = (str(error).splitlines() or [type(error).__name__])[0]
        console.print(f"cost: the operations of {type(network).__name__} cannot be counted: {why}")
    if num_params(network) != num_params(folded):
        counts["num_params_training"] = num_params(network)
    return counts


def measured(
    results: Sequence[ImageResult], protocol: Protocol, config: Config, sets: Sequence[BenchmarkSet]
) -> dict[str, object]:
    """The part of ``metrics.json`` that a test of some sets produces."""
    says = protocol.describe(config.scale)
    if protocol.lr_source == "given":
        says += f" Given LR images: {', '.join(lr_dirs(config)) or f'LR/X{config.scale} of each set'}."
    return {
        "test_images": {images.name: as_published(images.name, images.files) for images in sets},
        "test_images_sha256": {images.name: images.digest() for images in sets},
        "protocol": protocol.name,
        "protocol_says": says,
        **means(results),
        "images": [_plain(result) for result in results],
    }


def _plain(result: ImageResult) -> dict[str, object]:
    values = asdict(result)
    return {**values, **values.pop("perceptual")}


def shown(folder: Path) -> Path:
    """A folder as it is printed: relative to the working directory if it is inside."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def waiting_note(folder: Path) -> Callable[[], object]:
    """For `RunFolder.attempt`: says that the job waits for another process, and for which folder."""
    return lambda: console.print(f"{folder.name}: another process is running this job; waiting for it to end")


def in_multirun() -> bool:
    """Whether the job is one of several whose common table is printed at the end."""
    return sweep.IN_SWEEP in os.environ or in_launcher()


def refuse_alone(keys: Iterable[str], overrides: Sequence[str]) -> None:
    """Refuse settings of a multirun's table or plot in a command that runs one job.

    Raises:
        ConfigError: The command line sets one of them.
    """
    for key in keys:
        if not in_multirun() and is_set(key, overrides):
            raise ConfigError(
                f"{key}: is used only by a multirun (-m), and this is a single job; leave {key} out"
            )


def in_launcher() -> bool:
    """Whether a Hydra launcher other than our own runs the jobs of a multirun in this process."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to replace a file of an earlier result without ``overwrite``.

    Raises:
        ConfigError: A file exists.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"output: '{path}' exists; add overwrite=true, or choose another output")
