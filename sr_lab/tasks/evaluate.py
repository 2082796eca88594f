"""``task=evaluate``: measure a checkpoint on the benchmark."""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from rich.table import Table
from torch import nn

from sr_lab.checkpoints.opening import open_configured
from sr_lab.config import targets
from sr_lab.config.compose import to_yaml
from sr_lab.config.schema import EvaluateConfig
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.inference.backends import BackendNetwork
from sr_lab.layers.network import colour_of
from sr_lab.protocol import PROTOCOLS, Protocol, variants
from sr_lab.reporting.experiment import print_runs
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import RunFolder
from sr_lab.runs import measured
from sr_lab.runs.provenance import provenance
from sr_lab.system import distributed
from sr_lab.system.devices import check_gpu, device_of, float32_matmul_precision, rank
from sr_lab.tasks import common
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import TEST_ONLY, ImageResult, SRModule


def run(config: EvaluateConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Measure, write ``metrics.json`` and print the table; ``explain=true`` adds other conventions."""
    started = time.perf_counter()
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    float32_matmul_precision(config.trainer.float32_matmul_precision)  # Lightning asks for a choice
    run_folder = RunFolder(folder)
    attempt = run_folder.attempt(wait=common.waiting_note(folder))
    with attempt if rank() == 0 else contextlib.nullcontext(False) as done_meanwhile:
        config, network = open_configured(config, overrides, common.console.print)
        protocol = measured.protocol_of(config)
        tiled = common.prepared(config, network)
        # Processes that a launcher has started measure together: the others do not know that they need not.
        if not done_meanwhile or distributed.launched() is not None:
            sets = [measured.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
            results = _test(config, tiled, protocol, sets, ExampleImages(run_folder.images))
            if rank() != 0:
                return
            run_folder.write_config(to_yaml(config))
            run_folder.write_metrics(
                provenance(config, folder)
                | {"ckpt": config.ckpt, "precision": "32-true"}
                | ({"tiled": tiled.note} if tiled.note else {})
                | ({"backend": str(tiled.network)} if isinstance(tiled.network, BackendNetwork) else {})
                | {"wall_time_s": round(time.perf_counter() - started, 1)}
                | common.cost(network, config.scale)
                | common.measured(results, protocol, config, sets)
            )
    if common.in_multirun():
        return
    print_runs([read_run(folder)], columns=config.columns)
    if tiled.note:
        common.console.print(f"tiled: {tiled.note}")
    if config.explain:
        _explain(config, tiled, protocol)


def _test(
    config: EvaluateConfig,
    network: nn.Module,
    protocol: Protocol,
    sets: Sequence[BenchmarkSet],
    *callbacks: lightning.Callback,
) -> list[ImageResult]:
    module = SRModule(
        network, scale=config.scale, protocol=protocol, test_sets=[images.name for images in sets]
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = distributed.trainer_arguments(config.trainer.arguments(), timeout=config.trainer.timeout)
        trainer: lightning.Trainer = targets.build(
            "trainer",
            {"_target_": arguments.pop("_target_")},
            (),
            **{**arguments, **TEST_ONLY},
            callbacks=list(callbacks),
            default_root_dir=scratch,
        )
        with distributed.together(trainer):
            trainer.test(module, datamodule=SRDataModule(test=sets), verbose=False)
            return common.gather(module.results)


def _explain(config: EvaluateConfig, network: nn.Module, protocol: Protocol) -> None:
    """Measure the same images under other conventions, to show why a paper's figure may differ."""
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    network = network.to(device)  # the Trainer has moved it back to the CPU
    table = Table(title="the same images under other conventions")
    table.add_column("convention")
    names = config.benchmark.sets
    for name in names:
        table.add_column(f"{name} PSNR", justify="right")
        table.add_column(f"{name} SSIM", justify="right")
    network.eval()
    for label, variant in variants(protocol, colour=colour_of(network)):
        cells = []
        for name in names:
            images = measured.benchmark_set(config, name, variant)
            psnr, ssim = _mean(network, images, variant, config.scale, device)
            cells += [fixed(psnr, 3), fixed(ssim, 4)]
        table.add_row(label, *cells)
    common.console.print(table)
    for named in PROTOCOLS.values():
        common.console.print(f"{named.name} reproduces {named.reproduces}")


@torch.inference_mode()
def _mean(
    network: nn.Module, images: BenchmarkSet, protocol: Protocol, scale: int, device: torch.device
) -> tuple[float, float]:
    module = SRModule(network, scale=scale, protocol=protocol)
    psnrs, ssims = [], []
    for index in range(len(images)):
        item = images[index]
        sr = module.upscale(item["lr"][None].to(device), grey=item["grey"])
        psnr, ssim = protocol.measure(sr, item["hr"][None].to(device), scale, grey=item["grey"])
        psnrs.append(psnr.item())
        ssims.append(ssim.item())
    return sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)
