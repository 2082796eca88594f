"""A training run of a plan: its remaining steps, the hours they take, and the images it reads and writes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sr_lab.config.schema import PlanConfig
from sr_lab.datasets.benchmark import benchmark_files
from sr_lab.datasets.images import image_size
from sr_lab.errors import DataError
from sr_lab.run_folder import State
from sr_lab.runs import trained_on
from sr_lab.training.cost import Cost

IMAGE = 2040 * 1356  # pixels of an image of DIV2K or Flickr2K, assumed where images are missing


@dataclass
class Job:
    """One training run of the plan.

    Args:
        config: Its configuration.
        folder: Its run folder; ``None`` if images are missing, since they are part of the run's identity.
        state: The state of the folder.
        done: Steps that an earlier attempt has trained.
        copies: Number of training runs of this cost: the remaining trials of a search, otherwise 1.
        cost: What a step costs; ``None`` for a finished run.
    """

    config: PlanConfig
    folder: Path | None = None
    state: State = "waiting"
    done: int = 0
    copies: int = 1
    cost: Cost | None = field(default=None)

    @property
    def finished(self) -> bool:
        """Whether the sweep would only show the run's result."""
        return self.state == "finished" and self.config.resume != "never"

    @property
    def left(self) -> int:
        """Steps that have not been trained yet."""
        return 0 if self.finished else self.copies * (self.config.steps - self.done)

    @property
    def hours(self) -> float:
        """Hours of the remaining steps, and of the validations and the test."""
        if self.cost is None or not self.cost.seconds or self.finished:
            return 0.0
        passes = self.left / self.config.validation.interval
        watched = passes * _val_pixels(self.config) + self.copies * _test_pixels(self.config)
        return (self.left * self.cost.seconds + watched * self.cost.forward) / 3600


def _val_pixels(config: PlanConfig) -> float:
    """LR pixels of one validation."""
    try:
        held_out = trained_on.training_data(config).val_files[: config.validation.count]
        pixels = _pixels(held_out)
    except DataError:
        pixels = config.validation.count * IMAGE
    return (pixels + _pixels(_files(config, config.validation.sets))) / config.scale**2


def _test_pixels(config: PlanConfig) -> float:
    return _pixels(_files(config, config.benchmark.sets)) / config.scale**2


def picture_bytes(config: PlanConfig) -> int:
    """Bytes of the example images (`training.examples`), uncompressed: LR, bicubic, SR, HR."""
    size = 0.0
    for name in config.benchmark.sets:
        found = _files(config, [name])
        size += 3 * _pixels(found if len(found) <= 5 else found[:3]) * (3 + 1 / config.scale**2)
    return int(size)


def _files(config: PlanConfig, sets: Sequence[str]) -> list[Path]:
    """The images of test sets, as far as they exist."""
    found: list[Path] = []
    for name in sets:
        try:
            found += benchmark_files(Path(config.paths.data_dir).expanduser(), name)
        except DataError:
            continue
    return found


def _pixels(images: Iterable[Path]) -> int:
    return sum(_area(str(path)) for path in images)


_areas: dict[str, int] = {}


def _area(path: str) -> int:
    if path not in _areas:
        _areas[path] = math.prod(image_size(path))
    return _areas[path]
