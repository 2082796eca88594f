"""Cost of random degradations: making a batch's LR patches on the device, compared with a training step."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sr_lab.degradations.blur_bicubic import BlurBicubicDegradation
from sr_lab.degradations.jpeg import JPEGDegradation
from sr_lab.degradations.noise import NoiseDegradation
from sr_lab.degradations.operations import RandomDegradation
from sr_lab.degradations.realistic import RealisticDegradation
from sr_lab.models.imdn import IMDN
from sr_lab.speed.benchmark import Benchmark, seconds
from sr_lab.speed.step import in_memory, with_bare_loop

_DEGRADATIONS: Mapping[str, Callable[..., RandomDegradation]] = {
    "blur_bicubic": BlurBicubicDegradation,
    "noise": NoiseDegradation,
    "jpeg": JPEGDegradation,
    "realistic": RealisticDegradation,
}
SCALE = 4
BATCH_SIZE = 16
LR_PATCH_SIZE = 48
NUM_FEAT = 64  # feature channels of IMDN
STEPS = 2  # training steps in one run
BATCHES = 3  # batches in one run of a degradation


def benchmarks(_: Path) -> list[Benchmark]:
    """Measure each degradation, with its published ranges, against a step of IMDN, if possible on a GPU.

    Returns:
        ``degradation.<name>_share_of_step``: the time for a batch divided by the time for a step.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    patches = in_memory(scale=SCALE, batch_size=BATCH_SIZE, lr_patch_size=LR_PATCH_SIZE, device=device)
    variants: dict[str, Callable[[], float]] = {
        "step": lambda: with_bare_loop(
            IMDN(scale=SCALE, num_feat=NUM_FEAT), patches, steps=STEPS, device=device
        )
    }
    for name, make in _DEGRADATIONS.items():
        degradation = make(scale=SCALE)
        side = SCALE * (LR_PATCH_SIZE + 2 * degradation.margin)
        hr = torch.randint(256, (BATCH_SIZE, 3, side, side), dtype=torch.uint8, device=device)
        variants[name] = partial(seconds, partial(_degrade, degradation, hr, itertools.count()), BATCHES)
    return [
        Benchmark(
            "degradation",
            variants,
            lambda s: {f"{name}_share_of_step": s[name] / s["step"] for name in _DEGRADATIONS},
        )
    ]


def _degrade(degradation: RandomDegradation, hr: Tensor, numbers: Iterator[int]) -> None:
    """Degrade a batch, with new random numbers at each call."""
    first = next(numbers) * len(hr)
    degradation(hr, range(first, first + len(hr)))
