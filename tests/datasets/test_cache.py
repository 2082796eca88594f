import fcntl
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_lab.datasets.cache import ImageCache, in_parallel
from sr_lab.errors import DataError


def pixels_of(index):
    return np.random.default_rng(index).integers(0, 256, (3, 8 + index, 12), dtype=np.uint8)


class Maker:
    """Makes known images and notes for which files it was asked."""

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


def test_images_come_back(folder, files):
    cache, _ = build(folder, files)
    for index in range(5):
        assert (cache.image(index) == pixels_of(index)).all()


def test_the_manifest_holds_sizes_and_the_hash_of_the_pixels(folder, files):
    cache, _ = build(folder, files)
    hwc = np.ascontiguousarray(pixels_of(2).transpose(1, 2, 0))
    assert cache.records[2] == (10, 12, hashlib.sha256(b"10x12x3" + hwc.tobytes()).hexdigest())
    (manifest,) = folder.glob("manifest-*.json")
    assert [10, 12, cache.records[2].sha256] in json.loads(manifest.read_text()).values()


def test_a_second_build_makes_nothing(folder, files):
    build(folder, files)
    cache, maker = build(folder, files)
    assert maker.asked == []
    assert (cache.image(4) == pixels_of(4)).all()


def test_an_interrupted_build_goes_on(folder, files):
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


def test_files_of_one_name_do_not_share_an_entry(folder, files, tmp_path):
    build(folder, files)
    twin = tmp_path / "other" / files[0].name
    twin.parent.mkdir()
    twin.write_bytes(files[0].read_bytes())
    status = files[0].stat()
    os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
    _, maker = build(folder, [twin])
    assert maker.asked == [0]


def test_images_are_shared_by_lists(folder, files):
    build(folder, files[:2])
    _, maker = build(folder, files)
    assert sorted(maker.asked) == [2, 3, 4]


def test_a_lost_or_short_image_is_made_again(folder, files):
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


def test_open_needs_a_finished_cache(folder, files):
    with pytest.raises(DataError, match=f"cache: {folder} does not hold all 5 images"):
        ImageCache(folder, files).open()


def test_a_missing_file_is_named(folder, files):
    files[2].unlink()
    with pytest.raises(DataError, match=f"cannot read {files[2]}: No such file"):
        build(folder, files)


def test_an_unwritable_folder_is_named(tmp_path, files):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cache: cannot write .*; free space there or set paths.cache_dir"):
        build(tmp_path / "file" / "decoded", files)


def test_a_full_disk_leaves_no_part_of_an_image(folder, files, monkeypatch):
    def save(file, _):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(DataError, match=r"cannot write .*npy: No space left on device; free space there"):
        build(folder, files)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_leftovers_of_a_killed_process_are_removed(folder, files):
    folder.mkdir(parents=True)
    leftover = folder / f".a.npy.{'0' * 32}.tmp"
    leftover.touch()
    with (folder / ".lock").open("a") as lock:  # another process may be writing it
        fcntl.flock(lock, fcntl.LOCK_SH)
        build(folder, files[:2])
        assert leftover.exists()
    build(folder, files)
    assert list(folder.glob(".*")) == [folder / ".lock"]


def test_pickling_drops_the_maps(folder, files):
    cache, _ = build(folder, files)
    cache.image(0)
    content = pickle.dumps(cache)
    assert len(content) < 5000
    copy = pickle.loads(content)
    assert copy._maps == {}
    assert (copy.image(0) == pixels_of(0)).all()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_maps_keep_no_file_open(folder, files):
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
    assert mapped() == []  # let go at once
    for _ in range(3):
        cache.image(0)
        cache.image(1)
    assert len(mapped()) == 2


BUILD = """
import sys
import numpy as np
from PIL import Image
from pathlib import Path
from sr_lab.datasets.folder import FolderDataset
from sr_lab.degradations.bicubic import BicubicDegradation
folder, count = Path(sys.argv[1]), int(sys.argv[2])
(folder / "hr").mkdir()
for number in range(count):
    image = np.full((400, 700, 3), number, dtype=np.uint8)
    Image.fromarray(image).save(folder / "hr" / f"{number:03}.png", compress_level=1)
dataset = FolderDataset(hr_dir=str(folder / "hr"), scale=2, lr_patch_size=16, cache_dir=str(folder / "cache"),
                        degradation=BicubicDegradation(scale=2))
dataset.prepare()
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_the_memory_of_building_does_not_depend_on_the_number_of_images(tmp_path):
    peaks = []
    for count in (24, 120):
        (tmp_path / str(count)).mkdir()
        command = [sys.executable, "-c", BUILD, str(tmp_path / str(count)), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 48 * 1024  # KiB; the 96 images more are 80 MB


def test_two_processes_may_build_at_once(folder, files):
    code = (
        "import sys, numpy as np; from pathlib import Path; from sr_lab.datasets.cache import ImageCache\n"
        "def make(i): return np.random.default_rng(i).integers(0, 256, (3, 8 + i, 12), dtype=np.uint8)\n"
        "ImageCache(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]).build(make, title='')"
    )
    command = [sys.executable, "-c", code, str(folder), *map(str, files)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 2
    cache = ImageCache(folder, files)
    cache.open()
    assert all((cache.image(index) == pixels_of(index)).all() for index in range(5))
    assert len(list(folder.glob("[!.]*"))) == 6


def test_in_parallel_raises_the_first_error(files):
    seen = []
    in_parallel(seen.append, files)
    assert sorted(seen) == files

    def refuse(path):
        raise DataError(path.name)

    with pytest.raises(DataError, match=r"0\.png"):
        in_parallel(refuse, files)
