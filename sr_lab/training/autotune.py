"""Finds and stores the fastest way to train a network on this device (layout, compiled or not).

Layout and compilation change only the rounding of a result, so a run keeps its identity. The precision
changes more, and is therefore never chosen here.
"""

import copy
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from sr_lab import files
from sr_lab.system.devices import arithmetic, processor

_SECONDS = 0.1  # duration of one run of a setting, with as many steps as fit
_ROUNDS = 5


@dataclass(frozen=True)
class Setting:
    """A way to run a network."""

    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        named = [name for name, on in asdict(self).items() if on]
        return " + ".join(named) or "plain"

    def apply(self, network: nn.Module) -> nn.Module:
        """Apply the setting to a network in place; the names in its state dict do not change."""
        if self.channels_last:
            # inputs get the layout of the weights
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            network.compile()
        return network


@dataclass(frozen=True)
class Choice:
    """The fastest setting, and the time of each setting."""

    setting: Setting
    seconds: Mapping[str, float]  # per step, for each setting that ran
    file: Path  # where the times are stored
    measured: bool  # whether the times were measured now, not read from the file

    @property
    def ratios(self) -> dict[str, float]:
        """Time of each setting relative to the fastest one."""
        least = min(self.seconds.values())
        return {name: round(seconds / least, 3) for name, seconds in self.seconds.items()}

    def __str__(self) -> str:
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in self.ratios.items())
        how = "measured now" if self.measured else "measured before"
        return f"autotune: {self.setting} ({how}; relative to the fastest: {ratios}; kept in {self.file})"


def settings(*, compile: bool) -> list[Setting]:
    """All settings to compare; with ``compile``, the compiled ones too."""
    layouts = [Setting(), Setting(channels_last=True)]
    return layouts + [Setting(one.channels_last, compile=True) for one in layouts] if compile else layouts


def choose(
    network: nn.Module,
    among: Sequence[Setting],
    *,
    lr_shape: Sequence[int],
    scale: int,
    device: torch.device,
    autocast: torch.dtype | None,
    tf32: bool,
    benchmark: bool,
    known_as: Mapping[str, object],
    cache_dir: Path,
) -> Choice:
    """The setting with the fastest training step, which is measured now if it is not known yet.

    Args:
        network: ``lr -> sr``; copies of it are measured.
        among: The settings to compare; a setting that fails, as compilation may, is left out.
        lr_shape: Shape of a training batch on this device, ``(N, C, H, W)``.
        scale: Upscaling factor.
        device: The device to measure on.
        autocast: The half-precision type of a mixed-precision run; ``None`` for float32.
        tf32: Whether the training run allows TF32.
        benchmark: Whether cuDNN chooses its algorithms by timing them.
        known_as: The network as plain values; part of the key under which the result is stored.
        cache_dir: Folder in which results are stored. One process per machine measures while the others wait.
    """
    on_cpu = f"{processor()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    key = {
        "network": dict(known_as),
        "lr_shape": list(lr_shape),
        "device": name,
        "torch": torch.__version__,
        "autocast": str(autocast),
        "tf32": tf32,
        "benchmark": benchmark,
        "among": [str(setting) for setting in among],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    file = cache_dir / "autotune" / f"{digest}.json"
    by_name = {str(setting): setting for setting in among}
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        seconds = _kept(file, by_name)
        if measured := seconds is None:
            lr = torch.rand(*lr_shape, generator=torch.Generator().manual_seed(0)).to(device)
            # A network may draw random numbers, which must not change those that the training draws.
            with torch.random.fork_rng(), arithmetic(tf32=tf32, benchmark=benchmark):
                steps = {name: _step(network, by_name[name], lr, scale, autocast) for name in by_name}
                seconds = _measure(steps)
            files.write(file, json.dumps({"seconds": seconds, **key}, indent=1) + "\n")
    return Choice(by_name[min(seconds, key=seconds.__getitem__)], seconds, file, measured)


def _kept(file: Path, names: Container[str]) -> dict[str, float] | None:
    """The seconds stored in a file; ``None`` if the file is missing or damaged."""
    try:
        seconds = {name: float(value) for name, value in json.loads(file.read_bytes())["seconds"].items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    sound = seconds and all(name in names and value > 0 for name, value in seconds.items())
    return seconds if sound else None


def _step(
    network: nn.Module, setting: Setting, lr: Tensor, scale: int, autocast: torch.dtype | None
) -> Callable[[], None]:
    """One forward and backward pass of a copy of the network; layouts do not matter to the optimizer."""
    own = setting.apply(copy.deepcopy(network).to(lr.device).train())
    hr = torch.rand(len(lr), lr.shape[1], scale * lr.shape[2], scale * lr.shape[3], device=lr.device)

    def step() -> None:
        own.zero_grad()
        with torch.autocast(lr.device.type, dtype=autocast, enabled=autocast is not None):
            loss: Tensor = nn.functional.l1_loss(own(lr), hr)
        torch.autograd.backward(loss)
        if lr.is_cuda:
            torch.cuda.synchronize(lr.device)

    return step


def _measure(steps: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds per step of each setting, measured in turn, so that a slow minute affects them all."""
    repeats: dict[str, int] = {}
    for name, step in steps.items():
        try:
            step()  # allocates, compiles, lets cuDNN choose
            step()
            repeats[name] = max(1, round(_SECONDS / _seconds(step, 1)))
        except Exception:
            if name == str(Setting()):
                raise  # the network itself does not run
    taken: dict[str, list[float]] = {name: [] for name in repeats}
    for _ in range(_ROUNDS):
        for name, count in repeats.items():
            taken[name].append(_seconds(steps[name], count))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _seconds(step: Callable[[], None], count: int) -> float:
    """Mean seconds of ``count`` steps."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count
