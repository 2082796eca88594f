"""Errors of Lightning and torch about a configuration that they cannot run become one sentence."""

import gc
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, StochasticWeightAveraging

from sr_lab import errors
from sr_lab.system import faults
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and Lightning's advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def train(folder: Path, *callbacks: lightning.Callback, **settings: float) -> None:
    """Train for two steps as `tasks.train` does."""
    with faults.explained():
        trainer = tiny.trainer(folder, max_steps=2, callbacks=[*callbacks], limit_val_batches=0)
        trainer.fit(tiny.sr_module(**settings), tiny.data())


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (
            LearningRateMonitor(),
            "Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger.",
        ),
        (StochasticWeightAveraging(swa_lrs=1e-2), "SWA with `swa_epoch_start` as a float is not supported"),
    ],
    ids=["monitor", "swa"],
)
def test_a_callback_that_cannot_work_is_reported_in_one_sentence(tmp_path, callback, says):
    with pytest.raises(errors.ConfigError, match=f"^training: Lightning cannot do this: {says}"):
        train(tmp_path, callback)


def test_a_learning_rate_that_is_too_large_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(errors.ConfigError, match="use a smaller learning_rate"):
        train(tmp_path, learning_rate=1e40)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "the memory of the device is full; trainer.accumulate"),
        ("CUDA error: an illegal memory access was encountered", "illegal memory access; the same command"),
        (
            "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set ...",
            "trainer.deterministic: torch has no deterministic adaptive_max_pool2d_backward_cuda",
        ),
    ],
)
def test_an_error_of_the_gpu_is_reported_in_one_sentence(error, said):
    with pytest.raises(errors.SRLabError, match=said), faults.explained():
        raise RuntimeError(error)


class Broken(torch.utils.data.Dataset):
    """A dataset whose only image is broken."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise errors.DataError("images: 'a.png' is broken")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_broken_image_in_a_worker_is_not_reported_as_a_fault_of_the_machine():
    with pytest.raises(errors.DataError, match=r"^images: 'a.png' is broken$"), faults.explained():
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    gc.collect()  # the error refers to the loader, whose worker would keep running


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."),
        OSError(28, "No space left on device", "/dev/shm/torch_1"),
    ],
)
def test_full_shared_memory_is_named(error):
    said = faults.describe(error)
    assert said is not None
    assert "/dev/shm" in said
    assert "num_workers" in said
