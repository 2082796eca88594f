"""The device and the precision, chosen by what the card computes natively, not by what torch can emulate."""

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sr_lab.errors import ConfigError, SRLabError
from sr_lab.system.unix import cpuinfo

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


def has_gpu(accelerator: str) -> bool:
    """Whether a run with this ``trainer.accelerator`` would use a GPU."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def device_of(accelerator: str, devices: object = 1) -> torch.device:
    """The device of this process, or of the first process if the others have not started yet.

    Args:
        accelerator: ``trainer.accelerator``.
        devices: ``trainer.devices``: a number of devices, a list of their indices, or a string like ``1,3``.
    """
    if not has_gpu(accelerator):
        return torch.device("cpu")
    if isinstance(devices, str):  # without a comma it is a number of devices
        devices = [int(part) for part in devices.split(",") if part.strip()] if "," in devices else 1
    if isinstance(devices, list) and devices:
        return torch.device("cuda", int(devices[local_rank() % len(devices)]))
    return torch.device("cuda", local_rank())


def resolve_precision(precision: str, accelerator: str, devices: object = 1) -> str:
    """Replace ``auto`` with the precision that the run's GPU supports natively.

    bf16 needs compute capability 8.0 (Ampere); ``torch.cuda.is_bf16_supported()`` counts emulation and is
    true on a V100. Below 8.0, fp16 with a gradient scaler is used; on a CPU, plain float32.
    """
    if precision != "auto":
        return precision
    if not has_gpu(accelerator):
        return "32-true"
    capability = torch.cuda.get_device_capability(device_of(accelerator, devices))
    return "bf16-mixed" if capability >= (8, 0) else "16-mixed"


def check_precision(precision: str, accelerator: str) -> None:
    """Refuse fp16 on a CPU, where Lightning would use bf16 instead.

    Raises:
        ConfigError: The precision is ``16-mixed``, and there is no GPU.
    """
    if precision == "16-mixed" and not has_gpu(accelerator):
        raise ConfigError(
            "trainer.precision: a CPU cannot train in 16-mixed; use 32-true or bf16-mixed, or a GPU"
        )


def why_half(precision: str, device: torch.device) -> str:
    """The line that is printed at the start of a training run when ``auto`` has chosen half precision."""
    major, minor = torch.cuda.get_device_capability(device)
    chosen = "bf16"
    if precision == "16-mixed":
        chosen = "fp16 with a gradient scaler, since there is neither bf16 nor TF32"
    return (
        f"precision: {chosen} on {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}); "
        "trainer.precision=32-true trains in float32"
    )


def why_no_compiler(accelerator: str, devices: object = 1) -> str | None:
    """Why torch.compile cannot work on this machine, ``None`` if it can."""
    # This reimplements torch's search for a compiler: calling it would import torch's own compiler, which
    # takes seconds.
    if has_gpu(accelerator):
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        device = device_of(accelerator, devices)
        if torch.cuda.get_device_capability(device) < (7, 0):
            name = torch.cuda.get_device_name(device)
            return f"{name} is too old for Triton (compute capability below 7.0)"
        found = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc")
        # Triton builds its launchers with this compiler.
        if (reason := _why_it_compiles_nothing("C", found)) is not None:
            return reason
    default = "clang++" if sys.platform == "darwin" else "g++"
    return _why_it_compiles_nothing("C++", os.environ.get("CXX", default))


def _why_it_compiles_nothing(language: str, compiler: str) -> str | None:
    """Why a compiler cannot build a Python extension module, as torch and Triton do; ``None`` if it can."""
    named = f"{compiler}; set {'CC' if language == 'C' else 'CXX'} to use another"
    if shutil.which(compiler) is None:
        return f"there is no {language} compiler ({named})"
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        return f"Python's headers are not installed ({headers}/Python.h; Debian's package is python3-dev)"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "tried.so")
        command = [compiler, "-x", language.lower(), "-", "-shared", "-fPIC", f"-I{headers}", "-o", str(made)]
        try:
            tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True)
        except OSError as error:  # the file is not a program
            return f"the {language} compiler does not run ({named}): {error.strerror}"
        if tried.returncode != 0 or not made.is_file():
            last = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
            return f"the {language} compiler does not work ({named}): {last}"
    return None


def float32_matmul_precision(precision: str) -> None:
    """Set the precision of float32 convolutions and matrix products on GPUs with TF32 (Ampere and newer).

    `torch.set_float32_matmul_precision` does not cover convolutions, for which TF32 is on by default.

    Args:
        precision: ``highest`` is float32, ``high`` allows TF32.
    """
    _set_tf32(precision == "high", matmul="high" if precision == "high" else "highest")


def check_gpu(accelerator: str, devices: object = 1) -> None:
    """Refuse a device that is missing or untested, or for which the installed torch has no kernels.

    Raises:
        ConfigError: The device is not supported, torch finds no GPU, or torch has no kernels for the GPU; the
            message says what to use or install instead.
    """
    if accelerator == "mps":
        raise ConfigError(
            "trainer.accelerator: got mps; a Mac's GPU is not supported, since no result has been checked "
            "on one, and it has no float64, which measuring needs; use trainer=cpu"
        )
    if accelerator not in ACCELERATORS:
        raise ConfigError(
            f"trainer.accelerator: got {accelerator}; allowed: {', '.join(ACCELERATORS)} "
            "(images are measured in float64, which other devices lack)"
        )
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator: got {accelerator}, but torch finds no GPU here; use trainer=cpu, "
            "or for several processes trainer=ddp trainer.accelerator=cpu trainer.devices=2"
        )
    if not has_gpu(accelerator) or torch.version.hip is not None:  # AMD cards use other names
        return
    device = device_of(accelerator, devices)
    major, minor = torch.cuda.get_device_capability(device)
    compiled = torch.cuda.get_arch_list()
    if _runs_on(major, minor, compiled):
        return
    # CUDA 13 dropped Volta and older; the last builds for these cards use CUDA 12.6, up to torch 2.14.
    fits = "cu126" if major < 8 else "cu130"
    raise ConfigError(
        f"trainer: torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} "
        f"(sm_{major}{minor}), only for {', '.join(compiled)}; install a build that has them: "
        f"pip install 'torch<2.15' --index-url https://download.pytorch.org/whl/{fits}, or use trainer=cpu"
    )


def _runs_on(major: int, minor: int, compiled: list[str]) -> bool:
    """Whether a card of this compute capability can run kernels that were compiled for the listed ones.

    Binary code (``sm_``) needs the same major version and the same or a newer minor version; PTX
    (``compute_``) needs the same or a newer version.
    """
    for entry in compiled:
        kind, _, digits = entry.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return False


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the machine or a GPU is full.

    cuDNN, cuBLAS and the backends have no error class for it, so their messages are searched.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        not isinstance(error, SRLabError) and re.search(_FULL, str(error), re.IGNORECASE) is not None
    )


_FULL = r"out of memory|not enough memory|bad.?alloc|allocate memory|memory allocation|STATUS_ALLOC_FAILED"


def rank() -> int:
    """Number of this process in the run, known before torch.distributed has started.

    On several machines without a launcher (``NODE_RANK``), only the first process has number 0; processes
    may share the other numbers.
    """
    return int(_first_set("RANK", "LOCAL_RANK", "SLURM_PROCID")) or int(_first_set("NODE_RANK"))


def local_rank() -> int:
    """Number of this process among the run's processes on this machine."""
    return int(_first_set("LOCAL_RANK", "SLURM_LOCALID"))


def _first_set(*variables: str) -> str:
    return next((os.environ[name] for name in variables if name in os.environ), "0")


def why_not_deterministic(
    accelerator: str, *, deterministic: object, benchmark: object, compiled: bool, autotuned: bool, world: int
) -> list[str]:
    """Why the same run may give different numbers next time on this machine; empty on a CPU.

    torch's CPU kernels and gloo add in an order that depends only on the number of threads and processes.

    Args:
        accelerator: ``trainer.accelerator``.
        deterministic: ``trainer.deterministic``: false, true, or ``warn``.
        benchmark: Whether cuDNN chooses algorithms by timing them.
        compiled: Whether torch.compile made the kernels.
        autotuned: Whether the form of the network was chosen by timing several forms.
        world: Number of processes.
    """
    because = ["trainer.autotune: the form of the network was chosen by timing several"] if autotuned else []
    if not has_gpu(accelerator):
        return because
    if deterministic is not True:
        because.append(
            "GPU kernels: some add atomically, in any order (trainer.deterministic=true avoids them)"
        )
    if benchmark and deterministic is not True:
        because.append("trainer.benchmark: cuDNN chose its algorithms by timing them")
    if compiled:
        because.append("trainer.compile: Triton's kernels were chosen by timing them")
    if world > 1:
        because.append(f"NCCL: it chooses the order in which it adds the gradients of {world} processes")
    return because


def processor() -> str:
    """Name of the CPU."""
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo(), re.MULTILINE)
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()


def device_name(accelerator: str, devices: object = 1) -> str:
    """Name of the device of a run with this ``trainer.accelerator``, for the record."""
    if has_gpu(accelerator):
        return torch.cuda.get_device_name(device_of(accelerator, devices))
    return f"CPU, {torch.get_num_threads()} threads"


@contextlib.contextmanager
def arithmetic(*, tf32: bool, benchmark: bool | None = None) -> Iterator[None]:
    """Set how a GPU computes convolutions and matrix products within the block.

    Args:
        tf32: Whether TF32 may be used for float32.
        benchmark: Whether cuDNN chooses algorithms by timing them; ``None`` changes nothing.
    """
    cudnn, parts = torch.backends.cudnn, _switches()
    before, precisions = cudnn.benchmark, [part.fp32_precision for part in parts]
    try:
        earlier = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switches are in use, and torch then refuses to read the older ones
        earlier = None
    _set_tf32(tf32, matmul=("high" if tf32 else "highest") if earlier else None)
    if benchmark is not None:
        cudnn.benchmark = benchmark
    try:
        yield
    finally:
        cudnn.benchmark = before
        if earlier is not None:
            _set_tf32(earlier[0], matmul=earlier[1])
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision


def _switches() -> tuple[Any, ...]:
    """The newer switches (torch 2.9) for the precision of float32: those of GPUs, then that of a CPU."""
    backends: Any = torch.backends  # torch's types lack these
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul


def _set_tf32(on: bool, *, matmul: str | None) -> None:
    """Set the newer switches, and the older ones too unless ``matmul`` is ``None``.

    torch raises an error whenever it reads an older switch that differs from its newer one.
    """
    if matmul is not None:
        torch.backends.cudnn.allow_tf32 = on
        torch.set_float32_matmul_precision(matmul)
    *of_gpus, of_cpu = _switches()
    for switch in of_gpus:
        switch.fp32_precision = "tf32" if on else "ieee"
    of_cpu.fp32_precision = "ieee"


def exact_float32() -> contextlib.AbstractContextManager[None]:
    """Compute in float32 without TF32, which cuDNN uses by default and which changes PSNR.

    cuDNN is kept from choosing algorithms by timing them; it would try them all at each new image size,
    and the last digits would depend on which algorithm was fastest.
    """
    return arithmetic(tf32=False, benchmark=False)
