import re
import shutil
from pathlib import Path

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.system import devices, distributed
from tests.composing import compose

# The results of torch.cuda.get_arch_list() in the x86-64 builds of torch 2.13.
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to have a GPU of a given compute capability and a given build of torch."""

    def pretend(major: int, minor: int, compiled: list[str] = CU130, name: str = "Some GPU") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: compiled)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        # torch returns True even for a V100, since it counts emulation, so no code may rely on this
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)

    return pretend


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        pytest.param((7, 0), "16-mixed", id="V100"),
        pytest.param((7, 5), "16-mixed", id="T4"),
        pytest.param((8, 0), "bf16-mixed", id="A100"),
        pytest.param((8, 9), "bf16-mixed", id="RTX 40"),
        pytest.param((9, 0), "bf16-mixed", id="H200"),
        pytest.param((12, 0), "bf16-mixed", id="RTX 50"),
    ],
)
def test_the_automatic_precision_is_one_that_the_card_supports_natively(gpu, capability, precision):
    gpu(*capability)
    assert devices.resolve_precision("auto", "auto") == precision


def test_the_automatic_precision_is_float32_without_a_gpu(no_gpu):
    assert devices.resolve_precision("auto", "auto") == "32-true"


def test_the_automatic_precision_is_float32_on_the_cpu_of_a_machine_with_a_gpu(gpu):
    gpu(9, 0)
    assert devices.resolve_precision("auto", "cpu") == "32-true"


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_requested_precision_is_used(gpu, precision):
    gpu(7, 0)
    assert devices.resolve_precision(precision, "auto") == precision


@pytest.mark.parametrize(
    ("capability", "cu126", "cu130"),
    [
        pytest.param((6, 1), True, False, id="GTX 10"),
        pytest.param((7, 0), True, False, id="V100"),
        pytest.param((7, 5), True, True, id="T4"),
        pytest.param((8, 0), True, True, id="A100"),
        pytest.param((8, 6), True, True, id="RTX 30"),
        pytest.param((8, 9), True, True, id="RTX 40"),
        pytest.param((9, 0), True, True, id="H200"),
        pytest.param((10, 0), False, True, id="B200"),
        pytest.param((12, 0), False, True, id="RTX 50"),
    ],
)
def test_each_build_of_torch_runs_on_the_cards_it_was_compiled_for(gpu, capability, cu126, cu130):
    for compiled, runs in ((CU126, cu126), (CU130, cu130)):
        gpu(*capability, compiled)
        if runs:
            devices.check_gpu("auto")
        else:
            with pytest.raises(ConfigError):
                devices.check_gpu("auto")


def test_binary_code_does_not_run_on_an_older_minor_version(gpu):
    gpu(8, 0, ["sm_86"])
    with pytest.raises(ConfigError):
        devices.check_gpu("auto")


@pytest.mark.parametrize(("entry", "runs"), [("compute_90", True), ("compute_120", False), ("sm_90", False)])
def test_intermediate_code_runs_on_any_newer_card(gpu, entry, runs):
    gpu(10, 0, [entry])
    if runs:
        devices.check_gpu("auto")
    else:
        with pytest.raises(ConfigError):
            devices.check_gpu("auto")


def test_a_v100_is_refused_with_the_right_install_command(gpu):
    gpu(7, 0, CU130, "Tesla V100-SXM2-32GB")
    with pytest.raises(ConfigError) as caught:
        devices.check_gpu("auto")
    said = str(caught.value)
    assert "no kernels for Tesla V100-SXM2-32GB (sm_70), only for sm_75, sm_80" in said
    assert "pip install 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126" in said
    assert said.endswith("or use trainer=cpu")


def test_the_message_about_a_new_card_points_to_the_new_builds(gpu):
    gpu(12, 0, CU126)
    with pytest.raises(ConfigError, match=r"--index-url https://download.pytorch.org/whl/cu130"):
        devices.check_gpu("auto")


def test_an_unused_card_is_not_refused(gpu):
    gpu(7, 0, CU130)
    devices.check_gpu("cpu")


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_missing_gpu_is_refused_with_the_setting_to_use_instead(no_gpu, accelerator):
    with pytest.raises(ConfigError, match=f"got {accelerator}, but torch finds no GPU here; use trainer=cpu"):
        devices.check_gpu(accelerator)


def test_a_machine_without_a_gpu_is_not_refused(no_gpu):
    devices.check_gpu("auto")


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),
        ({"SLURM_PROCID": "3"}, 3),
        ({"NODE_RANK": "1"}, 1),
    ],
)
def test_the_rank_is_known_before_torch_distributed_starts(monkeypatch, variables, number):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.rank() == number


def test_a_gpu_is_reported_by_its_name(gpu):
    gpu(9, 0, name="NVIDIA H200")
    assert devices.device_name("auto") == "NVIDIA H200"


def test_the_cpu_is_reported_with_its_number_of_threads(no_gpu):
    assert devices.device_name("cpu") == f"CPU, {torch.get_num_threads()} threads"


def test_a_note_says_which_half_precision_was_chosen_and_how_to_train_without_it(gpu):
    gpu(7, 0, name="Tesla V100-SXM2-32GB")
    assert devices.why_half("16-mixed", torch.device("cuda", 0)) == (
        "precision: fp16 with a gradient scaler, since there is neither bf16 nor TF32 on "
        "Tesla V100-SXM2-32GB (compute capability 7.0); trainer.precision=32-true trains in float32"
    )
    gpu(9, 0, name="NVIDIA H200")
    assert devices.why_half("bf16-mixed", torch.device("cuda", 0)).startswith(
        "precision: bf16 on NVIDIA H200"
    )


@pytest.mark.parametrize(
    ("given", "rank", "index"),
    [(1, 0, 0), (-1, 0, 0), ("auto", 0, 0), ([3], 0, 3), ([2, 5], 1, 5), ("1,3", 1, 3), (2, 1, 1)],
)
def test_the_device_is_the_one_that_lightning_will_use(gpu, monkeypatch, given, rank, index):
    gpu(9, 0)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert devices.device_of("auto", given) == torch.device("cuda", index)


def test_the_precision_follows_the_card_in_use(gpu, monkeypatch):
    gpu(9, 0)
    cards = {torch.device("cuda", 0): (9, 0), torch.device("cuda", 1): (7, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", cards.__getitem__)
    assert devices.resolve_precision("auto", "gpu", [0]) == "bf16-mixed"
    assert devices.resolve_precision("auto", "gpu", [1]) == "16-mixed"
    with pytest.raises(ConfigError, match="no kernels"):
        devices.check_gpu("gpu", [1])


def test_a_macs_gpu_is_refused_with_the_reason():
    config = compose("trainer=mps")
    with pytest.raises(ConfigError, match=r"got mps; .* has no float64, .*; use trainer=cpu"):
        devices.check_gpu(config.trainer.accelerator)


@pytest.mark.parametrize("accelerator", ["tpu", "hpu"])
def test_a_device_without_float64_is_refused(accelerator):
    with pytest.raises(ConfigError, match=f"got {accelerator}; allowed: auto, cpu, gpu, cuda"):
        devices.check_gpu(accelerator)


def test_a_mac_trains_on_its_cpu(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    arguments = distributed.trainer_arguments({"accelerator": "auto", "devices": 1}, timeout=1)
    assert arguments["accelerator"] == "cpu"
    with pytest.raises(ConfigError, match="finds no GPU"):
        devices.check_gpu("gpu")


def test_an_amd_card_is_not_told_to_install_a_build_for_cuda(gpu, monkeypatch):
    gpu(9, 4, ["gfx942"])
    monkeypatch.setattr(torch.version, "hip", "6.4")
    devices.check_gpu("auto")


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ConfigError("out of memory"), False),
    ],
)
def test_an_out_of_memory_error_of_any_library_is_recognised(error, is_full):
    assert devices.out_of_memory(error) is is_full


def _earlier_off() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _earlier_on() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def _newer() -> None:
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"


def _newer_for_all() -> None:
    torch.backends.fp32_precision = "tf32"


SWITCHES = [lambda: torch.backends.cudnn.allow_tf32, lambda: torch.backends.cuda.matmul.allow_tf32]
SWITCHES += [torch.get_float32_matmul_precision, lambda: torch.backends.fp32_precision]
SWITCHES += [lambda part=part: part.fp32_precision for part in devices._switches()]


def state_of_switches() -> list[object]:
    """The value of each switch, or the error that torch raises instead."""
    found: list[object] = []
    for read in SWITCHES:
        try:
            found.append(read())
        except RuntimeError:
            found.append("refused")
    return found


@pytest.fixture
def restored():
    """Set torch's switches back to their initial values after the test."""
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for part, precision in zip(devices._switches(), ("none", "tf32", "tf32", "none"), strict=True):
        part.fp32_precision = precision


@pytest.mark.parametrize(
    "chosen",
    [
        *(lambda: None, _earlier_off, _earlier_on, _newer, _newer_for_all),
        *(
            lambda: torch.set_float32_matmul_precision("medium"),
            lambda: devices.float32_matmul_precision("high"),
        ),
    ],
    ids=["default", "earlier off", "earlier on", "newer", "newer for all", "medium", "ours"],
)
def test_exact_float32_leaves_every_switch_of_torch_as_it_was(restored, chosen):
    """Torch has two sets of switches, and raises errors when they contradict each other."""
    chosen()
    before = state_of_switches()
    with devices.exact_float32():
        assert [part.fp32_precision for part in devices._switches()] == ["ieee"] * 4
        inside = state_of_switches()
    assert state_of_switches() == before
    if "refused" not in before:
        assert "refused" not in inside


def test_cudnn_does_not_choose_algorithms_by_time_while_images_are_measured(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with devices.exact_float32():
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark


def test_a_missing_compiler_is_detected_before_the_first_step(no_gpu, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "g++-13")
    assert devices.why_no_compiler("cpu") == "there is no C++ compiler (g++-13; set CXX to use another)"


@pytest.mark.parametrize(
    ("capability", "spec", "reason"),
    [
        ((9, 0), None, "Triton is not installed"),
        ((6, 1), "there", "Some GPU is too old for Triton (compute capability below 7.0)"),
        ((7, 0), "there", None),
    ],
    ids=["no Triton", "GTX 10", "V100"],
)
def test_compiling_for_a_gpu_needs_triton(gpu, monkeypatch, works, capability, spec, reason):
    gpu(*capability)
    monkeypatch.setenv("CC", works)
    monkeypatch.setenv("CXX", works)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert devices.why_no_compiler("auto") == reason


def script(path: Path, lines: str) -> str:
    """Write an executable script."""
    path.write_text(lines)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def works(tmp_path):
    """A fake compiler that creates the file named by its last argument."""
    return script(tmp_path / "works", "#!/bin/sh\nfor made; do :; done\n: > $made\n")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", r"does not work \(.*set CXX to use another\): exit code 3"),
        ("#!/bin/sh\necho 'cc1plus: not found' >&2\nexit 1\n", r"does not work .*: cc1plus: not found"),
        ("#!/bin/sh\nexit 0\n", "does not work"),
        ("", r"does not run .*: Exec format error"),
    ],
    ids=["fails", "is half installed", "makes nothing", "is no program"],
)
def test_a_compiler_that_does_not_work_is_detected_too(no_gpu, monkeypatch, tmp_path, lines, reason):
    monkeypatch.setenv("CXX", script(tmp_path / "broken", lines))
    assert re.match(f"the C\\+\\+ compiler {reason}", devices.why_no_compiler("cpu"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_a_real_compiler_works(no_gpu, monkeypatch):
    monkeypatch.setenv("CXX", "g++")
    assert devices.why_no_compiler("cpu") is None


def test_compiling_needs_pythons_headers(no_gpu, monkeypatch, works):
    monkeypatch.setenv("CXX", works)
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    assert devices.why_no_compiler("cpu").startswith("Python's headers are not installed (/nowhere/Python.h;")


def test_compiling_for_a_gpu_needs_a_c_compiler(gpu, monkeypatch, works):
    gpu(9, 0)
    monkeypatch.setenv("CXX", works)
    monkeypatch.setenv("CC", "gcc-of-nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "there")
    assert devices.why_no_compiler("auto") == "there is no C compiler (gcc-of-nowhere; set CC to use another)"


@pytest.mark.parametrize("benchmark", [True, False, None])
def test_the_settings_of_a_measurement_are_restored(benchmark):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    with devices.arithmetic(tf32=True, benchmark=benchmark):
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
        assert cudnn.benchmark is (before[2] if benchmark is None else benchmark)
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == before


@pytest.mark.parametrize(("precision", "allowed"), [("high", True), ("highest", False)])
def test_tf32_is_allowed_for_both_convolutions_and_matrix_products(precision, allowed):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        devices.float32_matmul_precision(precision)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_fp16_on_a_cpu_is_refused():
    devices.check_precision("bf16-mixed", "cpu")
    with pytest.raises(ConfigError, match="a CPU cannot train in 16-mixed"):
        devices.check_precision("16-mixed", "cpu")
