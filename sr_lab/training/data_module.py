"""Data for the Trainer: the training stream, validation images and test images."""

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sr_lab.datasets.benchmark import MeasuredSet
from sr_lab.datasets.pairs import TrainingSet, as_training_set
from sr_lab.datasets.patches import PatchBatch, PatchDataset, RandomDegradation, with_lr
from sr_lab.datasets.sharing import send
from sr_lab.errors import ConfigError
from sr_lab.system import unix


class EvalBatch(TypedDict):
    """One image: ``lr (1, C, h, w)`` in [0, 1] and ``hr (1, 3, rh, rw)`` in uint8.

    ``place`` is its position in a set of ``of`` images. An image that is not ``counted`` only keeps a process
    in step with the others (`RankShare`).
    """

    lr: Tensor
    hr: Tensor
    name: str
    grey: bool
    place: int
    of: int
    counted: bool


class StreamSampler(Sampler[list[int]]):
    """Endless batches of sample numbers for one process: ``first + rank, first + rank + world, ...``.

    The sample number alone decides what is read, so the samples stay the same after a resume, or with more or
    fewer processes. Any number of processes works: if the batch does not divide evenly, shares differ by one
    sample and may be empty. Training needs equal shares and checks them itself (`share_of_a_rank`).

    Args:
        first: Called when an iteration starts; returns the number of the first sample not yet trained on.
        batch_size: Samples per batch over all processes.
        rank: Number of this process.
        world: Number of processes.
        repeat: Number of samples, from the first on, to repeat so that a network can memorise them; a
            multiple of the batch size. ``None``: no repetition.
    """

    def __init__(
        self,
        first: Callable[[], int],
        *,
        batch_size: int,
        rank: int,
        world: int,
        repeat: int | None = None,
    ) -> None:
        self.first = first
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.repeat = repeat

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches without end."""
        start = self.first()
        while True:
            yield repeated(range(start + self.rank, start + self.batch_size, self.world), self.repeat)
            start += self.batch_size


def repeated(samples: Iterable[int], repeat: int | None) -> list[int]:
    """Sample numbers that start again from 0 after ``repeat`` samples."""
    return list(samples) if repeat is None else [sample % repeat for sample in samples]


def share_of_a_rank(batch_size: int, *, world: int, accumulate: int) -> int:
    """Number of samples that one process trains on between two exchanges of gradients.

    Raises:
        ConfigError: The batch does not divide evenly; unequal shares would give samples unequal weights.
    """
    share, remainder = divmod(batch_size, world * accumulate)
    if remainder:
        raise ConfigError(
            "batch_size: is the total and must be a multiple of devices x accumulated batches, "
            f"got {batch_size} for {world} x {accumulate}; use a multiple of {world * accumulate}"
        )
    return share


class RankShare:
    """The images of a set that one process measures: ``rank, rank + world, ...``, without padding.

    A process without images gets the first image, which is not counted: Lightning skips a loop without
    images, and the other processes would wait forever.

    Args:
        images: The whole set.
        rank: Number of this process.
        world: Number of processes.
        skip: Positions of images that an earlier attempt has measured.
    """

    def __init__(self, images: MeasuredSet, *, rank: int, world: int, skip: Collection[int] = ()) -> None:
        self.images = images
        left = [place for place in range(rank, len(images), world) if place not in skip]
        self.counted = bool(left)
        self.indices = left or [0]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> EvalBatch:
        """Image ``index`` of this process, as a batch of one, since the images of a set differ in size."""
        place = self.indices[index]
        image = self.images[place]
        return {
            "lr": image["lr"][None],
            "hr": image["hr"][None],
            "name": image["name"],
            "grey": image["grey"],
            "place": place,
            "of": len(self.images),
            "counted": self.counted,
        }


# Threads that read the next images; each holds an image in double precision. A CPU takes longer to upscale an
# image than to read the next one; a GPU has to wait even if two or more cores read.
_READERS_CPU, _READERS_GPU = 1, 4
_KEPT = 512 * 2**20  # bytes of validation images; ten 2K images take at most 0.2 GB


class ImageLoader:
    """The images of a set one by one; threads read and downscale the next ones while the network runs.

    Args:
        images: The images that this process measures.
        keep: Bytes of images that stay in memory for the next pass; the others are read in every pass.
        pin: Whether the device is a GPU, whose work overlaps with copies only from pinned memory.
    """

    def __init__(self, images: RankShare, *, keep: int = 0, pin: bool = False) -> None:
        self.images = images
        self.pin = pin
        self._left = keep
        self._kept: dict[int, EvalBatch] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[EvalBatch]:
        """The images in order; while one is used, each thread reads one of the next images."""
        coming: collections.deque[Future[EvalBatch]] = collections.deque()
        readers = _READERS_GPU if self.pin else _READERS_CPU
        with ThreadPoolExecutor(readers) as pool:
            try:
                for index in range(len(self)):
                    coming.append(pool.submit(self._read, index))
                    if len(coming) > readers:
                        yield self._keep(index - readers, coming.popleft().result())
                for index in range(len(self) - len(coming), len(self)):
                    yield self._keep(index, coming.popleft().result())
            finally:  # the caller may have stopped early
                for future in coming:
                    future.cancel()

    def _read(self, index: int) -> EvalBatch:
        if index in self._kept:
            return self._kept[index]
        batch = self.images[index]
        if self.pin:
            batch["lr"], batch["hr"] = batch["lr"].pin_memory(), batch["hr"].pin_memory()
        return batch

    def _keep(self, index: int, batch: EvalBatch) -> EvalBatch:
        size = batch["lr"].nbytes + batch["hr"].nbytes
        if index not in self._kept and size <= self._left:
            self._kept[index] = batch
            self._left -= size
        return batch


@dataclass(kw_only=True, eq=False)
class SRDataModule(lightning.LightningDataModule):
    """Loaders for the Trainer.

    Args:
        train: Training pairs: a `PatchDataset`, or any map-style dataset that a `PairDataset` takes; ``None``
            if there is no training.
        val: Validation sets.
        test: Test sets.
        measured: Name of each test set -> positions of its images that are not measured again.
        batch_size: Samples per step, over all processes and accumulated batches.
        accumulate: Batches accumulated for one optimizer step.
        num_workers: Processes that read patches.
        timeout: Seconds after which a worker that does not respond causes an error.
        overfit_batches: Number of batches that are repeated; ``None`` for an endless stream.
    """

    train: Dataset[Any] | None = None
    val: Sequence[MeasuredSet] = ()
    test: Sequence[MeasuredSet] = ()
    measured: Mapping[str, Collection[int]] = field(default_factory=dict)
    batch_size: int = 1
    accumulate: int = 1
    num_workers: int = 0
    timeout: float = 1800.0
    overfit_batches: int | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._stream = None if self.train is None else as_training_set(self.train)

    def train_dataloader(self) -> DataLoader[PatchBatch]:
        """Endless stream of batches, starting with the first sample not yet trained on."""
        assert self.trainer is not None
        assert self._stream is not None
        trainer, world = self.trainer, self.trainer.world_size
        share = share_of_a_rank(self.batch_size, world=world, accumulate=self.accumulate)
        sampler = StreamSampler(
            lambda: trainer.global_step * self.batch_size,
            batch_size=share * world,
            rank=trainer.global_rank,
            world=world,
            repeat=None if self.overfit_batches is None else self.overfit_batches * self.batch_size,
        )
        return patch_loader(
            self._stream, sampler, num_workers=self.num_workers, timeout=self.timeout, pin=self._pins()
        )

    def transfer_batch_to_device(
        self, batch: Mapping[str, object], device: torch.device, dataloader_idx: int
    ) -> dict[str, object]:
        """Move the tensors; Lightning's own method would also visit every string in the batch."""
        return {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    def on_after_batch_transfer(self, batch: dict[str, object], dataloader_idx: int) -> Mapping[str, object]:
        """Make the LR patches of a random degradation on the device."""
        if "key" not in batch:
            return batch
        assert isinstance(self._stream, PatchDataset)
        assert isinstance(self._stream.degradation, RandomDegradation)
        return with_lr(cast(PatchBatch, batch), self._stream.degradation)

    def val_dataloader(self) -> list[ImageLoader]:
        """One loader for each set; the images stay in memory until the last validation."""
        return [self._images(images, keep=_KEPT // len(self.val)) for images in self.val]

    def test_dataloader(self) -> list[ImageLoader]:
        """One loader for each set."""
        return [self._images(images, skip=self.measured.get(images.name, ())) for images in self.test]

    def _images(self, images: MeasuredSet, keep: int = 0, skip: Collection[int] = ()) -> ImageLoader:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        share = RankShare(images, rank=rank, world=world, skip=skip)
        return ImageLoader(share, keep=keep, pin=self._pins())

    def _pins(self) -> bool:
        """Whether the Trainer uses a GPU; pinning memory would initialise an unused GPU."""
        assert self.trainer is not None
        return self.trainer.strategy.root_device.type == "cuda"


def patch_loader(
    dataset: TrainingSet,
    sampler: Sampler[list[int]],
    *,
    num_workers: int,
    timeout: float = 0.0,
    pin: bool = False,
) -> DataLoader[PatchBatch]:
    """A loader of the batches that ``__getitems__`` returns; ``pin`` pins their memory, for a GPU."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=send,  # type: ignore[arg-type] # it gets a batch, not a list of samples
        num_workers=num_workers,
        timeout=timeout if num_workers > 0 else 0,
        pin_memory=pin,
        persistent_workers=num_workers > 0,
        worker_init_fn=_obey_parent_only,
    )


def _obey_parent_only(worker: int) -> None:
    """Let a worker ignore signals for the training process, which needs the worker for its last step.

    Ctrl-C and Slurm signal every process of a job; only the loader's own SIGTERM ends a worker. If the
    training process is killed, its workers are killed at once (on Linux): torch would notice only after 5 s,
    and until then a worker would keep the run folder locked.
    """
    unix.obey_parent_only()
