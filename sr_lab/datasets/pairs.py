"""Training pairs from any map-style torch ``Dataset``, such as one in the user's own package."""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sr_lab.datasets.benchmark import BenchmarkImage
from sr_lab.datasets.patches import PatchBatch, PatchDataset
from sr_lab.datasets.sampling import keys, permutation
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.metrics import SSIM_WINDOW


class PairDataset(Dataset[PatchBatch]):
    """An endless stream of the pairs of a map-style ``Dataset``, by sample number as in `PatchDataset`.

    Every pass takes each pair once, in an order that depends only on the seed. The random numbers of torch,
    numpy and Python's ``random`` that ``dataset[index]`` uses depend only on the seed and the sample number,
    so a resumed run, or one with more workers, gets the same pairs. Nothing is flipped here.

    Args:
        dataset: ``dataset[index]`` is a dictionary ``{"lr": ..., "hr": ...}`` of tensors ``(3, h, w)`` and
            ``(3, rh, rw)``, floats in [0, 1] or uint8; all pairs have the same size. ``len(dataset)`` is
            the number of pairs. An optional method ``manifest() -> str`` identifies their images.
        scale: Size of an HR image divided by the size of its LR image. ``None``: any.
        seed: Seed of the stream.
        held_out: Number of pairs at the end that are not part of the stream. ``None``: 5 %, at least one.

    Raises:
        ConfigError: ``dataset`` is not map-style, or a pair is not as described above.
        DataError: There are too few pairs for training and validation.
    """

    # The pairs may come from anywhere, so no files are listed.
    files: ClassVar[Sequence[Path]] = ()
    lr_files: ClassVar[None] = None
    val_files: ClassVar[Sequence[Path]] = ()
    val_lr_files: ClassVar[None] = None

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        scale: int | None = None,
        seed: int = 0,
        held_out: int | None = None,
    ) -> None:
        self.name = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            kind = (
                "an IterableDataset" if isinstance(dataset, IterableDataset) else "a Dataset without __len__"
            )
            raise ConfigError(
                f"dataset: {self.name} is {kind}, whose pairs cannot be read by number; derive it from "
                "torch.utils.data.Dataset, with __len__ and __getitem__"
            )
        self.dataset = dataset
        self.scale = scale
        self.seed = seed
        total = len(dataset)
        self.held_out = max(1, total // 20) if held_out is None else held_out
        if total == 0:
            raise DataError(f"dataset: {self.name} has no pairs; check where it looks for images")
        if total <= self.held_out:
            raise DataError(
                f"dataset: {self.name} has {total} pair(s), but needs at least {self.held_out + 1}, since "
                f"validation takes {self.held_out}"
            )
        self._shape: tuple[int, ...] | None = None
        lr, _ = self._pair(0, 0)
        self._shape = tuple(lr.shape)
        self.lr_patch_size = min(lr.shape[-2:])

    def __len__(self) -> int:
        """Number of pairs to train on."""
        return len(self.dataset) - self.held_out

    def __getitems__(self, samples: Sequence[int]) -> PatchBatch:
        """A batch of pairs, which are not flipped here."""
        indices = [int(permutation(self.seed, n // len(self), len(self))[n % len(self)]) for n in samples]
        seeds = keys(samples, seed=self.seed)
        pairs = [self._pair(index, own) for index, own in zip(indices, seeds, strict=True)]
        return {
            "lr": torch.stack([lr for lr, _ in pairs]),
            "hr": torch.stack([hr for _, hr in pairs]),
            "name": [str(index) for index in indices],
        }

    def prepare(self) -> None:
        """Do nothing: no image is decoded in advance."""

    def fingerprints(self) -> list[str]:
        """Empty, since nothing is known about the pixels."""
        return []

    def note(self) -> str:
        """What the user must know before training begins, as one sentence."""
        total = len(self) + self.held_out
        chosen = f"the best checkpoint is chosen on the last {self.held_out} of its {total} pairs"
        if hasattr(self.dataset, "manifest"):
            return f"dataset: {self.name}: {chosen}"
        return (
            f"dataset: {self.name}: {chosen}; changed images do not start a new run, since the dataset "
            "has no method manifest() -> str that identifies them"
        )

    def _pair(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """Pair ``index``, checked."""
        try:
            with _seeded(seed):
                pair = self.dataset[index]
        except OSError as error:
            raise DataError(f"dataset: {self.name} cannot read pair {index}: {error}") from error
        where = f"dataset: {self.name} gives for pair {index}"
        if not isinstance(pair, Mapping) or not {"lr", "hr"} <= pair.keys():
            given = f"the keys {', '.join(map(str, pair))}" if isinstance(pair, Mapping) else _kind(pair)
            raise ConfigError(f"{where} {given}; return a dictionary {{'lr': tensor, 'hr': tensor}}")
        lr, hr = (_checked(f"{where} {key!r}", pair[key]) for key in ("lr", "hr"))
        if self._shape not in (None, tuple(lr.shape)):
            raise ConfigError(
                f"{where} an LR image of {tuple(lr.shape)}, but for pair 0 one of {self._shape}; a "
                "batch needs equal sizes, so cut patches of one size"
            )
        (height, width), ratio = lr.shape[-2:], self.scale or hr.shape[-1] // max(1, lr.shape[-1])
        if tuple(hr.shape[-2:]) != (ratio * height, ratio * width):
            raise ConfigError(
                f"{where} an LR image of {tuple(lr.shape)} and an HR image of {tuple(hr.shape)}; at "
                f"scale={ratio} the HR image must be {(3, ratio * height, ratio * width)}"
            )
        return lr, hr


class HeldOutPairs(Dataset[BenchmarkImage]):
    """The pairs at the end of a `PairDataset`, measured like the images of a test set.

    Args:
        pairs: The dataset.
        count: How many of its held-out pairs to use, starting with the first.
        crop_border: Pixels that the protocol drops at every edge.

    Raises:
        DataError: The pairs are too small to be measured.
    """

    name = "held_out"

    def __init__(self, pairs: PairDataset, count: int, crop_border: int) -> None:
        self.pairs = pairs
        self.count = min(count, pairs.held_out)
        hr, need = self[0]["hr"], SSIM_WINDOW + 2 * crop_border
        if min(hr.shape[-2:]) < need:
            raise DataError(
                f"dataset: {pairs.name} gives HR images of {hr.shape[-1]}x{hr.shape[-2]} pixels; measuring "
                f"the held-out pairs needs {need}x{need}, so cut larger patches"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> BenchmarkImage:
        place = len(self.pairs) + index
        lr, hr = self.pairs._pair(place, place)
        lr = lr.float() / 255 if lr.dtype == torch.uint8 else lr.float()
        hr = hr if hr.dtype == torch.uint8 else (hr * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
        return {"lr": lr, "hr": hr, "name": str(place), "grey": False}


TrainingSet: TypeAlias = PatchDataset | PairDataset


def as_training_set(dataset: Dataset[Any], *, scale: int | None = None, seed: int = 0) -> TrainingSet:
    """Turn a map-style dataset into a stream; a dataset that already gives batches is returned as it is."""
    gives_batches = type(dataset).__getitem__ is Dataset.__getitem__ and hasattr(dataset, "__getitems__")
    if isinstance(dataset, PairDataset) or gives_batches:
        return cast(TrainingSet, dataset)
    return PairDataset(dataset, scale=scale, seed=seed)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators, and put their states back afterwards."""
    before = torch.default_generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the dataset may use numpy's global generator
    try:
        yield
    finally:
        torch.default_generator.set_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002


def _checked(where: str, image: object) -> Tensor:
    """A tensor ``(3, h, w)`` of uint8, or of floats in [0, 1]."""
    if not isinstance(image, Tensor):
        how = "torch.from_numpy(image)" if isinstance(image, np.ndarray) else "a tensor"
        raise ConfigError(f"{where} as {_kind(image)}; return {how}, (3, h, w), floats in [0, 1] or uint8")
    if image.ndim != 3 or image.shape[0] != 3:
        how = "expand a grey image to three channels" if image.ndim == 2 or image.shape[0] == 1 else "cut it"
        if image.shape[-1:] == (3,):
            how = "write .permute(2, 0, 1)"
        elif image.ndim == 4:
            how = "leave the batch out, which the loader adds"
        raise ConfigError(f"{where} of the shape {tuple(image.shape)}, which must be (3, h, w); {how}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ConfigError(f"{where} as {image.dtype}; return floats in [0, 1], or uint8")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= -0.1 and high <= 1.1):  # a bicubic kernel overshoots; NaN fails every comparison
        how = "divide 8-bit values by 255" if high > 1 else "check how it is computed"
        raise ConfigError(f"{where} with values from {low:g} to {high:g}; floats must be in [0, 1], so {how}")
    return image


def _kind(value: object) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
