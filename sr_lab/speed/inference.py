"""Cost of tiles against the whole image, savings from folding, and speed of backends against eager torch."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.inference.backends import missing, run_by
from sr_lab.inference.tiling import MEMORY, Tiled
from sr_lab.layers.folding import for_inference
from sr_lab.ops.complexity import lr_image, multi_adds
from sr_lab.speed.benchmark import Benchmark, seconds
from sr_lab.system.devices import exact_float32

SCALE = 4
TILED = "lapar_c"  # a network of local operations
TILED_SIDE = 560  # side of the image in LR pixels, just too large to be processed whole
TILE_MEMORY = MEMORY  # bytes
FOLDED = ("ecbsr_m10c32", "span", "fmen_ntire", "efrdn", "a2f_sd")
FOLDED_SIDE = 96
EXPORTED = "osffnet"
EXPORTED_SIDE = 128
_PASSES = 3  # number of passes if one takes a second or less
_MATRIX_SIDE = 2048  # large enough for the machine's full speed


def benchmarks(workspace: Path) -> list[Benchmark]:
    """Benchmarks of networks with fresh weights, which are as fast as trained ones.

    Returns:
        ``tiling.ratio_to_whole``: the time for tiles divided by the time for the whole image;
        ``tiling.planned``: the same ratio for the number of pixels that are read.
        ``fold.<network>_ratio_to_unfolded``: the folded network's time divided by the unfolded one's.
        ``backend.<backend>_ratio_to_eager``: the folded network's time in eager torch divided by its time in
        the backend;
        ``backend.<backend or eager>_share_of_matmul``: the network's multiply-adds per second divided by
        those of a large matrix product, which is an upper bound.
    """
    return [_tiling(), _fold(), _backend(workspace)]


def _tiling() -> Benchmark:
    # Weights affect the time only through denormal numbers, which fresh weights do not produce.
    network = for_inference(Entry(TILED, SCALE).build().eval())
    in_tiles = Tiled(network, memory=TILE_MEMORY)
    lr = _image(network, TILED_SIDE)
    read = sum(lr[0, 0][piece.read].numel() for piece in in_tiles.pieces(TILED_SIDE, TILED_SIDE))
    return Benchmark(
        "tiling",
        {"tiles": _seconds(in_tiles, lr), "whole": _seconds(network, lr)},
        lambda s: {
            "ratio_to_whole": s["tiles"] / s["whole"],
            "planned": read / TILED_SIDE**2,
        },
    )


def _fold() -> Benchmark:
    variants: dict[str, Callable[[], float]] = {}
    for name in FOLDED:
        trained = Entry(name, SCALE).build().eval()
        lr = _image(trained, FOLDED_SIDE)
        variants[name] = _seconds(for_inference(trained), lr, _PASSES)
        variants[f"{name}_unfolded"] = _seconds(trained, lr, _PASSES)
    return Benchmark(
        "fold",
        variants,
        lambda s: {f"{name}_ratio_to_unfolded": s[name] / s[f"{name}_unfolded"] for name in FOLDED},
    )


def _backend(workspace: Path) -> Benchmark:
    backends = [name for name in ("onnxruntime", "openvino") if not missing(name)]
    variants = ("eager", *backends)
    network = Entry(EXPORTED, SCALE).build().eval()
    hr_size = (SCALE * EXPORTED_SIDE, SCALE * EXPORTED_SIDE)
    work = multi_adds(network, scale=SCALE, rule="all", hr_size=hr_size) / _MATRIX_SIDE**3
    lr = _image(network, EXPORTED_SIDE)
    return Benchmark(
        "backend",
        {"matmul": _matmul, **{name: _seconds_by(network, name, workspace, lr) for name in variants}},
        lambda s: {
            **{f"{name}_ratio_to_eager": s["eager"] / s[name] for name in backends},
            **{f"{name}_share_of_matmul": work * s["matmul"] / s[name] for name in variants},
        },
    )


def _image(network: nn.Module, side: int) -> Tensor:
    return lr_image(network, SCALE, "cpu", (SCALE * side, SCALE * side)).uniform_()


def _matmul() -> float:
    """Seconds taken by the fastest of several products of two large matrices."""
    layer = nn.Linear(_MATRIX_SIDE, _MATRIX_SIDE, bias=False)
    return _seconds(layer, torch.rand(_MATRIX_SIDE, _MATRIX_SIDE), _PASSES)()


def _seconds_by(network: nn.Module, backend: str, workspace: Path, lr: Tensor) -> Callable[[], float]:
    """A function that measures a pass through a backend, which is prepared at the first call."""

    @functools.cache
    def prepared() -> Callable[[], float]:
        run = _seconds(run_by(network, backend, cache_dir=workspace), lr)
        run()  # OpenVINO compiles the network for a size at the second image of that size
        return run

    return lambda: prepared()()


def _seconds(network: nn.Module, lr: Tensor, passes: int = 1) -> Callable[[], float]:
    """The fastest of several float32 passes on the CPU; other processes and page faults only add time."""

    @torch.inference_mode()
    def run() -> float:
        with exact_float32():
            return min(seconds(lambda: network(lr)) for _ in range(passes))

    return run
