"""PSNR, SSIM and other figures of a test, saved while it runs, so that an interrupted test can resume."""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from lightning import Callback, LightningModule, Trainer
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from sr_lab import files
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.inference.tiling import Tiled
from sr_lab.metrics.perceptual import Perceptual
from sr_lab.training.lit_module import ImageResult, Measured, SRModule

Place: TypeAlias = tuple[str, int]  # name of a test set, and position in it

_INTERVAL = 0.5  # seconds between two writes; fetching figures from a GPU waits for its work


class Row(BaseModel):
    """The figures of one image: PSNR, SSIM and perceptual distances."""

    model_config = ConfigDict(strict=True, extra="forbid")

    set_name: str
    place: int
    image: str
    psnr_y: float
    ssim_y: float
    bicubic_psnr_y: float
    bicubic_ssim_y: float
    tiled: str | None  # how the image was divided into tiles
    perceptual: dict[str, float] = {}


class _Content(BaseModel):
    """The content of a file of figures."""

    model_config = ConfigDict(strict=True, extra="forbid")

    by: dict[str, object]
    wall_time_s: float
    images: list[Row]


def plain(by: Mapping[str, object]) -> dict[str, object]:
    """The values as they would be read back from a JSON file."""
    return cast("dict[str, object]", files.plain(json.loads(json.dumps(by))))


@dataclass(frozen=True)
class Kept:
    """What earlier attempts have measured.

    Args:
        rows: The figures of each image.
        wall_time_s: Seconds that the attempts took.
        differing: What has changed since earlier figures were measured, so that they no longer count.
    """

    rows: Mapping[Place, Row]
    wall_time_s: float = 0.0
    differing: tuple[str, ...] = ()


def kept(paths: Sequence[Path], by: Mapping[str, object]) -> Kept:
    """The figures that earlier attempts measured in the given way; a damaged file has none.

    Args:
        paths: One file for each process of the earlier attempts.
        by: Plain values that identify everything that the figures depend on.
    """
    rows: dict[Place, Row] = {}
    seconds, differing, now = 0.0, set[str](), plain(by)
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            content = _Content.model_validate(files.read_json(path))
            if content.by == now:
                rows |= {(row.set_name, row.place): row for row in content.images}
                seconds = max(seconds, content.wall_time_s)
            differing |= {key for key in now if content.by.get(key) != now[key]}
    return Kept(rows, seconds, tuple(sorted(differing)))


class Figures(Callback):
    """Keeps the figures of every image that this process measures, together with those of earlier attempts.

    Args:
        file: Where the figures are written, at most every half second and at the end of the test.
        sets: The test sets.
        by: As in `kept`.
        before: What earlier attempts have measured; these images are not measured again.
        perceptual: Measures LPIPS and DISTS as well.
        show: Called with the figures so far at the beginning and after every write.
    """

    def __init__(
        self,
        file: Path,
        sets: Sequence[BenchmarkSet],
        *,
        by: Mapping[str, object],
        before: Kept,
        perceptual: Perceptual | None = None,
        show: Callable[["Figures"], object] = lambda figures: None,
    ) -> None:
        self.file = file
        self.sets = list(sets)
        self.by = plain(by)
        self.before = before
        self.perceptual = perceptual
        self.show = show
        self.interval = _INTERVAL
        self.rows = dict(before.rows)
        self.places: list[Place] = []  # the images of this process
        self._pending: dict[Place, tuple[str, str | None, Tensor]] = {}
        self._started = self._written = time.monotonic()

    @property
    def own(self) -> list[Row]:
        """This process's figures so far, in the order of the sets and their images."""
        return [self.rows[place] for place in self.places if place in self.rows]

    @property
    def results(self) -> list[ImageResult]:
        """The same figures as in `own`, without places and tiles."""
        return [ImageResult(**row.model_dump(exclude={"place", "tiled"})) for row in self.own]

    @property
    def tiled(self) -> str | None:
        """How the last image that was upscaled in tiles was divided; ``None`` if none was."""
        return next((row.tiled for row in reversed(self.own) if row.tiled), None)

    @property
    def wall_time_s(self) -> float:
        """Seconds that all attempts have taken."""
        return self.before.wall_time_s + time.monotonic() - self._started

    def measured(self) -> dict[str, Collection[int]]:
        """Name of each set -> positions of its images that have been measured."""
        return {one.name: {place for name, place in self.rows if name == one.name} for one in self.sets}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out which images this process measures."""
        if self.perceptual is not None:
            self.perceptual.to(pl_module.device)
        rank, world = trainer.global_rank, trainer.world_size
        self.places = [(one.name, place) for one in self.sets for place in range(rank, len(one), world)]
        self.show(self)

    def on_test_batch_start(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        """Forget the tiles of the previous image."""
        assert isinstance(module, SRModule)
        module.tiled = None
        if isinstance(module.network, Tiled):
            module.network.note = None

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, module: SRModule, outputs: Measured, batch: dict[str, Any], *_: object
    ) -> None:
        """Take the figures of an image."""
        if outputs is None:
            return
        note = module.network.note if isinstance(module.network, Tiled) else None
        place, image, figures = (outputs["set_name"], batch["place"]), outputs["image"], outputs["figures"]
        if self.perceptual is not None:
            crop = module.protocol.crop_border(module.scale)
            more = self.perceptual(outputs["sr"], batch["hr"], scale=module.scale, crop=crop, image=image)
            figures = torch.cat((figures, more))
        self._pending[place] = (image, module.tiled or note, figures)
        if time.monotonic() - self._written >= self.interval:
            self._keep()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last figures."""
        self._keep()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the figures so far if the program is asked to end."""
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):
            self._keep()

    def _keep(self) -> None:
        """Fetch the figures from the device, and write all of them."""
        if not self._pending:
            return
        figures = torch.stack([figures for *_, figures in self._pending.values()]).tolist()
        for ((set_name, place), (image, tiled, _)), values in zip(
            self._pending.items(), figures, strict=True
        ):
            psnr, ssim, bicubic_psnr, bicubic_ssim, *more = values
            names = self.perceptual.distances if self.perceptual is not None else ()
            self.rows[set_name, place] = Row(
                set_name=set_name,
                place=place,
                image=image,
                psnr_y=psnr,
                ssim_y=ssim,
                bicubic_psnr_y=bicubic_psnr,
                bicubic_ssim_y=bicubic_ssim,
                tiled=tiled,
                perceptual=dict(zip(names, more, strict=True)),
            )
        self._pending.clear()
        content = _Content(
            by=self.by, wall_time_s=round(self.wall_time_s, 1), images=list(self.rows.values())
        )
        files.write(self.file, json.dumps(content.model_dump(), indent=1) + "\n")  # PSNR may be infinite
        self._written = time.monotonic()
        self.show(self)
