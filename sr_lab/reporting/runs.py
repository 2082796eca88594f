"""Read run folders as `Run`: results, settings and record, or why they are missing."""

import contextlib
import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder, read_index

PRINTED_PROTOCOL = "rgb_uint8"  # of every table, see conf/benchmark


class MeasuredOn(NamedTuple):
    """The images of one test set on which a run was measured."""

    says: str  # ``Set5, 5 of 5 as published``, or just their number
    digest: str = ""  # of their names and pixels, and of given LR images; empty in runs of earlier versions

    def is_same(self, other: "MeasuredOn") -> bool:
        """Whether these are the same images, as far as is known."""
        return self.digest == other.digest if self.digest and other.digest else self.says == other.says


class TrainedOn(NamedTuple):
    """Digests of the names and pixels of the images of a training run; empty if unknown."""

    training: str = ""
    validation: str = ""

    def may_be(self, other: "TrainedOn") -> bool:
        """Whether these are the same images, as far as is known."""
        return all("" in pair or pair[0] == pair[1] for pair in zip(self, other, strict=True))


@dataclass(frozen=True)
class Run:
    """One run on disk."""

    path: Path
    # Contents of ``metrics.json``, empty for an unfinished run.
    values: dict[str, object] = field(default_factory=dict)
    # One line, e.g. ``failed: ...``, ``pruned: ...`` or ``unfinished``; empty for a finished run.
    problem: str = ""
    # Contents of ``config.yaml``, which unfinished runs have too.
    settings: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()  # the rows of a paper's table that the run reproduces; empty for other runs
    overrides: tuple[str, ...] = ()  # its command line, if it was a job of a sweep
    identity: Mapping[str, object] = field(default_factory=dict)  # what identifies the run; empty if unknown
    code: Mapping[str, str] = field(default_factory=dict)  # digest of each module; empty if unknown

    @property
    def name(self) -> str:
        """The run's name in tables."""
        return str(self.values.get("run") or self.folder.rpartition("-")[0] or self.folder)

    @property
    def folder(self) -> str:
        """Name of the run folder, printable."""
        return files.printable(self.path.name)

    @property
    def scale(self) -> int:
        """Upscaling factor; 0 if unknown."""
        return self._integer("scale") or 0

    @property
    def seed(self) -> int | None:
        """Seed; ``None`` if unknown."""
        return self._integer("seed")

    @property
    def table(self) -> tuple[str, str] | None:
        """Paper and name of the table that the run belongs to."""
        value = self.values.get("table", self.settings.get("table"))
        if not isinstance(value, dict) or not {"paper", "name"} <= value.keys():
            return None
        return str(value["paper"]), str(value["name"])

    @property
    def is_fine_tuned_in_paper(self) -> bool:
        """Whether the paper starts this row from its x2 network (``table.fine_tuned``)."""
        value = self.values.get("table", self.settings.get("table"))
        rows = value.get("fine_tuned") if isinstance(value, dict) else None
        return self.scale > 2 and isinstance(rows, list) and bool(self.labels) and self.labels[0] in rows

    @property
    def commit(self) -> str:
        """Shortened commit of the code, and whether it had local changes; empty if unknown."""
        changes = " with local changes" if self.values.get("dirty") else ""
        return f"{str(self.values['commit'])[:8]}{changes}" if self.values.get("commit") else ""

    @property
    def is_cost(self) -> bool:
        """Whether the run is one of ``task=complexity``."""
        return self.values.get("task") == "complexity"

    @property
    def sets(self) -> list[str]:
        """Test sets that were measured, in the order of the test."""
        return [
            key.split("/")[1] for key in self.values if key.startswith("test/") and key.endswith("/psnr_y")
        ]

    @functools.cached_property
    def record(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv`` without empty cells; no rows if the run was not a training run.

        If the run was killed, its last row may be incomplete and its last number cut short.
        """
        try:
            rows = files.read_csv(RunFolder(self.path).record)
        except (OSError, ValueError):
            return []
        numbers = [{key: files.number(text) for key, text in row.items()} for row in rows]
        return [{key: value for key, value in row.items() if math.isfinite(value)} for row in numbers]

    @property
    def validation_psnr(self) -> float | None:
        """PSNR in dB of the dataset's held-out images, at the checkpoint with the best mean over all sets.

        ``None`` if the run has not validated.
        """
        validated = [row for row in self.record if "val/psnr_y" in row]
        if not validated:
            return None
        kept = max(validated, key=lambda row: row["val/psnr_y"])
        return kept.get("val/held_out/psnr_y", kept["val/psnr_y"])

    @functools.cached_property
    def trained_on(self) -> TrainedOn:
        """Digests of the images that the run was trained on and validated on, as recorded at its start."""
        try:
            recorded = files.read_json(RunFolder(self.path).trained_on)
        except (OSError, ValueError):
            return TrainedOn()
        values = recorded if isinstance(recorded, dict) else {}
        texts = [json.dumps(values[key]) if values.get(key) else "" for key in ("images", "validation")]
        return TrainedOn(*(hashlib.sha256(text.encode()).hexdigest() if text else "" for text in texts))

    @property
    def images(self) -> list[dict[str, object]]:
        """The measured values of each test image."""
        images = self.values.get("images")
        return [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []

    @functools.cached_property
    def measured_on(self) -> dict[str, MeasuredOn]:
        """The images of each tested set."""
        counts = Counter(str(image.get("set_name", "")) for image in self.images)
        says, digests = (
            found if isinstance(found := self.values.get(key), Mapping) else {}
            for key in ("test_images", "test_images_sha256")
        )
        return {
            name: MeasuredOn(
                str(says.get(name, f"{name}, {counts[name]} images")), str(digests.get(name, ""))
            )
            for name in self.sets
        }

    def is_as_printed(self, set_name: str) -> bool:
        """Whether the run's PSNR on a set can be compared with papers': same protocol, same images."""
        own = self.measured_on.get(set_name)
        is_theirs = own is not None and not own.says.startswith("not the published")
        return is_theirs and self.values.get("protocol") == PRINTED_PROTOCOL

    @property
    def wandb(self) -> dict[str, object] | None:
        """The W&B logger of the configuration, if it has one."""
        loggers = self.settings.get("logger")
        nodes = loggers.values() if isinstance(loggers, dict) else ()
        return next(
            (n for n in nodes if isinstance(n, dict) and str(n.get("_target_")).endswith("WandbLogger")), None
        )

    def number(self, key: str, unit: float = 1) -> float | None:
        """A number of ``metrics.json`` divided by ``unit``; ``None`` if it is missing."""
        value = self.values.get(key)
        return value / unit if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def _integer(self, key: str) -> int | None:
        value = self.values.get(key, self.settings.get(key))
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_run(path: Path) -> Run:
    """Read one run folder, finished or not."""
    folder = RunFolder(path)
    settings, values, problem = _settings(folder), None, ""
    try:
        values = folder.read_metrics()
    except (ValueError, OSError) as error:
        problem = f"metrics.json cannot be read: {error}"
    if values is not None and not isinstance(values, dict):
        values, problem = None, "metrics.json cannot be read: it is not a JSON object"
    if values is None and not problem:
        problem = _why_unfinished(folder)
    listed = [job for job in read_index(path.parent) if job.folder == path.name]
    # One run may be several rows of a table; the sweep's index names them.
    own = (values or {}).get("row", settings.get("row_label"))
    labels = [] if own is None else [own, *(job.label for job in listed)]
    distinct = tuple(dict.fromkeys(str(label) for label in labels if label is not None))
    overrides = tuple(listed[-1].overrides) if listed else ()
    identity, code = _identity(folder, values or {})
    return Run(path, _with_infinity(values or {}), problem, settings, distinct, overrides, identity, code)


def _with_infinity(values: dict[str, object]) -> dict[str, object]:
    """``metrics.json``, with infinity for the PSNR of exact images, which is stored as null."""

    def restored(held: dict[str, object]) -> dict[str, object]:
        exact = {
            key: math.inf
            for key, value in held.items()
            if value is None
            and key.endswith("psnr_y")
            and held.get(key.replace("psnr_y", "ssim_y")) is not None
        }
        return {**held, **exact}

    images = values.get("images")
    if not isinstance(images, list):
        return restored(values)
    return {**restored(values), "images": [restored(i) if isinstance(i, dict) else i for i in images]}


def _identity(
    folder: RunFolder, values: Mapping[str, object]
) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """What identifies a run, from its results or else from ``identity.json``, and its code."""
    identity, code = values.get("identity"), None
    if not isinstance(identity, dict):
        with contextlib.suppress(OSError, ValueError):
            recorded = files.read_json(folder.identity)
            if isinstance(recorded, dict):
                identity, codes = recorded.get("identity"), recorded.get("codes")
                code = codes[-1] if isinstance(codes, list) and codes else None
    identity = identity if isinstance(identity, dict) else {}
    code = identity.get("code", code)
    known = code if isinstance(code, dict) else {}
    return identity, {str(name): str(digest) for name, digest in known.items()}


def _why_unfinished(folder: RunFolder) -> str:
    if folder.pruned.is_file():
        return f"pruned: {_text(folder.pruned).strip()}"
    if folder.failed.is_file():
        last = next((line for line in reversed(_text(folder.failed).split("\n")) if line.strip()), "")
        return "failed: " + re.sub(r"^sr_lab[.]errors[.]\w+: ", "", last)
    return "unfinished"


def _text(file: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return str(files.plain(files.read_text(file)))
    except (OSError, ValueError):
        return ""


def _settings(folder: RunFolder) -> Mapping[str, object]:
    try:
        settings = files.read_yaml(folder.config)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def find_runs(root: Path) -> list[Run]:
    """The run at ``root``, or every run below it: the jobs of a sweep in its order, other runs by path.

    Raises:
        ConfigError: There is no run.
    """
    marks = ("metrics.json", "failed.txt", "config.yaml")
    if any((root / mark).is_file() for mark in marks):
        return [read_run(root)]
    paths = [path for path in files.below(root) if path.name in marks]
    # W&B keeps its own config.yaml inside a run folder.
    found = sorted({path.parent for path in paths if "wandb" not in path.relative_to(root).parts})
    if not found:
        raise ConfigError(f"runs: no run folder in '{root}'; give a folder that a training run has written")
    indices = {parent: read_index(parent) for parent in {path.parent for path in found}}
    jobs = {
        parent / job.folder: number for parent, index in indices.items() for number, job in enumerate(index)
    }
    # The first row of a table is its baseline, in the sweep's own table and in every later one.
    return [
        read_run(path) for path in sorted(found, key=lambda path: (path.parent, jobs.get(path, 1e9), path))
    ]
