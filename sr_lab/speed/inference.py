"""What tiles cost beside the whole image, what folding saves, and what other backends than torch do."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.inference.backends import missing, run_by
from sr_lab.inference.tiling import MEMORY, Tiled
from sr_lab.layers.folding import for_inference
from sr_lab.ops.complexity import lr_image, multi_adds
from sr_lab.speed.contest import Contest
from sr_lab.system.devices import exact_float32

FOLDED = ("ecbsr_m10c32", "span", "fmen_ntire", "efrdn", "a2f_sd")
_PASSES = 3  # of what takes a second or less
_SIDE = 2048  # of the matrices whose product is as fast as the machine computes


def contests(
    workspace: Path,
    *,
    scale: int = 4,
    tiled: str = "lapar_c",
    side: int = 560,
    memory: int = MEMORY,
    folded: Sequence[str] = FOLDED,
    folded_side: int = 96,
    exported: str = "osffnet",
    exported_side: int = 128,
) -> list[Contest]:
    """Networks with fresh weights, whose speed is that of trained ones.

    Args:
        workspace: For graphs of the exported network.
        scale: Enlargement r.
        tiled: Network of local operations that takes an image in tiles.
        side: Side of that image in LR pixels, just too large to be taken whole.
        memory: Bytes that a tile may take.
        folded: Networks that are folded for inference.
        folded_side: Side of the image that they enlarge, in LR pixels.
        exported: Network that runs by onnxruntime and OpenVINO, as far as they are installed.
        exported_side: Side of the image that it enlarges, in LR pixels.

    Returns:
        ``tiling.ratio_to_whole``: time in tiles by time of the whole image; ``tiling.planned``: the same by
        the pixels that are computed. ``fold.<network>_ratio_to_unfolded``.
        ``backend.<engine>_ratio_to_eager``: time of the folded network in eager torch by that of an engine;
        ``backend.<engine or eager>_share_of_matmul``: its multiply-adds a second by those of a large matrix
        product, which bounds the former.
    """
    # Weights do not change the time, apart from denormal numbers, which fresh ones do not give.
    network = for_inference(Entry(tiled, scale).build().eval())
    in_tiles = Tiled(network, memory=memory)
    lr = lr_image(network, scale, "cpu", (scale * side, scale * side)).uniform_()
    read = [lr[0, 0][piece.read].numel() for piece in in_tiles.pieces(side, side)]
    planned = sum(read) / side**2
    contenders: dict[str, Callable[[], float]] = {}
    for name in folded:
        trained = Entry(name, scale).build().eval()
        image = lr_image(trained, scale, "cpu", (scale * folded_side, scale * folded_side)).uniform_()
        contenders[name] = _seconds(for_inference(trained), image, _PASSES)
        contenders[f"{name}_unfolded"] = _seconds(trained, image, _PASSES)
    backends = [name for name in ("onnxruntime", "openvino") if not missing(name)]
    runs = ("eager", *backends)
    to_export = Entry(exported, scale).build().eval()
    work = multi_adds(to_export, scale=scale, rule="all", hr_size=(scale * exported_side,) * 2) / _SIDE**3
    to_upscale = lr_image(to_export, scale, "cpu", (scale * exported_side,) * 2).uniform_()
    return [
        Contest(
            "tiling",
            {"tiles": _seconds(in_tiles, lr), "whole": _seconds(network, lr)},
            lambda seconds: {
                "ratio_to_whole": seconds["tiles"] / seconds["whole"],
                "planned": planned,
            },
        ),
        Contest(
            "fold",
            contenders,
            lambda seconds: {
                f"{name}_ratio_to_unfolded": seconds[name] / seconds[f"{name}_unfolded"] for name in folded
            },
        ),
        Contest(
            "backend",
            {
                "matmul": _matmul,
                **{name: _seconds_by(to_export, name, workspace, to_upscale) for name in runs},
            },
            lambda seconds: {
                **{f"{name}_ratio_to_eager": seconds["eager"] / seconds[name] for name in backends},
                **{f"{name}_share_of_matmul": work * seconds["matmul"] / seconds[name] for name in runs},
            },
        ),
    ]


def _matmul() -> float:
    """The fastest of some products of two large matrices."""
    return _seconds(nn.Linear(_SIDE, _SIDE, bias=False), torch.rand(_SIDE, _SIDE), _PASSES)()


def _seconds_by(network: nn.Module, backend: str, workspace: Path, lr: Tensor) -> Callable[[], float]:
    """One pass by a backend, which is made ready by the first."""

    @functools.cache
    def made() -> Callable[[], float]:
        run = _seconds(run_by(network, backend, cache_dir=workspace), lr)
        run()  # OpenVINO compiles for a size that comes a second time
        return run

    return lambda: made()()


def _seconds(network: nn.Module, lr: Tensor, passes: int = 1) -> Callable[[], float]:
    """The fastest of some passes in float32 on the CPU: what else runs there, and page faults, only add."""

    def once() -> float:
        started = time.perf_counter()
        network(lr)
        return time.perf_counter() - started

    @torch.inference_mode()
    def run() -> float:
        with exact_float32():
            return min(once() for _ in range(passes))

    return run
