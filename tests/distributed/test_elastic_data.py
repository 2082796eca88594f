"""The pixels of the global batch are the same for any number of ranks or workers, and after a resume."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.datasets.patches import PatchDataset
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.training.data_module import StreamSampler, patch_loader

# torch warns about three workers on two cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

BATCH, STEPS = 12, 9
WORLDS, WORKERS, RESUMED = (1, 2, 3, 4, 5, 7, 8, 16), (0, 1, 3), (0, 1, 2, 5, 8)
CASES = list(itertools.product(WORLDS, WORKERS, RESUMED))
QUICK = [(5, 1, 2), (16, 0, 1), (3, 0, 8), (2, 3, 5)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PatchDataset:
    place = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 44, 3), dtype=np.uint8)
    files = [place / f"{number}.png" for number in range(5)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    dataset = PatchDataset(
        files=files,
        val_files=[],
        scale=2,
        lr_patch_size=6,
        degradation=BicubicDegradation(scale=2),
        cache_dir=str(place / "cache"),
        seed=3,
        augment=True,
    )
    dataset.prepare()
    return dataset


def batches(dataset: PatchDataset, *, world: int, workers: int, first: int) -> list[list[str]]:
    """Hashes of all samples in the batches from step ``first`` on, in stream order."""
    shares = []
    for rank in range(world):
        sampler = StreamSampler(lambda: first * BATCH, batch_size=BATCH, rank=rank, world=world)
        loader = iter(patch_loader(dataset, sampler, num_workers=workers))
        shares.append([hashes(batch) for batch in itertools.islice(loader, STEPS - first)])
        del loader
    turns = [itertools.zip_longest(*(share[step] for share in shares)) for step in range(STEPS - first)]
    return [[sample for turn in of_step for sample in turn if sample is not None] for of_step in turns]


def hashes(batch) -> list[str]:
    parts = zip(batch["lr"], batch["hr"], batch["dihedral"], strict=True)
    return [
        hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts_of_one)).hexdigest()
        for parts_of_one in parts
    ]


@pytest.fixture(scope="module")
def alone(dataset) -> list[list[str]]:
    """The batches of one process without workers."""
    return batches(dataset, world=1, workers=0, first=0)


def test_most_samples_of_the_stream_are_different(alone):
    assert (
        len({sample for batch in alone for sample in batch}) > 0.9 * BATCH * STEPS
    )  # small images give some equal patches


@pytest.mark.parametrize(
    ("world", "workers", "first"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_the_global_batch_equals_the_batch_of_one_process(dataset, alone, world, workers, first):
    """This holds even if the batch does not divide evenly: no sample is padded or dropped."""
    assert batches(dataset, world=world, workers=workers, first=first) == alone[first:]


def test_all_cases_are_listed():
    assert len(CASES) == 120
    assert set(QUICK) <= set(CASES)


def test_an_empty_share_is_an_empty_batch(dataset):
    batch = dataset.__getitems__([])
    assert batch["lr"].shape == (0, 3, 6, 6)
    assert torch.equal(batch["dihedral"], torch.empty(0, dtype=torch.uint8))
