"""What is recorded with a run: where its numbers come from."""

import contextlib
import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from sr_lab import files
from sr_lab.config.identity import code_of, identity
from sr_lab.config.identity_record import settings
from sr_lab.config.schema import Config, TrainConfig
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.system.devices import device_name

# The packages whose versions are always recorded, by the name under which they are imported.
_RECORDED = {
    "torch": "torch",
    "lightning": "lightning",
    "hydra": "hydra-core",
    "torchmetrics": "torchmetrics",
    "numpy": "numpy",
    "PIL": "pillow",
}


def provenance(config: Config, folder: Path) -> dict[str, object]:
    """Where the numbers of a network come from, for ``metrics.json``."""
    return {
        **names(config, folder),
        "model": str(config.model["_target_"]).rpartition(".")[2],
        "upsampler": config.upsampler.name,
        "strategy": config.strategy.name,
        "scale": config.scale,
        "seed": config.seed,
        "device": device_name(config.trainer.accelerator, config.trainer.devices),
        **origin(code_of(config).libraries),
        **({"table": config.table.model_dump()} if config.table is not None else {}),
        **({"row": config.row_label} if config.row_label is not None else {}),
    }


def names(config: Config, folder: Path) -> dict[str, object]:
    """What a run is called and what identifies it."""
    return {
        "task": config.task,
        "experiment": config.experiment_name,
        "run": config.run_name,
        "hash": folder.name.rpartition("-")[2],
        "identity": identity(config),
    }


def origin(libraries: Iterable[str] = ()) -> dict[str, object]:
    """The current commit, package versions and date.

    Args:
        libraries: Top-level names of further packages whose versions are recorded.
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": versions(libraries),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; see `origin`."""
    others = set(libraries) - _RECORDED.keys()
    owners = importlib.metadata.packages_distributions() if others else {}  # reads files of every package
    more = sorted({name.lower() for library in others for name in owners.get(library, ())})
    packages = (*_RECORDED.values(), *more)
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _git(*arguments: str) -> str | None:
    """Output of git in our checkout; ``None`` in an installed package."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=files.PACKAGE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


_NEWEST = 20  # number of runs to compare
_FEW = 3  # a run that differs in more settings than this is another experiment


def similar_unfinished(config: TrainConfig, folder: RunFolder) -> str | None:
    """A note for the user if a new run resembles an unfinished one in the same folder."""
    saved = [
        path
        for path in folder.path.parent.glob("*/checkpoints/last.ckpt")
        if path.parents[1] != folder.path and path.is_file()
    ]
    found: list[tuple[dict[str, tuple[object, object]], RunFolder]] = []
    own = settings(config.model_dump())
    for path in sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)[:_NEWEST]:
        other = RunFolder(path.parents[1])
        with contextlib.suppress(OSError, ValueError):
            theirs = files.read_yaml(other.config)
            if isinstance(theirs, dict) and other.state() in ("interrupted", "failed"):
                found.append((_changed(settings(theirs), own), other))
    found = [(differing, other) for differing, other in found if 0 < len(differing) <= _FEW]
    if not found:
        return None
    differing, other = min(found, key=lambda pair: len(pair[0]))
    step = max((int(row["step"]) for row in whole_rows(other.record)), default=0)
    what = ", ".join(f"{key} ({before} there, {now} here)" for key, (before, now) in differing.items())
    return (
        f"resume: '{other.path}' stopped at step {step} and is unfinished; this run differs in {what}, "
        "so it is a new run"
    )


def _changed(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """The settings that differ, before and now, without derived settings (``optimizer.lr``)."""
    pairs = {key: (before.get(key), now.get(key)) for key in (*before, *now)}
    pairs = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    top = [pair for key, pair in pairs.items() if "." not in key]
    return {key: pair for key, pair in pairs.items() if "." not in key or pair not in top}
