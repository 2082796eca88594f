"""What a GPU makes of each network: precisions, memory layouts and compilation against eager float32.

Only where there is a GPU. Each network is a group of its own (``only=[gpu_osffnet]``): all of them take about
25 minutes on an H200, most of it for compiling.
"""

import contextlib
import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.datasets.patches import PatchDataset
from sr_lab.ops.roofline import Peaks, traffic
from sr_lab.speed import loader, step
from sr_lab.speed.contest import Contest
from sr_lab.system.devices import arithmetic
from sr_lab.training.autotune import Setting
from sr_lab.training.data_module import StreamSampler, patch_loader

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]

MODELS = ("osffnet", "efrdn", "mren", "imfm", "edsr", "imdn")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
_HALF: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Floating-point operations a second in half precision with tensor cores, and bytes a second, by data sheet.
PEAKS = {
    "H200": Peaks(989e12, 4.8e12),
    "H100": Peaks(989e12, 3.35e12),
    "A100": Peaks(312e12, 2.0e12),
    "RTX 4090": Peaks(165e12, 1.008e12),
    "V100": Peaks(125e12, 0.9e12),
}
_FORWARDS = 3  # a forward and a backward pass move and compute about as much as three forward passes


@dataclass(frozen=True)
class Form:
    """One way to run a network on the device."""

    precision: Precision
    setting: Setting

    def __str__(self) -> str:
        named = [name for name, on in dataclasses.asdict(self.setting).items() if on]
        return "_".join([self.precision, *named])

    @property
    def half(self) -> torch.dtype | None:
        """What autocast computes in; ``None`` without it."""
        return _HALF.get(self.precision)

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """TF32 off in all precisions but its own; cuDNN measures, as in a training."""
        return arithmetic(tf32=self.precision == "tf32", benchmark=True)


def forms(precisions: Sequence[Precision], *, compile: bool) -> list[Form]:
    """Every precision in either layout, and compiled in the layout of the tensor cores.

    Compiled and not channels-last is left out but for bf16: an hour of compiling for what is rarely faster.
    """
    eager = [Form(p, Setting(channels_last=c)) for p in precisions for c in (False, True)]
    if not compile:
        return eager
    compiled = [Form(p, Setting(channels_last=True, compile=True)) for p in precisions]
    return [*eager, *compiled, *(Form(p, Setting(compile=True)) for p in precisions if p == "bf16")]


def contests(
    workspace: Path,
    *,
    models: Sequence[str] = MODELS,
    scale: int = 4,
    batch_size: int = 64,
    lr_patch_size: int = 64,
    steps: int = 10,
    device: str = "cuda",
    precisions: Sequence[Precision] = PRECISIONS,
    lr_size: tuple[int, int] = (180, 320),
) -> list[Contest]:
    """Training, batch-1 latency and waiting for data, of each network; nothing where there is no GPU.

    Nothing is built or compiled before a contender's first call.

    Args:
        workspace: Folder for the training set of the last.
        models: Options of ``model=``.
        scale: Enlargement.
        batch_size: Patches of a training step.
        lr_patch_size: Side of its LR patches.
        steps: Steps of one run.
        device: ``cuda``; ``cpu`` shows that the code runs.
        precisions: What is compared with the first of them.
        lr_size: Height and width of the image of the latency; at x4 it becomes 1280x720.

    Returns:
        For each model ``gpu_<model>.images_per_s.<form>``, ``ratio_to_fp32.<form>``, ``memory_mib.<form>``,
        ``best_ratio_to_fp32``, ``share_of_roofline``; ``latency_ms.<form>``; ``data_wait``.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return []
    given = []
    for model in models:
        build = partial(_network, model, scale)
        given += [
            _training(model, build, precisions, scale, batch_size, lr_patch_size, steps, device),
            _latency(model, build, precisions, lr_size, steps, device),
            _data_wait(model, build, workspace, scale, batch_size, lr_patch_size, steps, device),
        ]
    return given


def _network(model: str, scale: int) -> nn.Module:
    torch.manual_seed(0)
    return Entry(model, scale).build()


class _Runs:
    """Runs of one contender; what it cannot do (a kernel, the memory) is no figure, and stops nothing.

    Args:
        prepare: Builds what is run: at the first call, so that contests that are not played cost nothing.
        contest: Whose contender it is: what was built for another one is dropped when this one begins.
        steps: How often in one call.
        device: ``cuda`` is waited for at both ends.
        must: Whether an error of it is an error of the contest: the reference has to run.
    """

    _built: ClassVar[list["_Runs"]] = []

    def __init__(
        self,
        prepare: Callable[[], Callable[[], object]],
        *,
        contest: str,
        steps: int,
        device: str,
        must: bool = False,
    ) -> None:
        self.prepare = prepare
        self.must = must
        self.contest = contest
        self.steps = steps
        self.device = device
        self.memory_mib = math.nan
        self._run: Callable[[], object] | None = None
        self._failed = False

    def __call__(self) -> float:
        """Seconds of one step, NaN where it does not run."""
        if self._failed:
            return math.nan
        try:
            if self._run is None:
                self._drop_others()
                self._run = self.prepare()
                self._run()  # compiles, and lets cuDNN choose
                self._run()
            self._wait(reset_memory=True)
            started = time.perf_counter()
            for _ in range(self.steps):
                self._run()
            self._wait()
        except RuntimeError as error:  # of CUDA, of memory, of the compiler, of what torch has not got
            if self.must:
                raise
            warnings.warn(f"{self.contest} does not run: {error}", stacklevel=2)
            self._failed, self._run = True, None
            return math.nan
        if self.device == "cuda":
            self.memory_mib = torch.cuda.max_memory_allocated() / 2**20
        return (time.perf_counter() - started) / self.steps

    def _drop_others(self) -> None:
        for other in _Runs._built:
            if other.contest != self.contest:
                other._run = None
        _Runs._built = [other for other in _Runs._built if other._run is not None] + [self]
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _wait(self, *, reset_memory: bool = False) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            if reset_memory:
                torch.cuda.reset_peak_memory_stats()


def _training(
    model: str,
    build: Callable[[], nn.Module],
    precisions: Sequence[Precision],
    scale: int,
    batch_size: int,
    lr_patch_size: int,
    steps: int,
    device: str,
) -> Contest:
    """Images a second of forward, backward and optimizer."""
    reference = Form(precisions[0], Setting())
    runs = {
        str(form): _Runs(
            partial(_training_step, form, build, scale, batch_size, lr_patch_size, device),
            contest=f"{model} training",
            steps=steps,
            device=device,
            must=form == reference,
        )
        for form in forms(precisions, compile=device == "cuda")
    }

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        known = {form: value for form, value in seconds.items() if not math.isnan(value)}
        ratios = {form: seconds[str(reference)] / value for form, value in known.items()}
        told = {f"images_per_s.{form}": batch_size / value for form, value in known.items()}
        told |= {f"ratio_to_fp32.{form}": ratio for form, ratio in ratios.items()}
        told |= {f"memory_mib.{form}": runs[form].memory_mib for form in known if device == "cuda"}
        told["best_ratio_to_fp32"] = max(ratios.values())
        bound = roofline_s(model, scale, (batch_size, 3, lr_patch_size, lr_patch_size))
        if bound is not None:
            told["share_of_roofline"] = _FORWARDS * bound / min(known.values())
        return told

    return Contest(f"gpu_{model}", runs, figures)


def _training_step(
    form: Form,
    build: Callable[[], nn.Module],
    scale: int,
    batch_size: int,
    lr_patch_size: int,
    device: str,
) -> Callable[[], object]:
    network = form.setting.apply(build().to(device).train())
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=form.precision == "fp16")
    lr = torch.rand(batch_size, 3, lr_patch_size, lr_patch_size, device=device)
    hr = torch.rand(batch_size, 3, scale * lr_patch_size, scale * lr_patch_size, device=device)

    def run() -> None:
        optimizer.zero_grad()
        with form.arithmetic():
            with torch.autocast(device, dtype=form.half, enabled=form.half is not None):
                loss: Tensor = nn.functional.l1_loss(network(lr), hr)
            torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()

    return run


def _latency(
    model: str,
    build: Callable[[], nn.Module],
    precisions: Sequence[Precision],
    lr_size: tuple[int, int],
    steps: int,
    device: str,
) -> Contest:
    """Milliseconds of one image, eager and replayed as a CUDA graph."""
    runs = {}
    for form in forms(precisions, compile=False):
        kinds: dict[str, Callable[..., Callable[[], object]]] = {str(form): _eager}
        if device == "cuda":
            kinds[f"{form}_graph"] = _graph
        for name, make in kinds.items():
            prepare = partial(make, form, build, lr_size, device)
            runs[name] = _Runs(prepare, contest=f"{model} latency", steps=steps, device=device)

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        known = {form: value for form, value in seconds.items() if not math.isnan(value)}
        return {f"latency_ms.{form}": 1000 * value for form, value in known.items()}

    return Contest(f"gpu_{model}", runs, figures)


def _eager(
    form: Form, build: Callable[[], nn.Module], lr_size: tuple[int, int], device: str
) -> Callable[[], Tensor]:
    """The network on one image; half precision in its weights, which saves casting them every time."""
    network = form.setting.apply(build().to(device).eval())
    lr = torch.rand(1, 3, *lr_size, device=device)
    network, lr = network.to(form.half), lr.to(form.half)

    @torch.inference_mode()
    def run() -> Tensor:
        with form.arithmetic():
            sr: Tensor = network(lr)
            return sr

    return run


def _graph(form: Form, build: Callable[[], nn.Module], lr_size: tuple[int, int], device: str) -> "_Replay":
    """The same, recorded once: a replay launches all kernels at once."""
    run = _eager(form, build, lr_size, device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return _Replay(graph, run)


@dataclass(frozen=True)
class _Replay:
    """A recorded pass.

    Args:
        graph: The record: kernels, and the addresses of what they read.
        run: What was recorded: the network and the image have to stay where they lie.
    """

    graph: torch.cuda.CUDAGraph
    run: Callable[[], Tensor]

    def __call__(self) -> None:
        """Do it again."""
        self.graph.replay()


def _data_wait(
    model: str,
    build: Callable[[], nn.Module],
    workspace: Path,
    scale: int,
    batch_size: int,
    lr_patch_size: int,
    steps: int,
    device: str,
) -> Contest:
    """Share of the Trainer's step that our loader costs over batches that lie in memory."""
    half: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if device == "cuda" else "32-true"
    train = partial(
        step.with_trainer,
        folder=workspace / "step",
        scale=scale,
        steps=5 * steps,
        device=device,
        precision=half,
    )

    def network() -> nn.Module:
        return Setting(channels_last=True).apply(build())

    def from_loader() -> float:
        dataset = _training_set(workspace / f"images-x{scale}", scale, lr_patch_size)
        sampler = StreamSampler(lambda: 0, batch_size=batch_size, rank=0, world=1)
        workers = min(4, os.cpu_count() or 1)
        return train(network(), patch_loader(dataset, sampler, num_workers=workers, pin=device == "cuda"))

    def from_memory() -> float:
        sizes = {"scale": scale, "batch_size": batch_size, "lr_patch_size": lr_patch_size}
        return train(network(), step.in_memory(**sizes, device=device))

    def figures(seconds: Mapping[str, float]) -> dict[str, float]:
        return {"data_wait": max(0.0, 1 - seconds["memory"] / seconds["loader"])}

    return Contest(f"gpu_{model}", {"loader": from_loader, "memory": from_memory}, figures)


@functools.cache
def _training_set(folder: Path, scale: int, lr_patch_size: int) -> PatchDataset:
    folder.mkdir(parents=True, exist_ok=True)
    return loader.training_set(folder, 8, 1020, 1356, scale, lr_patch_size)


@functools.cache
def roofline_s(model: str, scale: int, lr_shape: tuple[int, ...]) -> float | None:
    """Seconds below which no forward pass in half precision goes; ``None`` for an unknown card."""
    peaks = peaks_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peaks is None:
        return None
    _, *rest = lr_shape
    one = traffic(_network(model, scale), (1, *rest)).fused  # the weights' own traffic counts for little
    return lr_shape[0] * one.seconds(peaks, bytes_per_value=2)


def peaks_of(device: str) -> Peaks | None:
    """Data sheet of a card by the name that CUDA gives it."""
    return next((peaks for name, peaks in PEAKS.items() if name in device), None)
