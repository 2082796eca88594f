"""What random degradations cost: making the LR patches of a batch on the device, against a training step."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sr_lab.degradations.blur_bicubic import BlurBicubicDegradation
from sr_lab.degradations.jpeg import JPEGDegradation
from sr_lab.degradations.noise import NoiseDegradation
from sr_lab.degradations.operations import RandomDegradation
from sr_lab.degradations.realistic import RealisticDegradation
from sr_lab.models.imdn import IMDN
from sr_lab.speed.benchmark import Benchmark
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
NUM_FEAT = 64  # of IMDN
STEPS = 2  # training steps of one run
BATCHES = 3  # batches of one run of a degradation


def benchmarks(_: Path) -> list[Benchmark]:
    """Each degradation with its published ranges, against a step of IMDN, on the GPU if there is one.

    Returns:
        ``degradation.<name>_share_of_step``: time of a batch divided by that of a step.
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
        variants[name] = _seconds(degradation, hr)
    return [
        Benchmark(
            "degradation",
            variants,
            lambda seconds: {
                f"{name}_share_of_step": seconds[name] / seconds["step"] for name in _DEGRADATIONS
            },
        )
    ]


def _seconds(degradation: RandomDegradation, hr: Tensor) -> Callable[[], float]:
    """Seconds for a batch; each has other random numbers."""

    def run() -> float:
        if hr.is_cuda:
            torch.cuda.synchronize()  # a step may still be running
        started = time.perf_counter()
        for number in range(BATCHES):
            degradation(hr, range(number * len(hr), (number + 1) * len(hr)))
        if hr.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / BATCHES

    return run
