"""Training stream, validation images and test images."""

import collections
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypedDict, cast

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sr_lab.datasets.patches import PatchBatch, PatchDataset, RandomDegradation, with_lr
from sr_lab.datasets.sharing import send
from sr_lab.errors import ConfigError


class EvalBatch(TypedDict):
    """One image: ``lr (1, C, H, W)`` in [0, 1], ``hr (1, 3, rH, rW)`` uint8, its place in a set of how many.

    A rank that does not count it (`RankShare`) only takes part.
    """

    lr: Tensor
    hr: Tensor
    name: str
    grey: bool
    place: int
    of: int
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

    A sample number alone decides what is read, so a resumed run or another number of ranks sees the same. No
    number of ranks is excluded: shares of a batch differ by one sample where it does not divide, and a rank
    beyond its size gets an empty one. What cannot weigh such shares refuses them (`share_of_a_rank`).

    Args:
        first: Asked when an iteration starts: the number of the first sample not yet trained on.
        batch_size: Samples of a batch on all ranks together.
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
        start = self.first()
        while True:
            yield list(range(start + self.rank, start + self.batch_size, self.world))
            start += self.batch_size


def share_of_a_rank(batch_size: int, *, world: int, accumulate: int) -> int:
    """Samples that one rank trains on between two exchanges of gradients.

    Raises:
        ConfigError: The batch does not divide: unequal shares would weigh samples unequally.
    """
    share, remainder = divmod(batch_size, world * accumulate)
    if remainder:
        raise ConfigError(
            "batch_size: is the total and must divide by devices x accumulated batches, "
            f"got {batch_size} for {world} x {accumulate}; take a multiple of {world * accumulate}"
        )
    return share


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
        place = self.indices[index] if counted else 0
        return {**self.images[place], "place": place, "of": len(self.images), "counted": counted}


_READERS = 4  # threads; each holds one image in double precision
_KEPT = 512 * 2**20  # bytes of validation images, ten of 2K size take 0.2 GB at most


class ImageLoader:
    """A set image by image, each read and shrunk by a thread while the network works on those before it.

    Args:
        images: What this rank measures.
        keep: Bytes of images that stay in memory for the next pass; once they are used up, the other images
            are read at every pass.
        pin: Whether the device is a GPU: only from pinned memory do images travel while the network works.
    """

    def __init__(self, images: RankShare, *, keep: int = 0, pin: bool = False) -> None:
        self.images = images
        self.pin = pin
        self._left = keep
        self._kept: dict[int, EvalBatch] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[EvalBatch]:
        """The images in their order; ``_READERS`` of them are ready or being read."""
        coming: collections.deque[Future[EvalBatch]] = collections.deque()
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                for index in range(len(self)):
                    coming.append(pool.submit(self._read, index))
                    if len(coming) > _READERS:
                        yield self._keep(index - _READERS, coming.popleft().result())
                for index in range(len(self) - len(coming), len(self)):
                    yield self._keep(index, coming.popleft().result())
            finally:  # nobody will ask for them
                for future in coming:
                    future.cancel()

    def _read(self, index: int) -> EvalBatch:
        return self._kept[index] if index in self._kept else _one_image(self.images[index], pin=self.pin)

    def _keep(self, index: int, batch: EvalBatch) -> EvalBatch:
        size = batch["lr"].nbytes + batch["hr"].nbytes
        if index not in self._kept and size <= self._left:
            self._kept[index] = batch
            self._left -= size
        return batch


class SRDataModule(lightning.LightningDataModule):
    """Hands loaders to the Trainer.

    Args:
        train: Patches by sample number; ``None`` where nothing is trained.
        val: Validation sets.
        test: Test sets.
        batch_size: Total over ranks and accumulated batches.
        accumulate: Batches accumulated for one optimizer step.
        num_workers: Processes that read patches.
        timeout: Seconds after which a worker that does not answer is given up.
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
        timeout: float = 1800.0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.test = test
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.num_workers = num_workers
        self.timeout = timeout

    def train_dataloader(self) -> DataLoader[PatchBatch]:
        """Endless stream of batches, from where the training stands."""
        assert self.trainer is not None
        assert self.train is not None
        trainer, world = self.trainer, self.trainer.world_size
        share = share_of_a_rank(self.batch_size, world=world, accumulate=self.accumulate)
        sampler = StreamSampler(
            lambda: trainer.global_step * self.batch_size,
            batch_size=share * world,
            rank=trainer.global_rank,
            world=world,
        )
        return patch_loader(
            self.train, sampler, num_workers=self.num_workers, timeout=self.timeout, pin=self._pins()
        )

    def transfer_batch_to_device(
        self, batch: Mapping[str, object], device: torch.device, dataloader_idx: int
    ) -> dict[str, object]:
        """Move the images and leave the names; Lightning's own way walks through every name."""
        return {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    def on_after_batch_transfer(self, batch: dict[str, object], dataloader_idx: int) -> Mapping[str, object]:
        """Make the LR patches of a random degradation, on the device."""
        if "key" not in batch:
            return batch
        assert self.train is not None
        assert isinstance(self.train.degradation, RandomDegradation)
        return with_lr(cast(PatchBatch, batch), self.train.degradation)

    def val_dataloader(self) -> list[ImageLoader]:
        """One loader a set, whose images stay in memory from the first validation to the last."""
        return [self._images(images, keep=_KEPT // len(self.val)) for images in self.val]

    def test_dataloader(self) -> list[ImageLoader]:
        """One loader a set."""
        return [self._images(images) for images in self.test]

    def _images(self, images: EvalSet, keep: int = 0) -> ImageLoader:
        assert self.trainer is not None
        share = RankShare(images, rank=self.trainer.global_rank, world=self.trainer.world_size)
        return ImageLoader(share, keep=keep, pin=self._pins())

    def _pins(self) -> bool:
        """Whether the Trainer's device is a GPU: one that is merely there would be woken for nothing."""
        assert self.trainer is not None
        return self.trainer.strategy.root_device.type == "cuda"


def patch_loader(
    dataset: PatchDataset,
    sampler: Sampler[list[int]],
    *,
    num_workers: int,
    timeout: float = 0.0,
    pin: bool = False,
) -> DataLoader[PatchBatch]:
    """Batches of patches as ``__getitems__`` fills them; ``pin`` for a GPU, which reads them itself then."""
    return DataLoader(
        dataset,  # type: ignore[arg-type] # __getitems__ returns the batch, __getitem__ a sample
        batch_sampler=sampler,
        collate_fn=send,  # type: ignore[arg-type]
        num_workers=num_workers,
        timeout=timeout if num_workers > 0 else 0,
        pin_memory=pin,
        persistent_workers=num_workers > 0,
        worker_init_fn=_hear_parent_only,
    )


def _hear_parent_only(worker: int) -> None:
    """In a worker: go on at a signal that is meant for the training, which needs it for its last step.

    Ctrl-C and Slurm tell every process of a job. The loader itself ends workers that hang, by SIGTERM. When
    the training is killed, it ends at once: until torch notices, after 5 s, it would keep the folder locked.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None and parent.pid == os.getppid():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    heard = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)

    def listen() -> None:
        while True:
            told = signal.sigwaitinfo(heard)
            if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


def _one_image(item: Mapping[str, object], *, pin: bool) -> EvalBatch:
    """A batch of one: images of a set differ in size."""
    lr, hr = item["lr"], item["hr"]
    assert isinstance(lr, Tensor)
    assert isinstance(hr, Tensor)
    if pin:
        lr, hr = lr.pin_memory(), hr.pin_memory()
    return {
        "lr": lr[None],
        "hr": hr[None],
        "name": str(item["name"]),
        "grey": bool(item["grey"]),
        "place": cast(int, item["place"]),
        "of": cast(int, item["of"]),
        "counted": bool(item["counted"]),
    }
