"""``task=evaluate``: measure a checkpoint on the benchmark."""

import contextlib
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from rich.table import Table
from torch import nn

from sr_lab.checkpoints.opening import open_configured
from sr_lab.config import code, targets
from sr_lab.config.compose import to_yaml
from sr_lab.config.identity import code_of, identity, run_identity
from sr_lab.config.identity_record import other_code, record
from sr_lab.config.schema import EvaluateConfig
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.images import image_size
from sr_lab.errors import ConfigError
from sr_lab.inference.backends import BackendNetwork
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.network import colour_of
from sr_lab.metrics.perceptual import Perceptual
from sr_lab.protocol import PROTOCOLS, Protocol, variants
from sr_lab.reporting.experiment import print_runs
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.progress import Progress
from sr_lab.reporting.runs import Run, read_run
from sr_lab.run_folder import RunFolder
from sr_lab.runs import measurement
from sr_lab.runs.provenance import provenance, versions
from sr_lab.system import distributed
from sr_lab.system.devices import check_gpu, device_name, device_of, float32_matmul_precision, rank
from sr_lab.tasks import common
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.examples import ExampleImages, check_names, not_kept
from sr_lab.training.figures import Figures, Kept, Row, kept, plain
from sr_lab.training.lit_module import TEST_ONLY, ImageResult, SRModule
from sr_lab.zoo import published

_SAME_DB = 0.01  # smaller differences in PSNR do not show in the printed values


def run(config: EvaluateConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Measure, write ``metrics.json`` and print the table; ``explain=true`` also uses other conventions.

    For a finished run, the stored figures are printed. After an interruption, only the remaining images are
    measured, unless the earlier ones were measured with different code, devices or versions of libraries.
    """
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    float32_matmul_precision(config.trainer.float32_matmul_precision)  # otherwise Lightning prints advice
    run_folder = RunFolder(folder)
    opened: _Opened | None = None
    if not _is_finished(config, run_folder):
        attempt = run_folder.attempt(wait=common.waiting_note(folder))
        with attempt if rank() == 0 else contextlib.nullcontext(False) as done_meanwhile:
            # Processes of a launcher measure together: only rank 0 knows that nothing is left to measure.
            if not done_meanwhile or distributed.launched() is not None:
                opened = _open(config, overrides)
                _measure(config, opened, run_folder)
    elif rank() == 0:
        common.console.print(f"already measured: {common.shown(folder)} (resume=never measures it again)")
    if rank() != 0 or common.in_multirun():
        return
    print_runs([run := read_run(folder)], columns=config.columns)
    if "tiled" in run.values:
        common.console.print(f"tiled: {run.values['tiled']}")
    if note := _beside_published(config, run):
        common.console.print(note)
    if config.explain:
        _explain(opened or _open(config, overrides))
    common.console.print(f"run folder: {common.shown(folder)}")


def _beside_published(config: EvaluateConfig, run: Run) -> str:
    """A line that compares the PSNR of published weights on Set5 with that of their authors' own code."""
    entry = published.with_digest(str(identity(config)["ckpt"]), config.scale)
    psnr = run.values.get("test/Set5/psnr_y")
    images = run.values.get("test_images")
    right = isinstance(images, dict) and not str(images.get("Set5")).startswith("not")
    if entry is None or not isinstance(psnr, float) or not right or config.benchmark.lr == "given":
        return ""
    theirs = f"Set5: with their authors' code these weights reach {entry.psnr_y:.2f} dB"
    if config.benchmark.protocol != entry.protocol:
        return f"{theirs} under benchmark.protocol={entry.protocol}"
    gap = entry.psnr_y - psnr
    if abs(gap) < _SAME_DB:
        return f"{theirs}, as here"
    return f"{theirs}, {abs(gap):.2f} dB {'higher' if gap > 0 else 'lower'} than here"


class _Opened(NamedTuple):
    """What is measured.

    Args:
        config: The configuration with the network of its checkpoint.
        network: The network of the configuration, with the weights of the checkpoint.
        runs: The network in the form in which it runs.
        protocol: How it is measured.
        perceptual: Measures LPIPS and DISTS, if they are asked for.
    """

    config: EvaluateConfig
    network: nn.Module
    runs: Tiled
    protocol: Protocol
    perceptual: Perceptual | None


def _open(config: EvaluateConfig, overrides: Sequence[str]) -> _Opened:
    config, network = open_configured(config, overrides, common.console.print)
    protocol = measurement.protocol_of(config)
    perceptual = _perceptual(config, network, protocol)
    return _Opened(config, network, common.prepared(config, network), protocol, perceptual)


def _perceptual(config: EvaluateConfig, network: nn.Module, protocol: Protocol) -> Perceptual | None:
    if not config.perceptual:
        return None
    if colour_of(network) == "y" or protocol.lr_source == "luma":
        raise ConfigError(
            "perceptual: LPIPS and DISTS compare RGB images, but this network returns luma under "
            f"{protocol.name}; leave perceptual out"
        )
    return Perceptual(config.perceptual)


def _is_finished(config: EvaluateConfig, folder: RunFolder) -> bool:
    """Whether a folder has the figures of all images, measured by the current code."""
    values = read_run(folder.path).values
    if config.resume == "never" or values.get("identity") != plain(identity(config)):
        return False
    if missing := not_kept(folder.images, config.examples):
        if rank() == 0:
            common.console.print(
                f"{common.shown(folder.path)}: has no pictures of {', '.join(missing)}; measuring again"
            )
        return False
    before, now = values.get("measuring_code"), code.measuring()
    if isinstance(before, dict) and before != now and rank() == 0:
        common.console.print(
            f"{common.shown(folder.path)}: was measured by {other_code(before, now)}; measuring again"
        )
    return before == now


def _measure(asked: EvaluateConfig, opened: _Opened, folder: RunFolder) -> None:
    """Measure the images that earlier attempts have not measured, and write the results of all of them."""
    config, runs, protocol = opened.config, opened.runs, opened.protocol
    sets = [measurement.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
    backend = str(runs.network) if isinstance(runs.network, BackendNetwork) else ""
    measuring_code = code.measuring()
    by = {
        "settings": identity(config),
        "code": measuring_code,
        "device": device_name(config.trainer.accelerator, config.trainer.devices),
        "versions": versions(code_of(config).libraries),
        "backend": backend,
    }
    check_names(config.examples, sets)
    examples = ExampleImages(folder.images, keep=config.examples)
    before = _before(config, folder, sets, by, examples)
    if rank() == 0:
        folder.metrics.unlink(missing_ok=True)  # if the run fails, earlier results must not stay
        record(folder, run_identity(asked))
        folder.write_config(to_yaml(config))
    with _Progress(sets) as progress:
        file = folder.figures(rank())
        figures = Figures(file, sets, by=by, before=before, perceptual=opened.perceptual, show=progress.show)
        results = _test(opened, sets, figures, examples)
    if rank() != 0:
        return
    folder.write_metrics(
        provenance(config, folder.path)
        | {"ckpt": config.ckpt, "precision": "32-true", "measuring_code": measuring_code}
        | ({"tiled": figures.tiled} if figures.tiled else {})
        | ({"backend": backend} if backend else {})
        | {"wall_time_s": round(figures.wall_time_s, 1)}
        | common.cost(opened.network, config.scale)
        | common.measured(results, protocol, config, sets)
    )
    for file in folder.kept_figures():
        file.unlink()


def _before(
    config: EvaluateConfig,
    folder: RunFolder,
    sets: Sequence[BenchmarkSet],
    by: Mapping[str, object],
    examples: ExampleImages,
) -> Kept:
    """The results of earlier attempts, without those of images whose saved pictures are missing."""
    if config.resume == "never":
        return Kept({})
    found = kept(folder.kept_figures(), by)
    sizes = {images.name: len(images) for images in sets}
    rows = {
        place: row
        for place, row in found.rows.items()
        if examples.has(row.set_name, row.image, row.place, sizes[row.set_name])
    }
    if rows:
        common.console.print(f"resumes: {len(rows)} of {sum(sizes.values())} images are already measured")
    elif found.differing:
        common.console.print(
            f"resume: the images of the last attempt are measured again, since {', '.join(found.differing)} "
            f"{'is' if len(found.differing) == 1 else 'are'} not the same"
        )
    return replace(found, rows=rows)


def _test(
    opened: _Opened, sets: Sequence[BenchmarkSet], figures: Figures, examples: ExampleImages
) -> list[ImageResult]:
    """Measure, and return the results of all processes."""
    config = opened.config
    module = SRModule(
        opened.runs, scale=config.scale, protocol=opened.protocol, test_sets=[one.name for one in sets]
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = distributed.trainer_arguments(config.trainer.arguments(), timeout=config.trainer.timeout)
        trainer: lightning.Trainer = targets.build(
            "trainer",
            {"_target_": arguments.pop("_target_")},
            (),
            **{**arguments, **TEST_ONLY},
            callbacks=[examples, figures],
            default_root_dir=scratch,
        )
        data = SRDataModule(test=sets, measured=figures.measured())
        with distributed.together(trainer):
            trainer.test(module, datamodule=data, verbose=False)
            return common.gather(figures.results)


class _Progress(contextlib.ExitStack):
    """Shows how many images are measured, the means so far, and the time left; a context manager.

    Args:
        sets: The test sets. Each image is weighted by its pixels, since larger images take longer.
    """

    def __init__(self, sets: Sequence[BenchmarkSet]) -> None:
        super().__init__()
        self._sets = {images.name: images for images in sets}
        self._shown: Progress | None = None

    def show(self, figures: Figures) -> None:
        """Show the figures so far; the first call is made when the test begins."""
        if rank() != 0:
            return
        own = figures.own
        if self._shown is None:
            pixels = {
                place: math.prod(image_size(self._sets[place[0]].files[place[1]])) for place in figures.places
            }
            self._pixels = pixels
            self._shown = self.enter_context(
                Progress(len(pixels), "images", done=len(own), share=self._share(own))
            )
            return
        self._shown.update(len(own), *self._means(own), share=self._share(own))

    def _share(self, rows: Sequence[Row]) -> float:
        return sum(self._pixels[row.set_name, row.place] for row in rows) / sum(self._pixels.values())

    def _means(self, rows: Sequence[Row]) -> list[str]:
        """The mean PSNR and SSIM of each set so far, beginning with the set now being measured."""
        by_set: dict[str, list[Row]] = {}
        for row in rows:
            by_set.setdefault(row.set_name, []).append(row)
        found = []
        for name, own in reversed(by_set.items()):
            psnr, ssim = (
                statistics.fmean(values) for values in zip(*((r.psnr_y, r.ssim_y) for r in own), strict=True)
            )
            of = len(self._sets[name])
            part = "" if len(own) == of else f" ({len(own)} of {of})"
            found.append(f"{name}{part} {fixed(psnr, 2)} dB / {fixed(ssim, 4)}")
        return found


def _explain(opened: _Opened) -> None:
    """Measure the same images by other conventions, to show why a paper's values may differ."""
    config, network, protocol = opened.config, opened.runs, opened.protocol
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    network = network.to(device).eval()  # the Trainer has moved the network back to the CPU
    table = Table(title="the same images under other conventions")
    table.add_column("convention")
    names = config.benchmark.sets
    for name in names:
        table.add_column(f"{name} PSNR", justify="right")
        table.add_column(f"{name} SSIM", justify="right")
    for label, variant in variants(protocol, colour=colour_of(network)):
        cells = []
        for name in names:
            images = measurement.benchmark_set(config, name, variant)
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
