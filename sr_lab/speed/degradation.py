"""What random degradations cost: making the LR patches of a batch on the device, beside a training step."""

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
from sr_lab.speed.contest import Contest
from sr_lab.speed.step import in_memory, with_bare_loop

_DEGRADATIONS: Mapping[str, Callable[..., RandomDegradation]] = {
    "blur_bicubic": BlurBicubicDegradation,
    "noise": NoiseDegradation,
    "jpeg": JPEGDegradation,
    "realistic": RealisticDegradation,
}


def contests(
    _: Path,
    *,
    scale: int = 4,
    batch_size: int = 16,
    lr_patch_size: int = 48,
    num_feat: int = 64,
    steps: int = 2,
    batches: int = 3,
) -> list[Contest]:
    """Each degradation with its published ranges, beside a step of IMDN, on the GPU if there is one.

    Args:
        scale: Enlargement.
        batch_size: Patches of a batch.
        lr_patch_size: Side of the LR patches.
        num_feat: Width of IMDN.
        steps: Steps of one run.
        batches: Batches of one run of a degradation.

    Returns:
        ``degradation.<name>_share_of_step``: time of a batch by that of a step.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    patches = in_memory(scale=scale, batch_size=batch_size, lr_patch_size=lr_patch_size, device=device)
    contenders: dict[str, Callable[[], float]] = {
        "step": lambda: with_bare_loop(
            IMDN(scale=scale, num_feat=num_feat), patches, steps=steps, device=device
        )
    }
    for name, make in _DEGRADATIONS.items():
        degradation = make(scale=scale)
        side = scale * (lr_patch_size + 2 * degradation.margin)
        hr = torch.randint(256, (batch_size, 3, side, side), dtype=torch.uint8, device=device)
        contenders[name] = _seconds(degradation, hr, batches)
    return [
        Contest(
            "degradation",
            contenders,
            lambda seconds: {
                f"{name}_share_of_step": seconds[name] / seconds["step"] for name in _DEGRADATIONS
            },
        )
    ]


def _seconds(degradation: RandomDegradation, hr: Tensor, batches: int) -> Callable[[], float]:
    """Seconds for a batch, each of other random numbers."""

    def run() -> float:
        if hr.is_cuda:
            torch.cuda.synchronize()  # a step may still be under way
        started = time.perf_counter()
        for number in range(batches):
            degradation(hr, range(number * len(hr), (number + 1) * len(hr)))
        if hr.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / batches

    return run
