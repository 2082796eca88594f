"""What the Trainer costs over the arithmetic: our training step against a bare PyTorch loop."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from sr_lab.datasets.patches import PatchBatch
from sr_lab.models.edsr import EDSR
from sr_lab.ops.dihedral import dihedral
from sr_lab.protocol import PROTOCOLS
from sr_lab.run_folder import RunFolder
from sr_lab.speed.contest import Contest
from sr_lab.system.devices import arithmetic
from sr_lab.system.signals import Signals
from sr_lab.training.build import watchers
from sr_lab.training.checkpointing import LAST, Checkpoints, DurableCheckpointIO, RandomState
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.ending import Ending, SaveLast
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import SRModule
from sr_lab.training.nan_policy import NanPolicy

_WARM_UP = 2  # steps before the clock starts: memory is allocated, the optimizer makes its state
_ROW_INTERVAL = 50  # as in task=train


def contests(
    workspace: Path,
    *,
    scale: int = 4,
    batch_size: int = 16,
    lr_patch_size: int = 48,
    steps: int = 1,
    tiny_steps: int = 2000,
    device: str = "auto",
) -> list[Contest]:
    """The step of a real network, and that of a tiny one, in which the Trainer's own share shows.

    Args:
        workspace: Folder for the Trainer's records.
        scale: Enlargement.
        batch_size: Patches of a batch of the real network.
        lr_patch_size: Side of its LR patches.
        steps: Steps of one run with the real network, EDSR-baseline.
        tiny_steps: Steps of one run with the tiny one.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.

    Returns:
        ``step.ms`` and ``step.ratio_to_bare_loop`` of the one, ``step.overhead_ms`` of the other.
    """
    device = _device(device)
    batches = in_memory(scale=scale, batch_size=batch_size, lr_patch_size=lr_patch_size, device=device)
    tiny = in_memory(scale=scale, batch_size=1, lr_patch_size=8, device=device)

    def pair(
        network: Callable[[], nn.Module], batches: list[PatchBatch], steps: int
    ) -> Mapping[str, Callable[[], float]]:
        folder = workspace / "step"
        return {
            "trainer": lambda: with_trainer(
                network(), batches, folder=folder, scale=scale, steps=steps, device=device
            ),
            "bare_loop": lambda: with_bare_loop(network(), batches, steps=steps, device=device),
        }

    return [
        Contest(
            "step",
            pair(partial(EDSR, scale=scale), batches, steps),
            lambda s: {"ms": 1000 * s["trainer"], "ratio_to_bare_loop": s["trainer"] / s["bare_loop"]},
        ),
        Contest(
            "step",
            pair(partial(TinyNetwork, scale=scale), tiny, tiny_steps),
            lambda s: {"overhead_ms": 1000 * (s["trainer"] - s["bare_loop"])},
        ),
    ]


class TinyNetwork(nn.Sequential):
    """One convolution and a pixel shuffle: its arithmetic costs next to nothing."""

    def __init__(self, *, scale: int) -> None:
        super().__init__(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))


def in_memory(
    *, scale: int, batch_size: int, lr_patch_size: int, device: str = "cpu", count: int = 4
) -> list[PatchBatch]:
    """Batches of random patches, as the loader hands them over: for a GPU in memory that it reads itself."""
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
        for _ in range(count)
    ]


class Timed:
    """Batches, and a clock that runs from the end of the warm-up to the last one.

    Args:
        batches: A list in memory, which is gone through over and over, or an endless loader.
        steps: How many are to be measured.
        device: Waited for at both ends, if it is a GPU.
    """

    def __init__(self, batches: Iterable[PatchBatch], *, steps: int, device: str) -> None:
        self.batches = batches
        self.steps = steps
        self.device = device
        self.seconds_a_step = 0.0

    def __iter__(self) -> Iterator[PatchBatch]:
        """Hand out ``steps`` batches after the warm-up, and one more, at which the clock stands."""
        started = 0.0
        batches = itertools.cycle(self.batches) if isinstance(self.batches, list) else self.batches
        for number, batch in zip(range(_WARM_UP + self.steps + 1), batches, strict=False):
            if number in (_WARM_UP, _WARM_UP + self.steps):
                if self.device == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                started, self.seconds_a_step = now, (now - started) / self.steps
            yield batch


@arithmetic(tf32=True, benchmark=True)  # as conf/trainer/default.yaml
def with_bare_loop(network: nn.Module, batches: list[PatchBatch], *, steps: int, device: str) -> float:
    """Seconds a step of the plainest loop that computes the same: the reference."""
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


@arithmetic(tf32=True, benchmark=True)  # which the Trainer would leave on
def with_trainer(
    network: nn.Module,
    batches: Iterable[PatchBatch],
    *,
    folder: Path,
    scale: int,
    steps: int,
    device: str,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    logger: Logger | None = None,
) -> float:
    """Seconds a step of a training as ``task=train`` sets it up, with its record and its callbacks."""
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
    callbacks = [
        *watchers(run_folder, batch_size=1, row_interval=_ROW_INTERVAL),
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
        logger=logger or False,
        plugins=[DurableCheckpointIO()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=True,
    ).fit(module, datamodule=_Data(timed))
    return timed.seconds_a_step


class _Data(SRDataModule):
    """Our way to the device, with batches that need no reading."""

    def __init__(self, batches: Timed) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Timed:  # type: ignore[override]
        """The batches."""
        return self.batches


def _optimizer(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    given = list(parameters)
    return torch.optim.Adam(given, lr=2e-4, fused=given[0].is_cuda)  # as task=train


def _schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1_000_000)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
