import itertools

import pytest
import torch

from sr_lab.errors import ConfigError, DataError
from sr_lab.training.data_module import ImageLoader, RankShare, StreamSampler
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def batches(count: int, *, batch_size: int, rank: int = 0, world: int = 1, first: int = 0) -> list[list[int]]:
    sampler = StreamSampler(lambda: first, batch_size=batch_size, rank=rank, world=world)
    return list(itertools.islice(sampler, count))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 7, 16])
def test_the_ranks_together_read_the_batch_of_one_process(world):
    alone = batches(5, batch_size=12)
    together = [batches(5, batch_size=12, rank=rank, world=world) for rank in range(world)]
    for number, batch in enumerate(alone):
        assert sorted(sample for rank in together for sample in rank[number]) == batch


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_rank_gets_the_same_number_of_samples(world):
    sizes = {
        len(batch) for rank in range(world) for batch in batches(3, batch_size=12, rank=rank, world=world)
    }
    assert sizes == {12 // world}


def test_the_stream_counts_from_zero_without_a_gap():
    assert list(itertools.chain(*batches(3, batch_size=4))) == list(range(12))


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize("world", [1, 3])
def test_a_stream_resumed_at_a_step_continues_as_if_never_interrupted(step, world):
    for rank in range(world):
        whole = batches(9, batch_size=12, rank=rank, world=world)
        resumed = batches(9 - step, batch_size=12, rank=rank, world=world, first=12 * step)
        assert resumed == whole[step:]


def test_the_start_of_a_stream_is_determined_when_its_iteration_begins():
    stands_at = [0]
    sampler = StreamSampler(lambda: stands_at[0], batch_size=2, rank=0, world=1)
    stands_at[0] = 10  # a checkpoint is restored after the loader is created
    assert next(iter(sampler)) == [10, 11]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_every_image_is_measured_once_however_many_ranks(world):
    shares = [RankShare(tiny.Images("A", 5), rank=rank, world=world) for rank in range(world)]
    items = [share[number] for share in shares for number in range(len(share))]
    assert sorted(item["name"] for item in items if item["counted"]) == [f"image{k}" for k in range(5)]


def test_a_rank_without_images_takes_part_in_the_loop():
    share = RankShare(tiny.Images("A", 2), rank=4, world=5)
    assert len(share) == 1
    assert share[0]["counted"] is False


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 2), (1, 2), (6, 4)])
def test_a_batch_that_does_not_divide_evenly_is_refused(tmp_path, batch_size, accumulate):
    data = tiny.data(batch_size=batch_size, accumulate=accumulate)
    data.trainer = tiny.trainer(tmp_path)
    with pytest.raises(ConfigError, match=f"got {batch_size} for 1 x {accumulate}; use a multiple"):
        data.train_dataloader()


def test_the_batch_size_counts_all_accumulated_batches(tmp_path):
    patches = tiny.Patches()
    tiny.trainer(tmp_path, max_steps=2, limit_val_batches=0, accumulate_grad_batches=2).fit(
        tiny.sr_module(), tiny.data(train=patches, batch_size=4, accumulate=2)
    )
    assert patches.asked[:4] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_resumed_run_reads_the_next_samples_of_the_stream(tmp_path):
    def fit(steps: int, checkpoint: str | None) -> list[list[int]]:
        patches = tiny.Patches()
        trainer = tiny.trainer(tmp_path, max_steps=steps, limit_val_batches=0)
        trainer.fit(tiny.sr_module(), tiny.data(train=patches), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return patches.asked

    fit(2, None)
    assert fit(4, str(tmp_path / "a.ckpt"))[:2] == [[4, 5], [6, 7]]


def test_workers_do_not_change_which_samples_are_read(tmp_path):
    def fit(workers: int) -> torch.Tensor:
        module = tiny.sr_module()
        tiny.trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(module, tiny.data(num_workers=workers))
        return module.network.head.weight

    torch.testing.assert_close(fit(0), fit(2), rtol=0, atol=0)


def test_images_come_one_by_one_with_the_data_that_metrics_need(tmp_path):
    images = tiny.Images("A", 2)
    data = tiny.data(val=[images], test=[images])
    data.trainer = tiny.trainer(tmp_path)
    for loaders in (data.val_dataloader(), data.test_dataloader()):
        (loader,) = loaders
        batch = next(iter(loader))
        assert (batch["lr"].shape, batch["hr"].shape) == ((1, 3, 12, 14), (1, 3, 24, 28))
        assert (batch["name"], batch["grey"]) == ("image0", False)
        assert len(list(loader)) == 2


class Counted(tiny.Images):
    """Records which images are read."""

    def __init__(self, count: int) -> None:
        super().__init__("A", count)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> dict[str, object]:
        self.read.append(index)
        return super().__getitem__(index)


def loader(images: tiny.Images, **settings: int) -> ImageLoader:
    return ImageLoader(RankShare(images, rank=0, world=1), **settings)


def test_memory_is_not_pinned_for_a_gpu_that_does_not_train(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    images = tiny.Images("A", 1)
    data = tiny.data(val=[images], test=[images])
    data.trainer = tiny.trainer(tmp_path, accelerator="cpu")
    assert not data.train_dataloader().pin_memory
    assert not [one.pin for one in (*data.val_dataloader(), *data.test_dataloader()) if one.pin]
    assert len(list(data.val_dataloader()[0])) == 1
    monkeypatch.setattr(type(data.trainer.strategy), "root_device", torch.device("cuda"))
    assert data.train_dataloader().pin_memory
    assert data.val_dataloader()[0].pin


@pytest.mark.parametrize("count", [1, 3, 11])
def test_prefetched_images_come_in_order_and_only_once(count):
    images = Counted(count)
    batches = list(loader(images))
    assert [batch["name"] for batch in batches] == [f"image{k}" for k in range(count)]
    assert all(torch.equal(batch["hr"][0], images.hr[k]) for k, batch in enumerate(batches))
    assert sorted(images.read) == list(range(count))


def test_only_a_few_images_are_prefetched():
    images = Counted(40)
    passing = iter(loader(images))
    for _ in range(3):
        next(passing)
    passing.close()
    assert len(images.read) <= 3 + 4


def test_validation_images_are_read_once():
    images = Counted(9)
    kept = loader(images, keep=10**6)
    first, second = list(kept), list(kept)
    assert sorted(images.read) == list(range(9))
    assert all(
        torch.equal(a["lr"], b["lr"]) and a["name"] == b["name"] for a, b in zip(first, second, strict=True)
    )


def test_images_beyond_the_memory_limit_are_read_at_every_pass():
    images = Counted(9)
    size = 3 * 24 * 28 + 4 * 3 * 12 * 14  # uint8 and float32
    kept = loader(images, keep=4 * size + size // 2)
    for _ in range(3):
        list(kept)
    assert sorted(images.read) == sorted([*range(9), *range(4, 9), *range(4, 9)])


def test_an_image_that_cannot_be_read_stops_the_pass_at_its_position():
    class Broken(tiny.Images):
        def __getitem__(self, index: int) -> dict[str, object]:
            if index == 2:
                raise DataError("images: cannot read c.png")
            return super().__getitem__(index)

    passing = iter(loader(Broken("A", 6)))
    assert [next(passing)["name"], next(passing)["name"]] == ["image0", "image1"]
    with pytest.raises(DataError, match=r"cannot read c\.png"):
        next(passing)


@pytest.mark.parametrize("world", [1, 2])
def test_batches_to_overfit_begin_again_even_after_a_resume(world):
    taken = []
    for rank in range(world):
        sampler = StreamSampler(lambda: 8, batch_size=4, rank=rank, world=world, repeat=12)
        taken.append(list(itertools.islice(sampler, 3)))
    batches = [sorted(itertools.chain(*shares)) for shares in zip(*taken, strict=True)]
    assert batches == [[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]]
