"""Use a GPU for a given number of minutes: measure speed, look for waits, then train the papers' networks.

    python experiments/ledger/on_gpu.py --minutes 10                      everything, in this order
    python experiments/ledger/on_gpu.py --minutes 60 --only train         only the training runs
    python experiments/ledger/on_gpu.py --minutes 3 --device cpu          try the script itself, at tiny sizes

1. speed: steps and images per second of each paper's network in every precision and memory layout, and
   compiled, for at most a third of the time.
2. waits: 1,000 steps in which waiting for the GPU is an error.
3. train: OSFFNet, IMFM with three tails, and IMDN at their published sizes, x4. The networks take turns: each
   is trained for 90 seconds and interrupted, then the next network is trained. A repeated command resumes
   where the script stopped, so the script can be killed at any time.

Everything is written below ``--out``: a log of each command, ``outputs`` with the run folders, and the
report's page once all networks are trained. ``--data`` is a folder with ``train`` and ``benchmarks``.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NETWORKS = {
    "osffnet": ["model=osffnet"],
    "imfm_deconv": ["model=imfm", "upsampler=deconv"],
    "imfm_subpixel": ["model=imfm", "upsampler=subpixel"],
    "imfm_mwaum": ["model=imfm", "upsampler=mwaum"],
    "imdn": ["model=imdn"],
}
RECIPE = [
    *("experiment=ledger/recipe", "experiment_name=ledger/gpu", "budget.name=gpu", "logger=none"),
    *("steps=20000", "steps_per_epoch=20", "batch_size=64", "dataset.lr_patch_size=48", "learning_rate=5e-4"),
    *("ema_decay=0.999", "validation.interval=500"),
]
ON_CPU = [
    *("trainer=cpu", "steps=6", "batch_size=2", "dataset.lr_patch_size=16", "validation.interval=2"),
    *("validation.count=1", "benchmark.sets=[sample]", "num_workers=0"),
]
SPEED = ["osffnet", "imfm", "imdn", "mren", "efrdn", "edsr"]
ROUND = 90.0  # seconds of a network's turn; about 15 of them are needed to start
STOPPED = 130  # exit code of a run that has saved a checkpoint after Ctrl-C


def run(command: Sequence[str], log: Path, seconds: float, environment: dict[str, str]) -> int:
    """Run a command for at most some seconds, then end it as Ctrl-C does; returns its exit code."""
    with log.open("a") as lines:
        lines.write(f"$ {' '.join(command)}\n")
        lines.flush()
        process = subprocess.Popen(
            command, stdout=lines, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            return process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                return process.wait(60)
            except subprocess.TimeoutExpired:
                return process.poll() or -1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main() -> int:
    """Do what the command line asks for; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--only", nargs="+", choices=("speed", "waits", "train"), default=())
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", type=Path, default=os.environ.get("SR_LAB_DATA", "data"))
    parser.add_argument("--out", type=Path, default=Path("ledger_gpu"))
    args = parser.parse_args()
    # A shell's background job ignores Ctrl-C, and so do its child processes: no run could be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ends: float = time.monotonic() + 60 * args.minutes
    out, on_gpu = args.out.resolve(), args.device == "cuda"
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "SR_LAB_DATA": str(args.data.resolve()),
        "SR_LAB_OUTPUT": str(out / "outputs"),
        "SR_LAB_CACHE": str(out / "cache"),
    }
    program = [sys.executable, "-m", "sr_lab"]
    outcomes: dict[str, str] = {}

    def left() -> float:
        return ends - time.monotonic()

    def tell(name: str, code: int, allowed: Sequence[int] = (0,)) -> None:
        outcomes[name] = "ok" if code in allowed else f"failed, exit code {code}; see {out / name}.log"
        print(f"{name:14} {outcomes[name]}, {left() / 60:.1f} minutes left", flush=True)

    def wanted(part: str) -> bool:
        return left() > 0 and (not args.only or part in args.only)

    if wanted("speed"):
        ends_speed = time.monotonic() + left() / 3
        for name in SPEED if on_gpu else []:
            if (seconds := ends_speed - time.monotonic()) > 0:
                command = [*program, "task=benchmark", f"only=[gpu_{name}]", "store=true"]
                tell(f"speed_{name}", run(command, out / f"speed_{name}.log", seconds, environment))
    if wanted("waits"):
        check = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
        command = [
            sys.executable,
            str(check),
            "waits",
            "--device",
            args.device,
            "--out",
            str(out / "waits.txt"),
        ]
        tell("waits", run(command, out / "waits.log", min(left(), 200), environment))
    waiting = list(NETWORKS) if wanted("train") else []
    while waiting and left() > 0:
        for name in list(waiting):
            words = [*RECIPE, *(["trainer=gpu"] if on_gpu else ON_CPU), *NETWORKS[name], f"run_name={name}"]
            code = run([*program, *words], out / f"{name}.log", min(ROUND, left()), environment)
            tell(name, code, (0, STOPPED))
            if code != STOPPED:
                waiting.remove(name)
            if left() <= 0:
                break
    if not waiting and wanted("train"):
        command = [*program, "task=report", f"runs={out / 'outputs' / 'ledger' / 'gpu'}"]
        tell("report", run(command, out / "report.log", 120, environment))
    return int(any(outcome != "ok" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
