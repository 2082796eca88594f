import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sr_lab.datasets import sharing
from sr_lab.datasets.sharing import empty, send

PIXELS = 3000


class Numbers(Dataset):
    """Each batch is one buffer filled with the number of its first sample, with the id of the worker."""

    def __len__(self):
        return 5

    def __getitems__(self, samples):
        buffer = empty(PIXELS + len(samples))
        buffer.fill_(samples[0] % 256)
        image, codes = buffer[:PIXELS].view(3, 10, 100), buffer[PIXELS:]
        return {"image": image, "codes": codes, "name": f"sample{samples[0]}", "worker": os.getpid()}


def loader(count, *, workers=1, collate_fn=send, **settings):
    batches = [[number] * 2 for number in range(count)]
    return DataLoader(
        Numbers(), batch_sampler=batches, num_workers=workers, collate_fn=collate_fn, **settings
    )


def memories():
    """Names of the shared memory blocks that this process has mapped for its workers."""
    return set(sharing._mapped)


@pytest.mark.parametrize(("workers", "start"), [(0, None), (1, "fork"), (2, "fork")])
def test_batches_arrive_as_they_were_sent(workers, start):  # test_folder.py tests spawn
    arrived = list(loader(12, workers=workers, multiprocessing_context=start))
    assert [batch["name"] for batch in arrived] == [f"sample{number}" for number in range(12)]
    for number, batch in enumerate(arrived):
        assert batch["image"].shape == (3, 10, 100)
        assert batch["image"].dtype == batch["codes"].dtype == torch.uint8
        assert (batch["image"] == number).all()
        assert batch["codes"].tolist() == [number] * 2
    assert len({batch["worker"] for batch in arrived} - {os.getpid()}) == workers


def test_a_batch_that_is_in_use_is_never_overwritten():
    held, parts = [], []
    for number, batch in enumerate(loader(60)):
        if number % 7 == 0:
            held.append((number, batch))
        elif number % 7 == 3:
            parts.append((number, batch["image"][1, 2:4]))  # a tensor that views part of the batch
        elif number % 7 == 5:
            parts.append((number, batch["image"].numpy()))
    for number, batch in held:
        assert (batch["image"] == number).all()
        assert (batch["codes"] == number).all()
    for number, part in parts:
        assert np.all(np.asarray(part) == number)


def test_shared_memory_is_reused():
    before = memories()
    for _ in loader(200):
        pass
    assert len(memories() - before) <= 5  # two prefetched, one being filled, one in transit, one in use


def test_memory_of_a_worker_that_has_exited_is_not_kept():
    before = memories()
    for _ in range(3):
        for _ in loader(20):
            pass
    list(loader(1))
    assert len({process for process, _ in memories() - before}) == 1


def test_torchs_own_transport_gives_the_same_batches():
    arrived = list(loader(30, collate_fn=_as_it_is))
    assert [int(batch["image"][0, 0, 0]) for batch in arrived] == list(range(30))


def _as_it_is(batch):
    return batch


def test_batches_of_an_abandoned_pass_do_not_reach_the_next_pass():
    stream = loader(50, persistent_workers=True)
    for _ in range(4):
        for number, batch in enumerate(stream):
            assert (batch["image"] == number).all()
            if number == 10:
                break


def written(process: int) -> int:
    """KiB of private and shared memory that this process has written to."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return sizes["Private_Dirty"] + sizes["Shared_Dirty"]


HELD = []


def _lose_and_send(batch):
    HELD.clear()
    return send(batch)


def test_a_worker_that_loses_a_batch_of_its_parent_does_not_free_it():
    stream = iter(loader(60))
    HELD.append(next(stream))
    list(loader(1, collate_fn=_lose_and_send, multiprocessing_context="fork"))
    for _ in stream:
        pass
    assert (HELD.pop()["image"] == 0).all()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs /proc")
def test_neither_the_worker_nor_the_main_process_grows():
    worker, sizes = 0, []
    stream = iter(loader(1501))
    for number, batch in enumerate(stream):
        worker = batch["worker"]
        if number in (300, 1500):
            gc.collect()
            sizes.append((written(worker), written(os.getpid())))
    early, late = np.array(sizes)
    assert (late - early < 1024).all()  # 1,200 more batches in memory would take 3.5 MiB
