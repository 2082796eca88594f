"""Check on an NVIDIA GPU, in ten minutes, what the tests cannot check on a machine without a GPU.

    python experiments/benchmarks/gpu_check.py                        every item, in this order
    python experiments/benchmarks/gpu_check.py device waits compile   some of them
    python experiments/benchmarks/gpu_check.py --device cpu           try the script itself, at small sizes

Each item runs in its own process with its own time limit, and adds a line to the file ``--out`` when it ends:
name, outcome (ok, failed, skipped, timed out), seconds, results. The items' output is in the log next to that
file. The item ``set5`` needs ``--data``, a folder with ``benchmarks/Set5/HR``, and ``--weights``, a folder of
official checkpoints. The script can be interrupted at any time. It exits with 1 if an item failed or timed
out.
"""

import argparse
import contextlib
import copy
import csv
import functools
import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from unittest import SkipTest

if __name__ != "__main__":  # an item's process, or a training run that builds a class below by its name
    import lightning
    import torch
    import yaml

    import sr_lab
    from sr_lab.checkpoints.catalogue import Entry
    from sr_lab.config import targets
    from sr_lab.config.networks import model_options
    from sr_lab.datasets.benchmark import BenchmarkSet
    from sr_lab.degradations.operations import RandomDegradation
    from sr_lab.errors import CheckpointError
    from sr_lab.files import conf_dir
    from sr_lab.inference.tiling import Tiled
    from sr_lab.layers.folding import fold
    from sr_lab.layers.network import min_size_of, num_image_ch
    from sr_lab.ops.complexity import num_params
    from sr_lab.protocol import PROTOCOLS
    from sr_lab.strategies import ggas
    from sr_lab.system.devices import check_gpu, device_name, exact_float32, resolve_precision
    from sr_lab.training.lit_module import SRModule

    class OneNaN(torch.nn.L1Loss):
        """The L1 loss, but NaN at the fifth call."""

        calls = 0

        def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            """``(sr, hr) -> scalar``."""
            self.calls += 1
            return super().forward(sr, hr) * (math.nan if self.calls == 5 else 1.0)

    class WaitsAreErrors(lightning.Callback):
        """Makes waiting for the GPU an error in 45 of 50 steps; each fiftieth writes a row and waits."""

        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            """Turn the check on or off after a step."""
            mode = {3: "error", 48: "default"}.get(trainer.global_step % 50)
            if mode is not None and trainer.strategy.root_device.type == "cuda":
                torch.cuda.set_sync_debug_mode(mode)


class Place(NamedTuple):
    """Where an item runs."""

    folder: Path  # the item's own folder, next to the cache that all items share
    device: str  # cuda or cpu
    data: Path  # folder with benchmarks/Set5/HR
    weights: Path  # folder of official checkpoints

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"


EXACT = "trainer.precision=32-true trainer.float32_matmul_precision=highest "
USUAL = "model=imdn scale=2 budget=paper logger=none run_name=check learning_rate=1e-3 validation.count=1 "
ON_GPU = "trainer=gpu steps=200 batch_size=16 validation.interval=50 "
ON_CPU = "trainer=cpu steps=60 batch_size=4 validation.interval=20 num_workers=1 dataset.lr_patch_size=16 "
SMALL = "+model.num_feat=16 +model.num_block=1 "


def launch(place: Place, name: str, settings: str, *, kill: bool = False) -> tuple[int, str]:
    """Run a short training job in the folder ``name``; ``settings`` replace the usual settings.

    Returns:
        The run's exit code and its output. With ``kill``, the run is killed at its first checkpoint.
    """
    words = f"{USUAL}{ON_GPU if place.on_gpu else ON_CPU}paths.output_dir={name}".split()
    if "model=" not in settings and not place.on_gpu:
        words += SMALL.split()
    words += settings.split()
    last = {word.partition("=")[0]: word for word in words}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "SR_LAB_CACHE": str(place.folder.parent / "cache")}
    command = [sys.executable, "-m", "sr_lab", *last.values()]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=place.folder, env=environment, **pipes)
    while kill and process.poll() is None:
        if list(place.folder.glob(f"{name}/*/*/checkpoints/last.ckpt")):
            process.kill()
        time.sleep(0.02)
    printed = ""
    with process:
        for line in process.stdout or ():
            printed += line
            print(line, end="", flush=True)
    assert not kill or process.returncode < 0, f"it ended before it was killed: {printed.strip()[-300:]}"
    return process.returncode, printed


def train(place: Place, name: str, settings: str, *, says: str = "") -> dict[str, Any]:
    """Run a training job that must succeed and print ``says``; returns ``metrics.json``."""
    code, printed = launch(place, name, settings)
    assert code == 0, f"exit code {code}: {printed.strip()[-300:]}"
    assert says in printed, f"the run did not say {says!r}"
    values: dict[str, Any] = json.loads(next(place.folder.glob(f"{name}/*/*/metrics.json")).read_text())
    assert math.isfinite(values["test/sample/psnr_y"]), "the PSNR is not finite"
    return values | {"psnr": values["test/sample/psnr_y"]}


def losses(place: Place, name: str) -> list[float]:
    """The losses in a run's record."""
    text = next(place.folder.glob(f"{name}/*/*/metrics.csv")).read_text()
    return [float(row["train/loss"]) for row in csv.DictReader(text.splitlines()) if row["train/loss"]]


def device(place: Place) -> str:
    """Report the GPU, driver and wheel, and check that the GPU computes."""
    accelerator = "gpu" if place.on_gpu else "cpu"
    check_gpu(accelerator)
    assert (torch.ones(64, 64, device=place.device) @ torch.ones(64, 64, device=place.device)).sum() == 64**3
    found = [device_name(accelerator), f"torch {torch.__version__}", f"Python {sys.version.split()[0]}"]
    if place.on_gpu:
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        found += ["sm_{}{}".format(*torch.cuda.get_device_capability()), f"driver and memory {driver}"]
        found += [f"wheel for {' '.join(torch.cuda.get_arch_list())}"]
    return ", ".join([*found, f"precision {resolve_precision('auto', accelerator)}"])


def switches(place: Place) -> str:
    """Measuring uses neither TF32 nor cuDNN's benchmark mode, and leaves torch's switches as they were."""
    backends: Any = torch.backends
    newer = (backends.cudnn.conv, backends.cuda.matmul, backends.cudnn.rnn)

    def state() -> list[object]:
        found: list[object] = [backends.cudnn.benchmark, *(part.fp32_precision for part in newer)]
        with contextlib.suppress(RuntimeError):  # torch refuses to read the older switches
            found += [backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]
        return found

    module = SRModule(Entry("imdn", 2).build().to(place.device), scale=2, protocol=PROTOCOLS["rgb_uint8"])
    inside: list[object] = []
    module.network.get_submodule("head").register_forward_hook(lambda *_: inside.extend(state()[:3]))
    backends.cudnn.benchmark = True
    for choice in ("default", "medium", "newer"):
        if choice == "medium":
            torch.set_float32_matmul_precision("medium")
        for part in newer if choice == "newer" else ():
            part.fp32_precision = "tf32"
        before = state()
        with torch.no_grad():
            module.upscale(torch.rand(1, 3, 24, 24, device=place.device))
        assert state() == before, f"{before} became {state()}"
    assert inside == [False, "ieee", "ieee"] * 3, f"while measuring: {inside}"
    return "unchanged by the default, matmul precision medium, and the newer switches"


def waits(place: Place) -> str:
    """No step waits for the GPU, except those that write a row."""
    longer = "steps=1000 validation.interval=1000 " if place.on_gpu else ""  # a row every 50 steps
    probe = "+callbacks.waits._target_=gpu_check.WaitsAreErrors allow=[gpu_check]"
    values = train(place, "run", f"ema_decay=0.99 {longer}{probe}")
    return (
        f"{values['precision']}: no wait in 45 of 50 steps"
        if place.on_gpu
        else "a CPU has nothing to wait for"
    )


def half(place: Place, precision: str) -> str:
    """Train in half precision with everything that changes gradients, and with one batch of NaN loss."""
    if precision == "16-mixed" and not place.on_gpu:
        raise SkipTest("a CPU does not train in fp16")
    gradients = "trainer.accumulate_grad_batches=2 trainer.gradient_clip_val=1.0 ema_decay=0.9"
    probe = "nan_policy=skip loss._target_=gpu_check.OneNaN allow=[gpu_check]"
    values = train(place, "run", f"trainer.precision={precision} {gradients} {probe}")
    assert values["precision"] == precision, f"trained in {values['precision']}"
    assert values["skipped_steps"] == 1, f"skipped {values['skipped_steps']} steps"
    return f"1 step skipped, {values['psnr']:.2f} dB"


def other_layout(place: Place) -> str:
    """A killed run resumes in the other memory layout, and reaches the same PSNR."""
    whole, found = train(place, "whole", EXACT)["psnr"], []
    for first, then in (("true", "false"), ("false", "true")):
        launch(place, f"from_{first}", f"{EXACT}trainer.channels_last={first}", kill=True)
        again = train(place, f"from_{first}", f"{EXACT}trainer.channels_last={then}", says="resumes from")
        found.append(again["psnr"])
    assert all(abs(psnr - whole) < 0.1 for psnr in found), f"{found} dB after resuming, {whole} dB without"
    return f"{found[0]:.3f} and {found[1]:.3f} dB, {whole:.3f} without a kill"


def other_device(place: Place) -> str:
    """A run killed on the CPU resumes on the GPU."""
    small = f"{EXACT}{SMALL}batch_size=4 dataset.lr_patch_size=16"
    launch(place, "run", f"{small} trainer=cpu", kill=True)
    return f"{train(place, 'run', small, says='resumes from')['psnr']:.3f} dB"


def deterministic(place: Place) -> str:
    """Two runs with ``trainer.deterministic=true`` are equal bit for bit."""
    values = [train(place, name, "trainer.deterministic=true") for name in ("one", "two")]
    paths = [next(place.folder.glob(f"{name}/*/*/checkpoints/last.ckpt")) for name in ("one", "two")]
    one, two = (torch.load(path, map_location="cpu", weights_only=True)["state_dict"] for path in paths)
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different, f"{len(different)} of {len(one)} weights differ, e.g. {different[0]}"
    assert losses(place, "one") == losses(place, "two"), "the losses differ"
    assert values[0]["deterministic"]["value"], f"the run says {values[0]['deterministic']}"
    return f"{len(one)} weights equal, {values[0]['precision']}"


def ddp(place: Place) -> str:
    """With one DDP process, the parameters after folding are counted (GGAS and EFRDN have batch norms)."""
    network = Entry("efrdn", 2).build() if place.on_gpu else Entry("imdn", 2).build(num_feat=16, num_block=1)
    expected = num_params(fold(ggas.apply(network).eval()))
    settings = "strategy=ggas trainer=ddp trainer.devices=1 steps=4 validation.interval=4 "
    settings += "model=efrdn" if place.on_gpu else "trainer.accelerator=cpu"
    found = train(place, "run", settings)["num_params"]
    assert found == expected, f"{found:,} parameters, the folded network has {expected:,}"
    return f"{found:,} parameters"


def compiled(place: Place) -> str:
    """``trainer.compile`` and ``trainer.autotune``."""
    small = "+model.num_block=2" if place.on_gpu else ""  # compiles faster
    does = train(place, "compiled", f"{small} trainer.compile=true")["compile"]  # needs a compiler
    times = train(place, "tuned", f"{small} trainer.autotune=true", says="autotune: ")["autotune"]
    return f"compile={does}; times relative to the fastest: {times}"


def curves(place: Place) -> str:
    """The loss curves of float32 and bf16 are close."""
    train(place, "float32", EXACT)
    train(place, "bf16", "trainer.precision=bf16-mixed")
    one, two = losses(place, "float32"), losses(place, "bf16")
    apart = max(abs(a / b - 1) for a, b in zip(one, two, strict=True))
    assert apart < 0.1, f"losses differ by up to {apart:.1%}"
    return f"{len(one)} rows at most {apart:.1%} apart; at the end {one[-1]:.4f} and {two[-1]:.4f}"


def networks(place: Place) -> str:
    """Forward, backward and optimizer step of every network, in both memory layouts."""
    rng: Any = torch.cuda if place.on_gpu else torch

    def step(network: "torch.nn.Module") -> "tuple[torch.Tensor, torch.Tensor, bool]":
        """The output, the norm of the gradient, and whether the network drew random numbers."""
        torch.manual_seed(0)
        side = max(24, min_size_of(network))
        lr = torch.rand(2, num_image_ch(network), side, side).to(place.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=place.on_gpu)
        before, sr = rng.get_rng_state(), network(lr)
        draws = not torch.equal(before, rng.get_rng_state())
        sr.square().mean().backward()
        norm = torch.nn.utils.get_total_norm([w.grad for w in network.parameters() if w.grad is not None])
        optimizer.step()
        assert all(weight.isfinite().all() for weight in network.parameters()), "a weight is not finite"
        return sr.detach(), norm, draws

    apart = {}
    for name in model_options():
        torch.manual_seed(0)
        network: Any = Entry(name, 2).build().to(place.device)
        if next(network.parameters(), None) is None:
            continue
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        try:
            with exact_float32():
                (sr, norm, draws), (sr_other, norm_other, _) = step(network), step(other)
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        difference = (sr - sr_other).abs().max() / sr.abs().max().clamp_min(1)
        both = torch.stack((difference, (norm_other / norm - 1).abs()))
        apart[name] = 0.0 if draws else both.max().item()  # random numbers are drawn in another order
        print(f"{name}: {'random' if draws else apart[name]}", flush=True)
    worst = max(apart, key=apart.__getitem__)
    assert apart[worst] < 5e-2, f"{worst}: the layouts differ by {apart[worst]:.1e}"
    return f"{len(apart)} networks; layouts at most {apart[worst]:.0e} apart ({worst})"


def set5(place: Place) -> str:
    """Official weights give the CPU's PSNR on Set5."""
    files = [file for file in sorted(place.weights.rglob("*")) if file.suffix in (".pth", ".pt", ".mat")]
    if not files or not (place.data / "benchmarks" / "Set5" / "HR").is_dir():
        raise SkipTest("needs --weights, and --data with benchmarks/Set5/HR")
    found, worst = {}, 0.0
    for file in files if place.on_gpu else files[:1]:
        try:
            network = sr_lab.load(file)
        except CheckpointError as error:  # the checkpoint fits several scales
            print(error, flush=True)
            continue
        scale, protocol, psnr = Tiled(network).scale, PROTOCOLS["rgb_uint8"], []
        images = BenchmarkSet.of("Set5", data_dir=place.data, scale=scale, protocol=protocol)
        for where in ("cpu", place.device):
            module, values = SRModule(network, scale=scale, protocol=protocol).to(where), []
            for image in (images[index] for index in range(len(images))):
                with torch.no_grad():
                    sr = module.upscale(image["lr"][None].to(where))
                values.append(protocol.measure(sr, image["hr"][None].to(where), scale)[0].item())
            psnr.append(math.fsum(values) / len(values))
        found[file.stem], worst = psnr[1], max(worst, abs(psnr[1] - psnr[0]))
    results = f"{worst:.0e} dB apart: " + ", ".join(f"{name} {psnr:.3f}" for name, psnr in found.items())
    assert worst < 1e-3, results
    return f"at most {results}"


def degradations(place: Place) -> str:
    """Each degradation is repeatable on the device and, apart from noise, agrees with the CPU."""
    coarse = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    hr, found = torch.nn.functional.interpolate(coarse, size=128, mode="bilinear").byte(), []
    for file in sorted(Path(conf_dir(), "degradation").glob("*.yaml")):
        degrade = targets.build("degradation", yaml.safe_load(file.read_text()) | {"scale": 2})
        keys = (range(8),) if isinstance(degrade, RandomDegradation) else ()
        expected, one = degrade(hr, *keys).float(), degrade(hr.to(place.device), *keys)
        assert torch.equal(one, degrade(hr.to(place.device), *keys)), f"{file.stem} is not repeatable"
        apart, noisy = one.cpu().float() - expected, file.stem in ("noise", "realistic")
        levels = float(apart.mean().abs() if noisy else apart.abs().mean())
        assert levels < (1.0 if noisy else 0.1), f"{file.stem}: {levels:.2f} levels from the CPU"
        found.append(f"{file.stem} {levels:.3f}")
    return f"levels from the CPU on average: {', '.join(found)}"


@contextlib.contextmanager
def little_memory(place: Place, megabytes: int) -> Iterator[None]:
    """In this context, this process and its child processes have only about this much memory."""
    if place.on_gpu:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0] - megabytes * 2**20
        taken = torch.empty(max(0, free), dtype=torch.uint8, device="cuda")
        try:
            yield
        finally:
            del taken
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def full_memory(place: Place) -> str:
    """When memory is full, an image is measured in tiles, and a training run ends with a clear error."""
    network = Entry("imdn", 2).build(**({} if place.on_gpu else {"num_feat": 16, "num_block": 1}))
    module = SRModule(network.to(place.device), scale=2, protocol=PROTOCOLS["rgb_uint8"])
    lr = torch.rand(1, 3, 1400, 1400, device=place.device)
    with torch.no_grad(), little_memory(place, 1000 if place.on_gpu else 500):
        module.upscale(lr[..., :64, :64])
        assert module.upscale(lr).shape[-1] == 2800
    assert module.tiled, "the whole image fitted into memory"
    with little_memory(place, 3000):
        code, printed = launch(place, "run", "batch_size=2048 dataset.lr_patch_size=64 num_workers=0")
    sentence = printed.strip()[-300:]
    assert code != 0, f"the training run fitted into memory: {sentence}"
    assert "error: training: the memory of" in sentence, f"no error message: {sentence}"
    return f"{module.tiled}; {sentence[sentence.index('error') :]}"


Check: TypeAlias = Callable[[Place], str]
# Time limit of each item on a GPU, in seconds (ten minutes in total); on a CPU it is four times as long.
ITEMS: dict[str, tuple[Check, float]] = {
    "device": (device, 15),
    "switches": (switches, 15),
    "waits": (waits, 35),
    "other_device": (other_device, 35),
    "other_layout": (other_layout, 70),
    "bf16": (functools.partial(half, precision="bf16-mixed"), 20),
    "fp16": (functools.partial(half, precision="16-mixed"), 20),
    "networks": (networks, 110),
    "set5": (set5, 65),
    "degradations": (degradations, 15),
    "deterministic": (deterministic, 35),
    "ddp": (ddp, 20),
    "curves": (curves, 35),
    "memory": (full_memory, 35),
    "compile": (compiled, 75),
}


def run_here(name: str, place: Place, log: Path) -> None:
    """Run an item in this process, and write its outcome and results into its folder."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    print(f"\n===== {name}", flush=True)
    try:
        result = f"ok {ITEMS[name][0](place)}"
    except SkipTest as reason:
        result = f"skipped {reason}"
    except Exception as error:
        traceback.print_exc()
        result = f"failed {type(error).__name__}: {error}"
    (place.folder / "result").write_text(result)


def run(name: str, place: Place, log: Path, limit: float) -> tuple[str, str]:
    """Run an item in its own process; returns its outcome and its results."""
    place.folder.mkdir()
    process = multiprocessing.get_context("fork").Process(target=run_here, args=(name, place, log))
    process.start()
    assert process.pid is not None
    try:
        process.join(limit)
    finally:  # even on Ctrl-C, end the item and the processes that it started
        code = process.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if code is None:
        return "timed out", f"limit {limit:g} s"
    if not (result := place.folder / "result").is_file():
        return "failed", f"exit code {code}; the log has more"
    outcome, _, results = result.read_text().partition(" ")
    return outcome, " ".join(results.split())[:400]


def main() -> int:
    """Run the items that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("items", nargs="*", help=f"items to run; default: all, which are {' '.join(ITEMS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.txt"))
    parser.add_argument("--data", type=Path, default=os.environ.get("SR_LAB_DATA", "data"))
    parser.add_argument("--weights", type=Path, default=os.environ.get("SR_LAB_WEIGHTS", "weights"))
    args = parser.parse_args()
    if unknown := [name for name in args.items if name not in ITEMS]:
        parser.error(f"there is no item {unknown[0]!r}; allowed: {', '.join(ITEMS)}")
    import gpu_check  # imports torch and sr_lab once for all items, but does not touch the GPU

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes, log = set(), args.out.with_suffix(".log").resolve()
    with (
        tempfile.TemporaryDirectory() as workspace,
        args.out.open("a") as lines,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for name in dict.fromkeys(args.items or ITEMS):
            started = time.monotonic()
            limit = ITEMS[name][1] * (1 if args.device == "cuda" else 4)
            place = gpu_check.Place(Path(workspace, name), args.device, args.data, args.weights)
            outcome, results = gpu_check.run(name, place, log, limit)
            outcomes.add(outcome)
            line = f"{name:13} {outcome:9} {time.monotonic() - started:6.1f} s  {results}"
            for file in (sys.stdout, lines):
                print(line, file=file, flush=True)
        return 0 if outcomes <= {"ok", "skipped"} else 1
    return 130


if __name__ == "__main__":
    sys.exit(main())
