import collections
import itertools
import json
import pickle
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from sr_lab.config import identity, targets
from sr_lab.datasets.folder import FolderDataset
from sr_lab.datasets.patches import with_lr
from sr_lab.datasets.sampling import shard_pass
from sr_lab.datasets.shard_writing import write_shards
from sr_lab.datasets.shards import INDEX, read_index
from sr_lab.datasets.streaming import StreamingDataset
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.degradations.noise import NoiseDegradation
from sr_lab.errors import ConfigError, DataError
from sr_lab.tasks import shard
from sr_lab.training.data_module import StreamSampler, patch_loader
from tests.composing import compose

COUNT = 11  # images, three per shard, so that the last shard has two


def photographs(folder, count=COUNT):
    folder.mkdir(parents=True)
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((66 + index, 53)).save(folder / f"{index:04d}.png")
    return folder


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "hr")


@pytest.fixture
def shards(source, tmp_path):
    write_shards(sorted(source.iterdir()), tmp_path / "shards", images_per_shard=3, lr_scales=[2, 3])
    return tmp_path / "shards"


@pytest.fixture
def remote(shards):
    """Address of shards in a store; every process has to fetch them from there."""
    store = fsspec.filesystem("memory")
    store.put(str(shards), "/bucket", recursive=True)
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


@pytest.fixture
def make(source, tmp_path):
    def build(shards_dir, **settings):
        scale = settings.setdefault("scale", 2)
        settings.setdefault("degradation", BicubicDegradation(scale=scale))
        common = {"lr_patch_size": 12, "shuffle_shards": 2, "cache_dir": str(tmp_path / "cache")}
        return StreamingDataset(shards_dir=str(shards_dir), val_dir=str(source), **common | settings)

    return build


def test_a_pass_has_every_image_once_and_mixes_few_shards_at_a_time():
    sizes = (3, 3, 3, 2, 5, 1)
    shard_of = np.repeat(np.arange(6), [3, 3, 3, 2, 5, 1])
    seen = set()
    for number in range(6):
        current = shard_pass(sizes, 2, 7, number)
        images = current.images
        assert sorted(images.tolist()) == list(range(17))
        starts = [0, *current.ends[:-1].tolist()]
        for start, end, group in zip(starts, current.ends, current.groups, strict=True):
            assert set(shard_of[images[start:end]]) == set(group)
            assert len(group) <= 2
        seen.add(tuple(images.tolist()))
    assert len(seen) == 6
    assert shard_pass(sizes, 2, 8, 0).images.tolist() != shard_pass(sizes, 2, 7, 0).images.tolist()


@pytest.mark.parametrize("scale", [2, 3])
def test_streamed_patches_are_cut_from_the_same_images_as_those_of_a_folder(
    shards, source, make, scale, tmp_path
):
    streamed = make(shards, scale=scale)
    streamed.prepare()
    folder = FolderDataset(
        hr_dir=str(source),
        val_dir=str(source),
        scale=scale,
        lr_patch_size=12,
        degradation=BicubicDegradation(scale=scale),
        cache_dir=str(tmp_path / "cache"),
    )
    folder.prepare()
    batch = streamed.__getitems__(range(2 * COUNT))
    by_name = {file.stem: number for number, file in enumerate(folder.files)}
    for lr, hr, name in zip(batch["lr"], batch["hr"], batch["name"], strict=True):
        whole_lr, whole_hr = (images.image(by_name[name]) for images in (folder._lr_cache, folder._hr_cache))
        windows = np.lib.stride_tricks.sliding_window_view(whole_lr, (3, 12, 12))[0]
        ((top, left),) = np.argwhere((windows == lr.numpy()).all(axis=(2, 3, 4)))
        there = (slice(scale * top, scale * (top + 12)), slice(scale * left, scale * (left + 12)))
        assert (whole_hr[:, there[0], there[1]] == hr.numpy()).all()
    assert collections.Counter(batch["name"]) == dict.fromkeys(by_name, 2)  # two passes


def read(dataset, *, first, steps, batch_size, world, workers):
    """Name, LR and HR patch of each sample from ``first`` on, gathered from all ranks."""
    got = {}
    for rank in range(world):
        sampler = StreamSampler(lambda: first, batch_size=batch_size, rank=rank, world=world)
        loader = patch_loader(dataset, sampler, num_workers=workers)
        for step, batch in enumerate(itertools.islice(loader, steps)):
            for k in range(batch_size // world):
                number = first + step * batch_size + rank + world * k
                assert number not in got
                got[number] = (batch["name"][k], batch["lr"][k].clone(), batch["hr"][k].clone())
    return got


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_ranks_workers_and_a_resumed_run_see_the_same_crops_and_each_image_once(remote, make):
    alone = read(make(remote), first=0, steps=11, batch_size=6, world=1, workers=0)  # six passes
    for number in range(6):
        names = [alone[number * COUNT + place][0] for place in range(COUNT)]
        assert sorted(names) == [f"{k:04d}" for k in range(COUNT)]
    for world, workers, first in ((1, 2, 0), (2, 2, 0), (3, 0, 18), (2, 3, 30)):
        other = read(make(remote), first=first, steps=6, batch_size=6, world=world, workers=workers)
        assert sorted(other) == list(range(first, first + 36))
        for number in set(other) & set(alone):
            assert other[number][0] == alone[number][0]
            assert torch.equal(other[number][1], alone[number][1])
            assert torch.equal(other[number][2], alone[number][2])


def test_cached_shards_beyond_the_limit_are_removed_and_fetched_again(remote, make, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e12)  # makes every local copy old
    largest = max(shard.size for shard in read_index(remote).shards)
    dataset = make(remote, shuffle_shards=1, cache_gb=2 * largest / 1e9)
    seen = set()
    for sample in range(3 * COUNT):
        seen.update(dataset.__getitems__([sample])["name"])
        copies = list((tmp_path / "cache" / "shards").glob("*.safetensors"))
        assert len(copies) <= 3  # one shard may be in transit
    assert len(seen) == COUNT
    assert len(dataset.shards._open) <= 2


def test_shards_in_a_local_folder_are_not_copied(shards, make, tmp_path):
    make(shards).__getitems__(range(COUNT))
    assert not (tmp_path / "cache" / "shards").exists()


def test_random_degradations_need_no_lr_images_in_the_shards(source, make, tmp_path):
    write_shards(sorted(source.iterdir()), tmp_path / "hr_only", images_per_shard=4, lr_scales=[])
    dataset = make(tmp_path / "hr_only", lr_patch_size=8, degradation=NoiseDegradation(scale=2))
    batch = with_lr(dataset.__getitems__([0, 5]), dataset.degradation)
    assert (batch["lr"].shape, batch["hr"].shape) == ((2, 3, 8, 8), (2, 3, 16, 16))
    with pytest.raises(DataError, match=r"has no LR images x2-bicubic-symmetric, only HR; .*lr_scales=\[2\]"):
        make(tmp_path / "hr_only")


def test_writing_resumes_where_it_was_interrupted(source, shards):
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.safetensors")}
    (shards / INDEX).unlink()
    (shards / "000001.json").unlink()
    (shards / ".000001.json.1f.tmp").touch()
    write_shards(sorted(source.iterdir()), shards, images_per_shard=3, lr_scales=[2, 3])
    after = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.safetensors")}
    assert [name for name in sorted(after) if after[name] != before[name]] == ["000001.safetensors"]
    assert [path.name for path in shards.glob(".*")] == [".lock"]  # no temporary files
    first = sorted(source.iterdir())[0]
    first.write_bytes(first.read_bytes() + b" ")  # the file has changed, so its shard is written again
    write_shards(sorted(source.iterdir()), shards, images_per_shard=3, lr_scales=[2, 3])
    changed = [p.name for p in shards.glob("*.safetensors") if p.stat().st_mtime_ns != after[p.name]]
    assert len(changed) == 1


def test_an_old_index_is_removed_before_its_shards_are_overwritten(source, shards):
    (source / "0005.png").write_bytes(b"no image")  # the second run fails before it writes its index
    with pytest.raises(DataError, match=r"0005\.png"):
        write_shards(sorted(source.iterdir()), shards, images_per_shard=2, lr_scales=[2])
    assert not (shards / INDEX).exists()


def test_a_shard_changed_in_the_store_is_refused(remote, make, tmp_path):
    store = fsspec.filesystem("memory")
    for path in store.glob("/bucket/*.safetensors"):
        content = store.cat_file(path)
        store.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"does not match its SHA-256"):
        make(remote).__getitems__([0])
    assert not list((tmp_path / "cache" / "shards").glob("*.safetensors"))


def test_images_whose_size_differs_from_the_index_are_refused(shards, make):
    for path in shards.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({name: value.transpose(1, 2).contiguous() for name, value in tensors.items()}, path)
    with pytest.raises(DataError, match=r"which is not what the index says|missing or incomplete"):
        make(shards).__getitems__([0])


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("pickle-was-run"),))


def test_no_pickle_in_a_shard_or_an_index_is_run(shards, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(_Bomb())
    for path in shards.glob("*.safetensors"):
        path.write_bytes(bomb + bytes(path.stat().st_size - len(bomb)))
    with pytest.raises(DataError, match="is broken"):
        make(shards).__getitems__([0])
    (shards / INDEX).write_bytes(bomb)
    with pytest.raises(DataError, match="is not a valid index"):
        make(shards)
    assert not (tmp_path / "pickle-was-run").exists()


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "a/b.safetensors", "a.pkl"])
def test_an_index_can_only_name_files_in_its_own_folder(shards, name):
    index = json.loads((shards / INDEX).read_text())
    index["shards"][0]["name"] = name
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"is not a valid index: .*safetensors"):
        read_index(str(shards))


def test_an_index_cannot_place_a_cached_shard_outside_the_cache(shards):
    index = json.loads((shards / INDEX).read_text())
    index["shards"][0]["sha256"] = "../../../../tmp/x"  # the cached file's name begins with this
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"is not a valid index: .*0-9a-f"):
        read_index(str(shards))


@pytest.mark.parametrize(
    "url", ["reference://x", "simplecache::memory://x", "github://a:b@/x", "ssh://host/x"]
)
def test_shards_are_fetched_only_from_the_allowed_kinds_of_store(url):
    with pytest.raises(ConfigError, match=r"dataset\.shards_dir: cannot fetch from"):
        read_index(url)


def test_invalid_settings_of_a_streaming_dataset_are_refused(remote, make, tmp_path):
    with pytest.raises(ConfigError, match="shuffle_shards: must be at least 1, got 0"):
        make(remote, shuffle_shards=0)
    with pytest.raises(ConfigError, match=r"cache_gb: 1e-06 GB cannot hold the 2 shard\(s\) in use"):
        make(remote, shuffle_shards=1, cache_gb=1e-6)
    with pytest.raises(DataError, match="write the shards with task=shard"):
        make(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"need 54x54"):
        make(remote, scale=2, lr_patch_size=27).prepare()


def test_the_pickled_dataset_is_small(remote, make):
    dataset = make(remote)
    dataset.__getitems__(range(6))
    assert len(pickle.dumps(dataset)) < 20_000


@pytest.fixture
def df2k(tmp_path, monkeypatch):
    """DIV2K and Flickr2K in the folders of their archives, with a few small images each."""
    for folder, count in (
        ("DIV2K/DIV2K_train_HR", 3),
        ("DIV2K/DIV2K_valid_HR", 2),
        ("Flickr2K/Flickr2K_HR", 4),
    ):
        photographs(tmp_path / "data" / folder, count)
    monkeypatch.setenv("SR_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SR_LAB_CACHE", str(tmp_path / "cache"))


def test_a_process_that_writes_shards_waits_for_another_that_writes_to_the_same_folder(source, tmp_path):
    folder, written = tmp_path / "shards", []

    def write() -> None:
        written.append(write_shards(sorted(source.iterdir()), folder, images_per_shard=3, lr_scales=[]))

    folder.mkdir()
    with FileLock(folder / ".lock"):  # another process is writing
        half_written = folder / ".000000.safetensors.tmp"
        half_written.write_bytes(b"")
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.5)
        assert half_written.exists()
        assert not written
    thread.join()
    assert sum(len(shard.images) for shard in written[0].shards) == COUNT


SMALL = ("scale=2", "dataset.lr_patch_size=12", "budget=paper")


def test_df2k_combines_both_sets_and_can_be_written_into_shards_and_streamed(df2k, tmp_path, capsys):
    config = compose("dataset=df2k", *SMALL)
    dataset = targets.build("dataset", config.dataset)
    dataset.prepare()
    assert (len(dataset), len(dataset.val_files)) == (7, 2)
    assert dataset.__getitems__(range(7))["lr"].shape == (7, 3, 12, 12)
    out = tmp_path / "out"
    config = compose("task=shard", "dataset=df2k", f"output={out}", "images_per_shard=2")
    shard.run(config, out, [])
    said = capsys.readouterr().out.replace("\n", " ")
    assert "7 images (without the 2 that are held out for validation) in 4 shards" in said
    words = ("dataset=streaming", f"dataset.shards_dir={out}", *SMALL)
    config = compose(*words)
    streamed = targets.build("dataset", config.dataset)
    streamed.prepare()
    assert len(streamed) == 7
    assert streamed.__getitems__(range(7))["lr"].shape == (7, 3, 12, 12)
    moved = out.rename(tmp_path / "moved")
    same = compose("dataset=streaming", f"dataset.shards_dir={moved}", "dataset.cache_gb=9", *SMALL)
    assert identity.identity(same)["manifest"] == streamed.manifest()
    assert not any("shards_dir" in key or "cache" in key for key in identity.identity(same)["dataset"])
    with pytest.raises(ConfigError, match="task=shard: needs HR images in files"):
        shard.run(compose("task=shard", f"output={out}", *words[:1], f"dataset.shards_dir={moved}"), out, [])
