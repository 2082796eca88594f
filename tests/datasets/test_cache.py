import hashlib
import json
import os
import pickle
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from sr_lab.datasets.cache import ImageCache, in_parallel
from sr_lab.datasets.folder import FolderDataset
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.errors import DataError
from tests import prepared


def pixels_of(index):
    return np.random.default_rng(index).integers(0, 256, (3, 8 + index, 12), dtype=np.uint8)


class Maker:
    """Makes known images and records the indices that it was asked for."""

    def __init__(self, fail_at=None):
        self.asked = []
        self.fail_at = fail_at

    def __call__(self, index):
        self.asked.append(index)
        if index == self.fail_at:
            raise DataError("broken")
        return pixels_of(index)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "decoded"


def build(folder, files, **options):
    cache, maker = ImageCache(folder, files), Maker(**options)
    cache.build(maker, title="")
    return cache, maker


def test_cached_images_equal_the_ones_that_were_made(folder, files):
    cache, _ = build(folder, files)
    for index in range(5):
        assert (cache.image(index) == pixels_of(index)).all()


def test_the_manifest_records_the_size_of_an_image_and_the_hash_of_its_pixels(folder, files):
    cache, _ = build(folder, files)
    hwc = np.ascontiguousarray(pixels_of(2).transpose(1, 2, 0))
    assert cache.records[2] == (10, 12, hashlib.sha256(b"10x12x3" + hwc.tobytes()).hexdigest())
    (manifest,) = folder.glob("manifest-*.json")
    assert [10, 12, cache.records[2].sha256] in json.loads(manifest.read_text()).values()


def test_a_second_build_makes_no_image(folder, files):
    build(folder, files)
    cache, maker = build(folder, files)
    assert maker.asked == []
    assert (cache.image(4) == pixels_of(4)).all()


def test_an_interrupted_build_resumes(folder, files):
    with pytest.raises(DataError, match="broken"):
        build(folder, files, fail_at=3)
    finished = len(list(folder.glob("*.npy")))
    assert list(folder.glob("manifest-*")) == list(folder.glob(".*.tmp")) == []
    _, maker = build(folder, files)
    assert len(maker.asked) == 5 - finished
    assert 3 in maker.asked


def test_a_changed_file_is_made_again(folder, files):
    build(folder, files)
    os.utime(files[1], ns=(1, 1))
    _, maker = build(folder, files)
    assert maker.asked == [1]


def test_files_with_the_same_name_do_not_share_an_entry(folder, files, tmp_path):
    build(folder, files)
    twin = tmp_path / "other" / files[0].name
    twin.parent.mkdir()
    twin.write_bytes(files[0].read_bytes())
    status = files[0].stat()
    os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
    _, maker = build(folder, [twin])
    assert maker.asked == [0]


def test_lists_of_files_share_the_images_they_have_in_common(folder, files):
    build(folder, files[:2])
    _, maker = build(folder, files)
    assert sorted(maker.asked) == [2, 3, 4]


def test_a_missing_or_truncated_image_is_made_again(folder, files):
    cache, _ = build(folder, files)
    lost, short = (folder / cache._names[index] for index in (0, 2))
    lost.unlink()
    short.write_bytes(short.read_bytes()[:200])
    with pytest.raises(DataError, match="does not hold all 5 images; call prepare"):
        ImageCache(folder, files).open()
    cache, maker = build(folder, files)
    assert sorted(maker.asked) == [0, 2]
    assert (cache.image(2) == pixels_of(2)).all()


def test_a_damaged_manifest_is_written_again(folder, files):
    build(folder, files)
    (manifest,) = folder.glob("manifest-*.json")
    manifest.write_text("{")
    cache, maker = build(folder, files)
    assert maker.asked == []
    assert len(cache.records) == 5


def test_opening_needs_a_complete_cache(folder, files):
    with pytest.raises(DataError, match=f"cache: {folder} does not hold all 5 images"):
        ImageCache(folder, files).open()


def test_the_error_for_a_missing_file_names_it(folder, files):
    files[2].unlink()
    with pytest.raises(DataError, match=f"cannot read {files[2]}: No such file"):
        build(folder, files)


def test_the_error_for_an_unwritable_folder_names_it(tmp_path, files):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cache: cannot write .*; free space there or set paths.cache_dir"):
        build(tmp_path / "file" / "decoded", files)


def test_a_full_disk_leaves_no_partial_image(folder, files, monkeypatch):
    def save(file, _):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(DataError, match=r"cannot write .*npy: No space left on device; free space there"):
        build(folder, files)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_leftovers_of_a_killed_process_are_removed_only_while_no_other_process_builds(folder, files, capsys):
    folder.mkdir(parents=True)
    leftover = folder / f".a.npy.{'0' * 32}.tmp"
    leftover.touch()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(folder / ".lock"):  # another process is building
            building = pool.submit(build, folder, files)
            with pytest.raises(TimeoutError):
                building.result(timeout=0.2)
            assert leftover.exists()
        building.result()
    assert list(folder.glob(".*")) == [folder / ".lock"]
    assert f"waiting for another process that writes to {folder}" in capsys.readouterr().err.replace("\n", "")


def test_pickling_drops_the_memory_maps(folder, files):
    cache, _ = build(folder, files)
    cache.image(0)
    content = pickle.dumps(cache)
    assert len(content) < 5000
    copy = pickle.loads(content)
    assert copy._maps == {}
    assert (copy.image(0) == pixels_of(0)).all()


def test_other_users_of_the_folder_can_take_the_lock(folder, files):
    build(folder, files)
    assert (folder / ".lock").stat().st_mode & 0o666 == 0o666


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_memory_maps_keep_no_file_open(folder, files):
    cache, _ = build(folder, files)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(5):
        cache.image(index)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs /proc")
def test_opening_maps_no_image_and_each_image_is_mapped_once(folder, files):
    build(folder, files)
    cache = ImageCache(folder, files)
    cache.open()

    def mapped():
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]

    assert mapped() == []
    cache.map(1)
    assert mapped() == []  # this map is not kept
    for _ in range(3):
        cache.image(0)
        cache.image(1)
    assert len(mapped()) == 2


def build_many(folder: str) -> None:
    """Print the peak memory after building a few images, and after ten times as many."""
    for count in (24, 240):
        hr_dir = Path(folder) / str(count)
        hr_dir.mkdir()
        for number in range(count):
            Image.new("RGB", (700, 400), (number, 0, 0)).save(hr_dir / f"{number:03}.bmp")
        cache_dir, degradation = str(hr_dir / "cache"), BicubicDegradation(scale=2)
        FolderDataset(hr_dir=str(hr_dir), scale=2, cache_dir=cache_dir, degradation=degradation).prepare()
        status = Path("/proc/self/status").read_text()
        sys.stdout.write(re.search(r"VmHWM:\s*(\d+)", status)[1] + "\n")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_the_memory_that_building_takes_does_not_depend_on_the_number_of_images(tmp_path):
    build = "tests.datasets.test_cache:build_many"
    done = prepared.run(build, str(tmp_path), folder=tmp_path, environment=os.environ)
    first, last = map(int, done.stdout.split())
    assert last - first < 120 * 1024  # KiB; the pixels of the 216 additional images are 180 MB


def test_two_builds_at_the_same_time_make_each_image_once(folder, files):
    made = []

    def make(index):
        made.append(index)
        time.sleep(0.05)
        return pixels_of(index)

    # Threads, since a forked process may wait forever for a lock that a thread of this process held; a file
    # lock excludes other threads that open the file just as it excludes other processes.
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(ImageCache(folder, files).build, make, title="") for _ in range(2)]
        assert [build.result(timeout=60) for build in builds] == [None, None]
    assert sorted(made) == list(range(5))
    cache = ImageCache(folder, files)
    cache.open()
    assert all((cache.image(index) == pixels_of(index)).all() for index in range(5))
    assert len(list(folder.glob("[!.]*"))) == 6


def test_in_parallel_raises_the_error_of_a_failed_call(files):
    seen = []
    in_parallel(seen.append, files)
    assert sorted(seen) == files

    def refuse(path):
        raise DataError(path.name)

    with pytest.raises(DataError, match=r"0\.png"):
        in_parallel(refuse, files)
