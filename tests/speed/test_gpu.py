import contextlib
import math
import types
import weakref

import pytest
import torch

from sr_lab.ops.roofline import Peaks
from sr_lab.speed import gpu, step
from sr_lab.speed.benchmark import measure
from sr_lab.tasks.benchmark import GROUPS
from sr_lab.training.autotune import Setting

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_benchmark_is_defined_without_a_gpu(tmp_path):
    assert gpu.benchmarks(tmp_path) == []


@pytest.fixture
def small(monkeypatch):
    """Use sizes so small that the benchmarks take little time."""
    sizes = {
        "MODELS": ["edsr_shallow"],
        "SCALE": 2,
        "BATCH_SIZE": 1,
        "LR_PATCH_SIZE": 8,
        "STEPS": 1,
        "WORKERS": 0,
    }
    for name, value in (sizes | {"PRECISIONS": ["fp32", "bf16"], "LR_SIZE": (8, 8)}).items():
        monkeypatch.setattr(gpu, name, value)


def test_the_benchmarks_run_and_return_their_figures(tmp_path, small):
    measured = measure(gpu.benchmarks(tmp_path, device="cpu"), rounds=1)
    forms = ["fp32", "fp32_channels_last", "bf16", "bf16_channels_last"]
    figures = [
        f"{figure}.{form}" for figure in ("images_per_s", "ratio_to_fp32", "latency_ms") for form in forms
    ]
    figures += ["best_ratio_to_fp32", "data_wait"]
    assert set(measured) == {f"gpu_edsr_shallow.{figure}" for figure in figures}
    assert measured["gpu_edsr_shallow.ratio_to_fp32.fp32"].median == 1


def test_every_precision_is_measured_in_both_memory_layouts_and_compiled():
    names = {str(form) for form in gpu.forms(gpu.PRECISIONS, compile=True)}
    for precision in gpu.PRECISIONS:
        assert {precision, f"{precision}_channels_last", f"{precision}_channels_last_compile"} <= names


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_enabled_only_for_its_own_form_and_restored_afterwards(precision, allowed):
    before = torch.backends.cudnn.allow_tf32
    with gpu.Form(precision, Setting()).arithmetic():
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is before


def test_no_measurement_depends_on_earlier_measurements(tmp_path, small):
    seen = []

    class Watch(step.TinyNetwork):
        def forward(self, lr):
            seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32))
            return super().forward(lr)

    def build():
        return Watch(scale=2)

    assert not torch.backends.cudnn.benchmark  # as at the start of a process
    form = gpu.Form("fp32", Setting())
    gpu._training_step(form, build, "cpu")()
    gpu._eager(form, build, "cpu")()
    batches = step.in_memory(scale=2, batch_size=1, lr_patch_size=8)
    step.with_trainer(build(), batches, folder=tmp_path, scale=2, steps=1, device="cpu")
    step.with_bare_loop(build(), batches, steps=1, device="cpu")
    assert set(seen[:2]) == {(True, False)}
    assert set(seen[2:]) == {(True, True)}  # as in conf/trainer/default.yaml
    assert not torch.backends.cudnn.benchmark


def test_tensors_that_a_graph_reads_live_as_long_as_the_graph(monkeypatch):
    """No graph is recorded on a CPU, so a stub replaces the graph."""
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda one: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: types.SimpleNamespace(replay=lambda: None))
    built = []

    def build():
        network = step.TinyNetwork(scale=2)
        built.append(weakref.ref(network))
        return network

    replay = gpu._graph(gpu.Form("fp32", Setting()), build, "cpu")
    replay()
    assert built[0]() is not None
    del replay
    assert built[0]() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_still_runs_after_the_memory_cache_is_emptied():
    replay = gpu._graph(gpu.Form("fp32", Setting()), lambda: step.TinyNetwork(scale=2), "cuda")
    torch.cuda.empty_cache()
    replay()
    torch.cuda.synchronize()


def test_a_benchmark_that_fails_gives_no_figure_and_is_not_run_again():
    tried = []

    def prepare():
        tried.append(1)
        raise RuntimeError("CUDA out of memory")

    runs = gpu._Runs(prepare, benchmark="a", device="cpu")
    with pytest.warns(UserWarning, match="a does not run: CUDA out of memory"):
        assert math.isnan(runs())
    assert math.isnan(runs())
    assert len(tried) == 1


def test_a_failure_of_the_reference_is_raised():
    def prepare():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        gpu._Runs(prepare, benchmark="a", device="cpu", must=True)()


def test_objects_built_by_the_previous_benchmark_are_freed():
    first = gpu._Runs(lambda: lambda: None, benchmark="a", device="cpu")
    first()
    assert first._run is not None
    gpu._Runs(lambda: lambda: None, benchmark="b", device="cpu")()
    assert first._run is None


def test_the_peak_rates_of_a_card_are_found_by_its_cuda_name():
    assert gpu.peaks_of("NVIDIA H200") == Peaks(989e12, 4.8e12)
    assert gpu.peaks_of("Tesla V100-SXM2-32GB") == Peaks(125e12, 0.9e12)
    assert gpu.peaks_of("Quadro 1") is None


def test_the_benchmark_task_lists_each_network():
    assert GROUPS["gpu"] == tuple(f"gpu_{model}" for model in gpu.MODELS)
