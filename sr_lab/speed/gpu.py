"""How fast a GPU runs each network: precisions, memory layouts and compilation compared with eager float32.

These benchmarks need a GPU. Each network has its own benchmark (``only=[gpu_osffnet]``): all of them take
about 25 minutes on an H200, most of it spent compiling.
"""

import contextlib
import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.datasets.patches import PatchBatch, PatchDataset
from sr_lab.ops.roofline import Peaks, traffic
from sr_lab.speed import loader, step
from sr_lab.speed.benchmark import Benchmark
from sr_lab.system.devices import arithmetic
from sr_lab.training.autotune import Setting
from sr_lab.training.data_module import StreamSampler, patch_loader

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]

MODELS = ("osffnet", "efrdn", "mren", "imfm", "edsr", "imdn")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")  # the first is the reference
SCALE = 4
BATCH_SIZE = 64
LR_PATCH_SIZE = 64
STEPS = 10  # steps in one run
WORKERS = min(4, os.cpu_count() or 1)  # of the loader
LR_SIZE = (180, 320)  # height and width of the latency benchmark's image, which x4 makes 1280x720
_HALF: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

# From the data sheets: half-precision operations per second on tensor cores, and bytes per second.
PEAKS = {
    "H200": Peaks(989e12, 4.8e12),
    "H100": Peaks(989e12, 3.35e12),
    "A100": Peaks(312e12, 2.0e12),
    "RTX 4090": Peaks(165e12, 1.008e12),
    "V100": Peaks(125e12, 0.9e12),
}
_FORWARDS = 3  # a forward and a backward pass cost about as much as three forward passes


@dataclass(frozen=True)
class Form:
    """A precision, a memory layout, and whether the network is compiled."""

    precision: Precision
    setting: Setting

    def __str__(self) -> str:
        named = [name for name, on in dataclasses.asdict(self.setting).items() if on]
        return "_".join([self.precision, *named])

    @property
    def half(self) -> torch.dtype | None:
        """The precision of autocast; ``None`` without autocast."""
        return _HALF.get(self.precision)

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """TF32 only for the ``tf32`` precision; cuDNN benchmarks kernels, as in training."""
        return arithmetic(tf32=self.precision == "tf32", benchmark=True)


def forms(precisions: Sequence[Precision], *, compile: bool) -> list[Form]:
    """Every precision in both memory layouts, and compiled in channels-last.

    Of the compiled forms only bf16 is also measured without channels-last: the others would take an hour to
    compile and are rarely faster.
    """
    eager = [Form(p, Setting(channels_last=c)) for p in precisions for c in (False, True)]
    if not compile:
        return eager
    compiled = [Form(p, Setting(channels_last=True, compile=True)) for p in precisions]
    return [*eager, *compiled, *(Form(p, Setting(compile=True)) for p in precisions if p == "bf16")]


def benchmarks(workspace: Path, device: str = "cuda") -> list[Benchmark]:
    """For each network: training, latency of one image and waiting for data; empty without a GPU.

    A variant is built and compiled at its first call.

    Args:
        workspace: Folder for the training set of the data-wait benchmark.
        device: ``cuda``; ``cpu`` only shows that the code runs.

    Returns:
        For each model ``gpu_<model>.images_per_s.<form>``, ``ratio_to_fp32.<form>``, ``memory_mib.<form>``,
        ``best_ratio_to_fp32``, ``share_of_roofline``; ``latency_ms.<form>``; ``data_wait``.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return []
    given = []
    for model in MODELS:
        given += [_training(model, device), _latency(model, device), _data_wait(model, workspace, device)]
    return given


def _network(model: str) -> nn.Module:
    torch.manual_seed(0)
    return Entry(model, SCALE).build()


@dataclass(eq=False)
class _Runs:
    """Runs of one variant. If a run fails (no kernel, too little memory), only this variant has no value.

    Args:
        prepare: Builds the function to run, at the first call.
        benchmark: Name of its benchmark; the functions of other benchmarks are dropped when this one begins.
        device: ``cuda`` is synchronised before and after a run.
        must: Whether a failed run raises an error; true for the reference.
    """

    _built: ClassVar[list["_Runs"]] = []

    prepare: Callable[[], Callable[[], object]]
    benchmark: str
    device: str
    must: bool = False

    def __post_init__(self) -> None:
        self.memory_mib = math.nan
        self._run: Callable[[], object] | None = None
        self._failed = False
        self._own = self._of_others = 0  # bytes that stay allocated between runs

    def __call__(self) -> float:
        """Seconds of one step; NaN if the variant does not run."""
        if self._failed:
            return math.nan
        try:
            if self._run is None:
                self._drop_the_rest()
                before = self._allocated()
                self._run = self.prepare()
                self._run()  # compiles, and lets cuDNN choose kernels
                self._run()
                self._own = self._allocated() - before
            self._of_others = self._allocated() - self._own
            self._wait(reset_memory=True)
            started = time.perf_counter()
            for _ in range(STEPS):
                self._run()
            self._wait()
        except RuntimeError as error:  # from CUDA, the allocator, the compiler, or an unsupported operation
            if self.must:
                raise
            warnings.warn(f"{self.benchmark} does not run: {error}", stacklevel=2)
            self._failed, self._run = True, None
            return math.nan
        if self.device == "cuda":
            self.memory_mib = (torch.cuda.max_memory_allocated() - self._of_others) / 2**20
        return (time.perf_counter() - started) / STEPS

    def _drop_the_rest(self) -> None:
        for other in _Runs._built:
            if other.benchmark != self.benchmark:
                other._run = None
        _Runs._built = [other for other in _Runs._built if other._run is not None] + [self]
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    def _wait(self, *, reset_memory: bool = False) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            if reset_memory:
                torch.cuda.reset_peak_memory_stats()


def _training(model: str, device: str) -> Benchmark:
    """Images per second in training steps: forward pass, backward pass and optimizer."""
    build = partial(_network, model)
    reference = Form(PRECISIONS[0], Setting())
    runs = {
        str(form): _Runs(
            partial(_training_step, form, build, device),
            benchmark=f"{model} training",
            device=device,
            must=form == reference,
        )
        for form in forms(PRECISIONS, compile=device == "cuda")
    }

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        known = {form: value for form, value in seconds.items() if not math.isnan(value)}
        ratios = {form: seconds[str(reference)] / value for form, value in known.items()}
        given = {f"images_per_s.{form}": BATCH_SIZE / value for form, value in known.items()}
        given |= {f"ratio_to_fp32.{form}": ratio for form, ratio in ratios.items()}
        given |= {f"memory_mib.{form}": runs[form].memory_mib for form in known if device == "cuda"}
        given["best_ratio_to_fp32"] = max(ratios.values())
        bound = roofline_s(model, (BATCH_SIZE, 3, LR_PATCH_SIZE, LR_PATCH_SIZE))
        if bound is not None:
            given["share_of_roofline"] = _FORWARDS * bound / min(known.values())
        return given

    return Benchmark(f"gpu_{model}", runs, figures)


def _training_step(form: Form, build: Callable[[], nn.Module], device: str) -> Callable[[], object]:
    network = form.setting.apply(build().to(device).train())
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=form.precision == "fp16")
    lr = torch.rand(BATCH_SIZE, 3, LR_PATCH_SIZE, LR_PATCH_SIZE, device=device)
    hr = torch.rand(BATCH_SIZE, 3, SCALE * LR_PATCH_SIZE, SCALE * LR_PATCH_SIZE, device=device)

    def run() -> None:
        optimizer.zero_grad()
        with form.arithmetic():
            with torch.autocast(device, dtype=form.half, enabled=form.half is not None):
                loss: Tensor = nn.functional.l1_loss(network(lr), hr)
            torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()

    return run


def _latency(model: str, device: str) -> Benchmark:
    """Milliseconds for one image, run eagerly and replayed as a CUDA graph."""
    runs = {}
    for form in forms(PRECISIONS, compile=False):
        kinds: dict[str, Callable[..., Callable[[], object]]] = {str(form): _eager}
        if device == "cuda":
            kinds[f"{form}_graph"] = _graph
        for name, make in kinds.items():
            prepare = partial(make, form, partial(_network, model), device)
            runs[name] = _Runs(prepare, benchmark=f"{model} latency", device=device)

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        known = {form: value for form, value in seconds.items() if not math.isnan(value)}
        return {f"latency_ms.{form}": 1000 * value for form, value in known.items()}

    return Benchmark(f"gpu_{model}", runs, figures)


def _eager(form: Form, build: Callable[[], nn.Module], device: str) -> Callable[[], Tensor]:
    """The network on one image; in half precision, its weights are cast once, not in every pass."""
    network = form.setting.apply(build().to(device).eval())
    lr = torch.rand(1, 3, *LR_SIZE, device=device)
    network, lr = network.to(form.half), lr.to(form.half)

    @torch.inference_mode()
    def run() -> Tensor:
        with form.arithmetic():
            sr: Tensor = network(lr)
            return sr

    return run


def _graph(form: Form, build: Callable[[], nn.Module], device: str) -> Callable[[], None]:
    """The same network as a CUDA graph: a replay launches all kernels at once."""
    run = _eager(form, build, device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return partial(_replay, graph, run)


def _replay(graph: torch.cuda.CUDAGraph, _recorded: Callable[[], Tensor]) -> None:
    """Run a graph; the arguments keep alive the network and the image, which the graph reads."""
    graph.replay()


def _data_wait(model: str, workspace: Path, device: str) -> Benchmark:
    """Share of a training step spent waiting for our loader, compared with batches in memory."""
    on_gpu = device == "cuda"

    def train(batches: Iterable[PatchBatch]) -> float:
        return step.with_trainer(
            Setting(channels_last=True).apply(_network(model)),
            batches,
            folder=workspace / "step",
            scale=SCALE,
            steps=5 * STEPS,
            device=device,
            precision="bf16-mixed" if on_gpu else "32-true",
        )

    def from_loader() -> float:
        dataset = _training_set(workspace / "images")
        sampler = StreamSampler(lambda: 0, batch_size=BATCH_SIZE, rank=0, world=1)
        return train(patch_loader(dataset, sampler, num_workers=WORKERS, pin=on_gpu))

    def from_memory() -> float:
        return train(
            step.in_memory(scale=SCALE, batch_size=BATCH_SIZE, lr_patch_size=LR_PATCH_SIZE, device=device)
        )

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        return {"data_wait": max(0.0, 1 - seconds["memory"] / seconds["loader"])}

    return Benchmark(f"gpu_{model}", {"loader": from_loader, "memory": from_memory}, figures)


@functools.cache
def _training_set(folder: Path) -> PatchDataset:
    folder.mkdir(parents=True, exist_ok=True)
    return loader.training_set(folder, 8, 1020, 1356, SCALE, LR_PATCH_SIZE)


@functools.cache
def roofline_s(model: str, lr_shape: tuple[int, ...]) -> float | None:
    """Shortest possible half-precision forward pass on this GPU, in seconds; ``None`` for an unknown card."""
    peaks = peaks_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peaks is None:
        return None
    # Multiplied by the batch below: the memory traffic of the weights is negligible.
    one = traffic(_network(model), (1, *lr_shape[1:])).fused
    return lr_shape[0] * one.seconds(peaks, bytes_per_value=2)


def peaks_of(device: str) -> Peaks | None:
    """Data sheet limits of a GPU, by the name that CUDA reports."""
    return next((peaks for name, peaks in PEAKS.items() if name in device), None)
