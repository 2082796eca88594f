"""Training stream, validation images and test images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypedDict

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sr_lab.datasets.patches import PatchBatch, PatchDataset
from sr_lab.errors import ConfigError


class EvalBatch(TypedDict):
    """One image: ``lr (1, C, H, W)`` in [0, 1], ``hr (1, 3, rH, rW)`` uint8; whether this rank counts it."""

    lr: Tensor
    hr: Tensor
    name: str
    grey: bool
    counted: bool


class EvalSet(Protocol):
    """A named set of whole images."""

    name: str

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Mapping[str, object]:
        """Image ``index``."""


class StreamSampler(Sampler[list[int]]):
    """Endless batches of sample numbers for one rank: ``first + rank, first + rank + world, ...``.

    A sample number alone decides what is read, so a resumed run or another number of ranks sees the same.

    Args:
        first: Asked when an iteration starts: the number of the first sample not yet trained on.
        batch_size: Samples of a batch on this rank.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, first: Callable[[], int], *, batch_size: int, rank: int, world: int) -> None:
        self.first = first
        self.batch_size = batch_size
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches for ever."""
        start = self.first() + self.rank
        while True:
            yield [start + self.world * k for k in range(self.batch_size)]
            start += self.world * self.batch_size


class RankShare(Dataset[Mapping[str, object]]):
    """One rank's images of a set: ``rank, rank + world, ...``, nothing padded.

    A rank that has none gets the first one, not to be counted: Lightning leaves out a loop without images,
    and the other ranks would wait for it for ever.

    Args:
        images: The whole set.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, images: EvalSet, *, rank: int, world: int) -> None:
        self.images = images
        self.indices = range(rank, len(images), world)

    def __len__(self) -> int:
        return max(1, len(self.indices))

    def __getitem__(self, index: int) -> Mapping[str, object]:
        """Image ``index`` of this rank's."""
        counted = len(self.indices) > 0
        return {**self.images[self.indices[index] if counted else 0], "counted": counted}


class SRDataModule(lightning.LightningDataModule):
    """Hands loaders to the Trainer.

    Args:
        train: Patches by sample number; ``None`` where nothing is trained.
        val: Validation sets.
        test: Test sets.
        batch_size: Total over ranks and accumulated batches.
        accumulate: Batches accumulated for one optimizer step.
        num_workers: Processes that read patches.
    """

    def __init__(
        self,
        *,
        train: PatchDataset | None = None,
        val: Sequence[EvalSet] = (),
        test: Sequence[EvalSet] = (),
        batch_size: int = 1,
        accumulate: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.test = test
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[PatchBatch]:
        """Endless stream of batches, from where the training stands."""
        assert self.trainer is not None
        assert self.train is not None
        trainer, world = self.trainer, self.trainer.world_size
        per_rank, remainder = divmod(self.batch_size, world * self.accumulate)
        if remainder:
            raise ConfigError(
                "batch_size: is the total and must divide by devices x accumulated batches, "
                f"got {self.batch_size} for {world} x {self.accumulate}; "
                f"take a multiple of {world * self.accumulate}"
            )
        sampler = StreamSampler(
            lambda: trainer.global_step * self.batch_size,
            batch_size=per_rank,
            rank=trainer.global_rank,
            world=world,
        )
        return DataLoader(
            self.train,  # type: ignore[arg-type] # __getitems__ returns the batch, __getitem__ a sample
            batch_sampler=sampler,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> list[DataLoader[EvalBatch]]:
        """One loader a set."""
        return [self._images(images) for images in self.val]

    def test_dataloader(self) -> list[DataLoader[EvalBatch]]:
        """One loader a set."""
        return [self._images(images) for images in self.test]

    def _images(self, images: EvalSet) -> DataLoader[EvalBatch]:
        assert self.trainer is not None
        share = RankShare(images, rank=self.trainer.global_rank, world=self.trainer.world_size)
        return DataLoader(share, batch_size=1, collate_fn=_one_image)  # type: ignore[arg-type]


def _as_it_is(batch: PatchBatch) -> PatchBatch:
    """``__getitems__`` has filled the batch already."""
    return batch


def _one_image(items: list[Mapping[str, object]]) -> EvalBatch:
    """A batch of one: images of a set differ in size."""
    (item,) = items
    lr, hr = item["lr"], item["hr"]
    assert isinstance(lr, Tensor)
    assert isinstance(hr, Tensor)
    return {
        "lr": lr[None],
        "hr": hr[None],
        "name": str(item["name"]),
        "grey": bool(item["grey"]),
        "counted": bool(item["counted"]),
    }
