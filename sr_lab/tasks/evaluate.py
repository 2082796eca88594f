"""``task=evaluate``: measure a checkpoint on the benchmark."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from rich.table import Table
from torch import nn

from sr_lab import catalogue, targets
from sr_lab.callbacks import ExampleImages
from sr_lab.checkpoints import Checkpoint, open_checkpoint
from sr_lab.config import EvaluateConfig, to_yaml
from sr_lab.data_module import SRDataModule
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.devices import check_gpu
from sr_lab.errors import ConfigError
from sr_lab.lit_module import ImageResult, SRModule
from sr_lab.protocol import Protocol, variants
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.table import fixed, print_table
from sr_lab.run_folder import RunFolder
from sr_lab.tasks import common


def run(config: EvaluateConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Measure, write ``metrics.json``, print the table; with ``explain=true`` the other conventions too."""
    started = time.perf_counter()
    check_gpu(config.trainer.accelerator)
    run_folder = RunFolder(folder)
    with run_folder.attempt():
        checkpoint = open_checkpoint(config.ckpt) if config.ckpt is not None else None
        if checkpoint is not None and checkpoint.record is not None:
            config = _as_stored(config, checkpoint, overrides)
        elif checkpoint is not None and not _named(overrides).keys() & {"model", "upsampler"}:
            config = _as_found(config, checkpoint, overrides)
        network = common.build_network(config)
        if checkpoint is not None:
            common.load(network, checkpoint)
        elif any(True for _ in network.parameters()):
            raise ConfigError(
                f"ckpt: {type(network).__name__} has weights and none are given; "
                "set ckpt=<run folder or checkpoint file>"
            )
        protocol = common.protocol_of(config)
        results = _test(config, network, protocol, ExampleImages(run_folder.images))
        run_folder.write_config(to_yaml(config))
        run_folder.write_metrics(
            common.provenance(config, folder)
            | {"ckpt": config.ckpt, "precision": "32-true"}
            | {"wall_time_s": round(time.perf_counter() - started, 1)}
            | common.cost(network, config.scale)
            | common.measured(results, protocol, config.scale)
        )
    if common.in_multirun():
        return
    print_table([read_run(folder)])
    if config.explain:
        _explain(config, network, protocol)


def _as_stored(config: EvaluateConfig, checkpoint: Checkpoint, overrides: Sequence[str]) -> EvaluateConfig:
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


def _as_found(config: EvaluateConfig, checkpoint: Checkpoint, overrides: Sequence[str]) -> EvaluateConfig:
    """The configuration with the network that an official checkpoint fits.

    Raises:
        CheckpointError: It fits none, several, or none at the scale of the command line.
    """
    wanted = config.scale if "scale" in _named(overrides) else None
    entry = catalogue.recognised(checkpoint, wanted, key="ckpt")
    common.console.print(f"'{checkpoint.path}' holds {entry.option} x{entry.scale}", markup=False)
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


def _test(
    config: EvaluateConfig, network: nn.Module, protocol: Protocol, *callbacks: lightning.Callback
) -> list[ImageResult]:
    sets = [common.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
    module = SRModule(
        network, scale=config.scale, protocol=protocol, test_sets=[images.name for images in sets]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer: lightning.Trainer = targets.build(
            config.trainer.arguments(),
            precision="32-true",
            callbacks=list(callbacks),
            logger=False,
            default_root_dir=scratch,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        trainer.test(module, datamodule=SRDataModule(test=sets), verbose=False)
    return common.gather(module.results)


def _explain(config: EvaluateConfig, network: nn.Module, protocol: Protocol) -> None:
    """The same images under the other conventions: a mismatch with a paper is found in one run."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    table = Table(title="the same images under other conventions")
    table.add_column("convention")
    names = config.benchmark.sets
    for name in names:
        table.add_column(f"{name} PSNR", justify="right")
        table.add_column(f"{name} SSIM", justify="right")
    network.eval()
    for label, variant in variants(protocol, colour=getattr(network, "colour", "rgb")):
        cells = []
        for name in names:
            images = common.benchmark_set(config, name, variant)
            psnr, ssim = _mean(network, images, variant, config.scale, device)
            cells += [fixed(psnr, 3), fixed(ssim, 4)]
        table.add_row(label, *cells)
    common.console.print(table)


@torch.inference_mode()
def _mean(
    network: nn.Module, images: BenchmarkSet, protocol: Protocol, scale: int, device: torch.device
) -> tuple[float, float]:
    module = SRModule(network, scale=scale, protocol=protocol)
    psnrs, ssims = [], []
    for index in range(len(images)):
        item = images[index]
        sr = module.restore(item["lr"][None].to(device), grey=item["grey"])
        psnr, ssim = protocol.measure(sr, item["hr"][None].to(device), scale, grey=item["grey"])
        psnrs.append(psnr.item())
        ssims.append(ssim.item())
    return sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)
