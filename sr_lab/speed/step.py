"""Overhead of the Trainer: our training step compared with a bare PyTorch loop."""

import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import lightning
import torch
from torch import Tensor, nn

from sr_lab.datasets.patches import PatchBatch
from sr_lab.models.edsr import EDSR
from sr_lab.ops.dihedral import dihedral
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.terminal import Terminal
from sr_lab.run_folder import RunFolder
from sr_lab.speed.benchmark import Benchmark
from sr_lab.system.devices import arithmetic
from sr_lab.system.signals import Signals
from sr_lab.training.build import record_and_progress
from sr_lab.training.checkpointing import LAST, Checkpoints, DurableCheckpointIO, RandomState
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.ending import Ending, SaveLast
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import SRModule
from sr_lab.training.nan_policy import NanPolicy

SCALE = 4
BATCH_SIZE = 16
LR_PATCH_SIZE = 48
STEPS = 1  # steps in one run of the real network
TINY_STEPS = 2000  # steps in one run of the tiny network
_WARM_UP = 2  # steps before the clock starts, in which memory and the optimizer's state are allocated
_ROW_INTERVAL = 50  # as in task=train


def benchmarks(workspace: Path) -> list[Benchmark]:
    """A real network's step, and the step of a tiny network that shows the Trainer's own overhead.

    Returns:
        ``step.ms`` and ``step.ratio_to_bare_loop`` of EDSR-baseline; ``step.overhead_ms`` of a tiny network.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = in_memory(scale=SCALE, batch_size=BATCH_SIZE, lr_patch_size=LR_PATCH_SIZE, device=device)
    tiny = in_memory(scale=SCALE, batch_size=1, lr_patch_size=8, device=device)

    def pair(
        network: Callable[[], nn.Module], batches: list[PatchBatch], steps: int
    ) -> Mapping[str, Callable[[], float]]:
        folder = workspace / "step"
        return {
            "trainer": lambda: with_trainer(
                network(), batches, folder=folder, scale=SCALE, steps=steps, device=device
            ),
            "bare_loop": lambda: with_bare_loop(network(), batches, steps=steps, device=device),
        }

    return [
        Benchmark(
            "step",
            pair(partial(EDSR, scale=SCALE), batches, STEPS),
            lambda s: {"ms": 1000 * s["trainer"], "ratio_to_bare_loop": s["trainer"] / s["bare_loop"]},
        ),
        Benchmark(
            "step",
            pair(partial(TinyNetwork, scale=SCALE), tiny, TINY_STEPS),
            lambda s: {"overhead_ms": 1000 * (s["trainer"] - s["bare_loop"])},
        ),
    ]


class TinyNetwork(nn.Sequential):
    """One convolution and a pixel shuffle, with hardly any arithmetic."""

    def __init__(self, *, scale: int) -> None:
        super().__init__(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))


def in_memory(*, scale: int, batch_size: int, lr_patch_size: int, device: str = "cpu") -> list[PatchBatch]:
    """Four batches of random patches as the loader returns them, in pinned memory for a GPU."""
    generator = torch.Generator().manual_seed(0)

    def drawn(most: int, *shape: int) -> Tensor:
        values = torch.randint(0, most, shape, dtype=torch.uint8, generator=generator)
        return values.pin_memory() if device == "cuda" else values

    return [
        {
            "lr": drawn(256, batch_size, 3, lr_patch_size, lr_patch_size),
            "hr": drawn(256, batch_size, 3, scale * lr_patch_size, scale * lr_patch_size),
            "name": ["random"] * batch_size,
            "dihedral": drawn(8, batch_size),
        }
        for _ in range(4)
    ]


class Timed:
    """Batches, and the mean time of a step after the warm-up.

    Args:
        batches: A list in memory, which is repeated, or an endless loader.
        steps: Number of measured steps.
        device: ``cuda`` is synchronised before and after the measured steps.
    """

    def __init__(self, batches: Iterable[PatchBatch], *, steps: int, device: str) -> None:
        self.batches = batches
        self.steps = steps
        self.device = device
        self.seconds_a_step = 0.0

    def __iter__(self) -> Iterator[PatchBatch]:
        """Yield the batches of the warm-up, ``steps`` more, and one batch after the clock has stopped."""
        started = 0.0
        batches = itertools.cycle(self.batches) if isinstance(self.batches, list) else self.batches
        for number, batch in zip(range(_WARM_UP + self.steps + 1), batches, strict=False):
            if number in (_WARM_UP, _WARM_UP + self.steps):
                if self.device == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                started, self.seconds_a_step = now, (now - started) / self.steps
            yield batch


@arithmetic(tf32=True, benchmark=True)  # as in conf/trainer/default.yaml
def with_bare_loop(network: nn.Module, batches: list[PatchBatch], *, steps: int, device: str) -> float:
    """Seconds per step of the reference: the simplest loop that computes the same steps."""
    network.to(device).train()
    loss_of = nn.L1Loss()
    optimizer = _optimizer(network.parameters())
    schedule = _schedule(optimizer)
    timed = Timed(batches, steps=steps, device=device)
    for batch in timed:
        codes = batch["dihedral"].to(device, non_blocking=True)
        lr = dihedral(batch["lr"].to(device, non_blocking=True), codes).float() / 255
        hr = dihedral(batch["hr"].to(device, non_blocking=True), codes).float() / 255
        optimizer.zero_grad()
        loss = loss_of(network(lr), hr)
        loss.backward()
        optimizer.step()
        schedule.step()
    return timed.seconds_a_step


@arithmetic(tf32=True, benchmark=True)  # resets what the Trainer would leave switched on
def with_trainer(
    network: nn.Module,
    batches: Iterable[PatchBatch],
    *,
    folder: Path,
    scale: int,
    steps: int,
    device: str,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
) -> float:
    """Seconds per step of a training run as ``task=train`` sets it up, with its records and callbacks."""
    module = SRModule(
        network,
        scale=scale,
        protocol=PROTOCOLS["rgb_uint8"],
        loss=nn.L1Loss(),
        make_optimizer=_optimizer,
        make_scheduler=_schedule,
    )
    timed = Timed(batches, steps=steps, device=device)
    run_folder = RunFolder(folder)
    record, progress = record_and_progress(run_folder, batch_size=1, row_interval=_ROW_INTERVAL, say=print)
    progress.console = Terminal(file=io.StringIO())  # the task draws its own bar
    callbacks = [
        record,
        progress,
        ExampleImages(run_folder.images),
        Ending(),
        NanPolicy(
            "stop", folder / "nan", lambda _: {}, seed=0, batch_size=1, interval=_ROW_INTERVAL, say=print
        ),
        Checkpoints(run_folder.checkpoints),
        RandomState(),
        SaveLast(run_folder.checkpoints / LAST, Signals()),
    ]
    lightning.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        precision=precision,
        max_steps=_WARM_UP + steps + 1,
        max_epochs=-1,
        limit_val_batches=0,
        val_check_interval=5000,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=False,
        plugins=[DurableCheckpointIO()],
        default_root_dir=folder,
        enable_progress_bar=True,
        enable_model_summary=False,
        benchmark=True,
    ).fit(module, datamodule=_Data(batches=timed))
    return timed.seconds_a_step


@dataclass(kw_only=True, eq=False)
class _Data(SRDataModule):
    """A data module with our transfer to the device, but batches from memory."""

    batches: Timed

    def train_dataloader(self) -> Timed:  # type: ignore[override]
        """Return the batches."""
        return self.batches


def _optimizer(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    given = list(parameters)
    return torch.optim.Adam(given, lr=2e-4, fused=given[0].is_cuda)  # as in task=train


def _schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1_000_000)
