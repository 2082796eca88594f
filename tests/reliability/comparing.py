"""Compare the end states of two runs bit for bit."""

import csv
import json
from pathlib import Path

import torch
from torch import Tensor

CLOCK = ("time", "samples_per_s", "data_wait")


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` without the columns that depend on time."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)]


def checkpoint(folder: Path, name: str) -> dict[str, object]:
    """The whole content of a checkpoint."""
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def differences(one: Path, other: Path) -> list[str]:
    """Where two finished runs differ: in a checkpoint, in the record or in the results.

    A checkpoint contains the path of its own run folder, which does not count as a difference.
    """
    found = []
    for name in ("last", "best"):
        found += list(_differ(checkpoint(one, name), checkpoint(other, name), name, (str(one), str(other))))
    found += [] if rows(one) == rows(other) else ["metrics.csv"]
    figures = [
        {
            k: v
            for k, v in json.loads((folder / "metrics.json").read_text()).items()
            if "/" in k or k == "images"
        }
        for folder in (one, other)
    ]
    return found + ([] if figures[0] == figures[1] else ["metrics.json"])


def _differ(one: object, other: object, where: str, folders: tuple[str, str]):
    if isinstance(one, str) and isinstance(other, str):
        if one.replace(*folders) != other:
            yield where
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict) and isinstance(other, dict):
        renamed = {key.replace(*folders) if isinstance(key, str) else key: key for key in one}
        if renamed.keys() != other.keys():
            yield f"{where}: {sorted(map(str, renamed.keys() ^ other.keys()))}"
        for key in renamed.keys() & other.keys():
            yield from _differ(one[renamed[key]], other[key], f"{where}.{key}", folders)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield where
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from _differ(*pair, f"{where}[{number}]", folders)
    elif type(one) is not type(other) or one != other:
        yield f"{where}: {one} {other}"
