"""How fast a worker delivers patches, compared with decoding PNG sub-images and with copying memory."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sr_lab.datasets.images import read_image
from sr_lab.datasets.patches import PatchDataset
from sr_lab.datasets.sample import training_photographs
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.speed.benchmark import Benchmark
from sr_lab.training.data_module import StreamSampler, patch_loader

Image8: TypeAlias = NDArray[np.uint8]  # (H, W, 3)

SCALE = 4
LR_PATCH_SIZE = 64
BATCH_SIZE = 64
NUM_IMAGES = 24  # images in our training set, and sub-images in the reference
IMAGE_SIZE = (1356, 2040)  # height and width of our images
BATCHES = 200  # batches in one run with our loader
PNG_BATCHES = 2  # batches in one run with the reference
_READY = 4  # batches: two are ready, the worker is filling one, and one is spare
_COPIED = 64 * 2**20  # bytes, more than fits in a processor's caches


def benchmarks(workspace: Path) -> list[Benchmark]:
    """Our training set in a worker, compared with the usual training set and the machine's limit.

    Returns:
        ``loader.pairs_per_s``; ``ratio_to_png``, relative to decoding two files per sample; and
        ``share_of_memcpy``, relative to the rate at which one core copies the same number of bytes.
    """
    ours = training_set(workspace, NUM_IMAGES, *IMAGE_SIZE, SCALE, LR_PATCH_SIZE)
    pngs = SubImages(workspace, scale=SCALE, lr_patch_size=LR_PATCH_SIZE, count=NUM_IMAGES)
    bytes_of_pair = 3 * LR_PATCH_SIZE**2 * (1 + SCALE**2)
    sampler = StreamSampler(lambda: 0, batch_size=BATCH_SIZE, rank=0, world=1)
    through_png: DataLoader[dict[str, Tensor]] = DataLoader(
        pngs, batch_sampler=sampler, num_workers=1, pin_memory=torch.cuda.is_available()
    )
    return [
        Benchmark(
            "loader",
            {
                "ours": _rate(patch_loader(ours, sampler, num_workers=1), BATCHES),
                "png": _rate(through_png, PNG_BATCHES),
                "memcpy": _copying,
            },
            lambda rate: {
                "pairs_per_s": rate["ours"],
                "ratio_to_png": rate["ours"] / rate["png"],
                "share_of_memcpy": rate["ours"] * bytes_of_pair / rate["memcpy"],
            },
        )
    ]


class SubImages(Dataset[dict[str, Tensor]]):
    """The usual training set: 480x480 sub-images as PNG, HR and LR opened and decoded for every sample.

    The sub-images are cut from photographs, so that decoding takes a realistic time.
    """

    def __init__(self, folder: Path, *, scale: int, lr_patch_size: int, count: int) -> None:
        self.scale = scale
        self.lr_patch_size = lr_patch_size
        self.pairs: list[tuple[Path, Path]] = []
        degrade = BicubicDegradation(scale=scale)
        for number, hr in enumerate(_pieces(count, 480, 480)):
            lr = degrade(torch.from_numpy(hr).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            pair = folder / f"{number}_lr.png", folder / f"{number}_hr.png"
            for path, pixels in zip(pair, (lr, hr), strict=True):
                Image.fromarray(pixels).save(path)
            self.pairs.append(pair)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        """A pair of uint8 patches; the default collation stacks the pairs."""
        lr, hr = (np.asarray(Image.open(path)) for path in self.pairs[sample % len(self)])
        size, scale = self.lr_patch_size, self.scale
        top, left = (int(v) for v in np.random.default_rng(sample).integers(lr.shape[0] - size + 1, size=2))
        return {"lr": _patch(lr, top, left, size), "hr": _patch(hr, scale * top, scale * left, scale * size)}


def _patch(image: Image8, top: int, left: int, size: int) -> Tensor:
    return torch.from_numpy(image[top : top + size, left : left + size].transpose(2, 0, 1).copy())


def training_set(
    folder: Path, count: int, height: int, width: int, scale: int, lr_patch_size: int
) -> PatchDataset:
    """Our training set on whole images, with its cache built."""
    files = [folder / f"{number}.bmp" for number in range(count)]
    for file, pixels in zip(files, _pieces(count, height, width), strict=True):
        Image.fromarray(pixels).save(file)
    dataset = PatchDataset(
        files=files,
        val_files=[],
        scale=scale,
        lr_patch_size=lr_patch_size,
        degradation=BicubicDegradation(scale=scale),
        cache_dir=str(folder / "cache"),
        seed=0,
        augment=True,
    )
    dataset.prepare()
    return dataset


def _pieces(count: int, height: int, width: int) -> Iterator[Image8]:
    """Pieces ``(height, width, 3)`` of photographs; small photographs are padded with their mirror image."""
    photographs = [read_image(file) for file in training_photographs()]
    draw = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        padding = [
            (0, max(0, side - given)) for side, given in zip((height, width), photograph.shape, strict=False)
        ]
        large = np.pad(photograph, [*padding, (0, 0)], mode="reflect")
        top = int(draw.integers(large.shape[0] - height + 1))
        left = int(draw.integers(large.shape[1] - width + 1))
        yield np.ascontiguousarray(large[top : top + height, left : left + width])


def _rate(loader: Iterable[Mapping[str, object]], batches: int) -> Callable[[], float]:
    """Pairs per second of an endless loader, whose worker starts at the first call.

    Batches that were prefetched while another variant ran are discarded first.
    """
    stream: list[Iterator[Mapping[str, object]]] = []

    def measure() -> float:
        if not stream:
            stream.append(iter(loader))
        for _ in range(_READY):
            next(stream[0])
        started = time.perf_counter()
        for _ in range(batches):
            next(stream[0])
        return batches * BATCH_SIZE / (time.perf_counter() - started)

    return measure


def _copying() -> float:
    """Bytes per second that one core copies, from arrays larger than the caches."""
    source, target = np.ones(_COPIED, dtype=np.uint8), np.zeros(_COPIED, dtype=np.uint8)
    started = time.perf_counter()
    for _ in range(20):
        np.copyto(target, source)
    return 20 * _COPIED / (time.perf_counter() - started)
