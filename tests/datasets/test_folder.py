import multiprocessing
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sr_lab.datasets.folder import FolderDataset
from sr_lab.datasets.images import read_image
from sr_lab.datasets.sample import SamplePhotographs, benchmark_photographs
from sr_lab.datasets.sharing import send
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.resize import downscale_uint8, mod_crop
from sr_lab.training.data_module import StreamSampler, patch_loader


def photographs(folder, count=4, height=53, width=66, first=0):
    """Smooth colour images whose sizes are not multiples of the scale."""
    folder.mkdir(exist_ok=True)
    for index in range(first, first + count):
        noise = np.random.default_rng(index).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width + index, height)).save(folder / f"{index:04d}.png")
    return folder


def lr_of(hr_file, scale):
    hr = torch.from_numpy(read_image(hr_file)).permute(2, 0, 1)[None]
    return downscale_uint8(mod_crop(hr, scale), scale=scale)[0]


@pytest.fixture
def make(tmp_path):
    def build(**settings):
        scale = settings.setdefault("scale", 2)
        if "hr_dir" not in settings:
            settings["hr_dir"] = str(photographs(tmp_path / "hr"))
        settings.setdefault("degradation", BicubicDegradation(scale=scale))
        return FolderDataset(**{"lr_patch_size": 12, "cache_dir": str(tmp_path / "cache")} | settings)

    return build


def test_a_batch_has_the_shapes_and_types_of_the_contract(make):
    dataset = make(scale=3)
    dataset.prepare()
    batch = dataset.__getitems__([0, 1, 2, 100])
    assert batch["lr"].shape == (4, 3, 12, 12)
    assert batch["hr"].shape == (4, 3, 36, 36)
    assert batch["lr"].dtype == batch["hr"].dtype == torch.uint8
    assert batch["lr"].is_contiguous()
    assert batch["hr"].is_contiguous()
    assert batch["dihedral"].shape == (4,)
    assert set(batch["name"][:3]) == {"0000", "0001", "0002"}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_and_hr_patches_are_cut_from_the_same_position_of_the_whole_images(make, scale):
    dataset = make(scale=scale)
    dataset.prepare()
    batch = dataset.__getitems__(range(30))
    for lr, hr, name in zip(batch["lr"], batch["hr"], batch["name"], strict=True):
        file = next(file for file in dataset.files if file.stem == name)
        whole_lr = lr_of(file, scale).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole_lr, (3, 12, 12))[0]
        ((top, left),) = np.argwhere((windows == lr.numpy()).all(axis=(2, 3, 4)))
        whole_hr = read_image(file).transpose(2, 0, 1)
        there = (slice(scale * top, scale * (top + 12)), slice(scale * left, scale * (left + 12)))
        assert (whole_hr[:, there[0], there[1]] == hr.numpy()).all()


def test_a_sample_does_not_depend_on_the_batch_it_is_in(make):
    dataset = make()
    dataset.prepare()
    batch = dataset.__getitems__([5, 9, 2])
    for number, sample in enumerate([5, 9, 2]):
        alone = dataset.__getitems__([sample])
        assert torch.equal(alone["lr"][0], batch["lr"][number])
        assert torch.equal(alone["hr"][0], batch["hr"][number])
        assert alone["name"][0] == batch["name"][number]
        assert alone["dihedral"][0] == batch["dihedral"][number]


def test_without_augmentation_every_dihedral_code_is_zero(make):
    codes = []
    for augment in (True, False):
        dataset = make(augment=augment)
        dataset.prepare()
        codes.append(dataset.__getitems__(range(64))["dihedral"])
    assert set(codes[0].tolist()) == set(range(8))
    assert not codes[1].any()


def test_the_seed_changes_the_stream(make):
    first, same, other = (make(seed=seed) for seed in (0, 0, 1))
    first.prepare()
    batches = [dataset.__getitems__(range(8))["lr"] for dataset in (first, same, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_see_the_same_samples(make, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    dataset = make()
    dataset.prepare()
    expected = dataset.__getitems__([3, 4, 5])  # opens memory maps, which must not be sent to a worker
    loader = DataLoader(
        dataset,
        batch_sampler=[[0, 1, 2], [3, 4, 5]],
        collate_fn=send,
        num_workers=1,
        multiprocessing_context=start,
    )
    *_, batch = loader
    assert torch.equal(batch["lr"], expected["lr"])
    assert torch.equal(batch["hr"], expected["hr"])
    assert batch["name"] == expected["name"]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc")
def test_workers_share_the_pixels_and_their_memory_does_not_grow_between_passes(make, tmp_path):
    dataset = make(hr_dir=str(photographs(tmp_path / "many", count=20, height=300, width=300)))
    dataset.prepare()
    sampler = StreamSampler(lambda: 0, batch_size=len(dataset), rank=0, world=1)
    loader = patch_loader(dataset, sampler, num_workers=2)
    stream, written = iter(loader), []
    for number in range(401):  # each batch is one pass over the images
        next(stream)
        if number in (20, 400):
            written.append([_written(worker.pid) for worker in stream._workers])
    (early, late), images = np.array(written), list((tmp_path / "cache").rglob("*.npy"))
    assert (late - early < 4096).all()  # KiB for the interpreter; the batches of 380 passes would be 16 MB
    for worker in stream._workers:
        maps = [line for line in _smaps(worker.pid) if line.endswith(".npy")]
        assert 0 < len(maps) <= len(images)  # each file is mapped at most once


def _smaps(process):
    with open(f"/proc/{process}/smaps") as file:
        return file.read().splitlines()


def _written(process):
    """Private memory of a process in KiB."""
    return sum(int(line.split()[1]) for line in _smaps(process) if line.startswith("Private_Dirty"))


def test_the_constructor_reads_no_image(make, tmp_path, monkeypatch):
    hr_dir = photographs(tmp_path / "hr")
    monkeypatch.setattr(Image, "open", None)
    dataset = make(hr_dir=str(hr_dir))
    assert len(dataset) == 3
    assert not (tmp_path / "cache").exists()
    assert len(pickle.dumps(dataset)) < 10_000


def test_the_last_images_are_held_out_for_validation_by_default(make, tmp_path):
    hr_dir = str(photographs(tmp_path / "many", count=41))
    dataset = make(hr_dir=hr_dir)
    assert [file.stem for file in dataset.val_files] == ["0039", "0040"]  # 5 % of 41
    assert len(dataset) == 39
    dataset = make(hr_dir=hr_dir, val_count=1)
    assert [file.stem for file in dataset.val_files] == ["0040"]


def test_a_folder_of_validation_images_leaves_all_images_of_the_training_folder_for_training(make, tmp_path):
    val_dir = str(photographs(tmp_path / "val", count=3, first=50))
    assert [file.stem for file in make(val_dir=val_dir).val_files] == ["0050", "0051", "0052"]
    dataset = make(val_dir=val_dir, val_count=2)
    assert [file.stem for file in dataset.val_files] == ["0050", "0051"]
    assert len(dataset) == 4


def test_several_folders_form_one_dataset(make, tmp_path):
    folders = [photographs(tmp_path / "a", 2), photographs(tmp_path / "b", 3, first=10)]
    dataset = make(hr_dir=[str(folder) for folder in folders])
    assert [file.stem for file in dataset.files] == ["0000", "0001", "0010", "0011"]


@pytest.mark.parametrize("mark", ["", "x2", "_x2", "X2"])
def test_lr_images_provided_by_the_user_are_found_and_used(make, tmp_path, mark):
    hr_dir, lr_dir = photographs(tmp_path / "hr"), tmp_path / "lr"
    lr_dir.mkdir()
    for file in hr_dir.iterdir():
        inverted = 255 - lr_of(file, 2).permute(1, 2, 0).numpy()
        Image.fromarray(inverted).save(lr_dir / f"{file.stem}{mark}.bmp")
    dataset = make(hr_dir=str(hr_dir), lr_dir=str(lr_dir))
    dataset.prepare()
    made = make(hr_dir=str(hr_dir))
    made.prepare()
    assert torch.equal(dataset.__getitems__(range(9))["lr"], 255 - made.__getitems__(range(9))["lr"])


def given(hr_dir, lr_dir, write, scale=2):
    """LR images with inverted colours, so that they differ from what a degradation makes."""
    lr_dir.mkdir(exist_ok=True)
    for file in sorted(hr_dir.iterdir()):
        inverted = 255 - lr_of(file, scale).permute(1, 2, 0).numpy()
        Image.fromarray(inverted).save(lr_dir / f"{write(file.stem)}.png")
    return lr_dir


@pytest.mark.parametrize(
    ("hr_name", "lr_name"),
    [("{}_HR", "{}_LR2"), ("img_{}_SRF_2_HR", "img_{}_SRF_2_LR"), ("{}_HR", "{}_LR"), ("{}", "{}x2m")],
    ids=["RealSR", "SelfExSR", "LR", "DIV2K mild"],
)
def test_hr_and_lr_images_in_one_folder_or_two_are_paired_by_their_names(make, tmp_path, hr_name, lr_name):
    hr_dir = photographs(tmp_path / "hr")
    lr_dir = given(hr_dir, tmp_path / "lr", lr_name.format)
    for file in sorted(hr_dir.iterdir()):
        file.rename(hr_dir / f"{hr_name.format(file.stem)}.png")
    apart = make(hr_dir=str(hr_dir), lr_dir=str(lr_dir))
    assert [lr.stem for lr in apart.lr_files] == [lr_name.format(f"000{number}") for number in range(3)]
    if "_LR" in lr_name:
        for file in lr_dir.iterdir():
            file.rename(hr_dir / file.name)
        together = make(hr_dir=str(hr_dir), lr_dir=str(hr_dir))
        assert [file.name for file in together.files] == [file.name for file in apart.files]
        assert [file.name for file in together.lr_files] == [file.name for file in apart.lr_files]


def test_held_out_images_keep_their_given_lr_images(make, tmp_path):
    hr_dir = photographs(tmp_path / "hr")
    lr_dir = given(hr_dir, tmp_path / "lr", "{}x2".format)
    dataset = make(hr_dir=str(hr_dir), lr_dir=str(lr_dir))
    assert dataset.val_lr_files == [lr_dir / "0003x2.png"]
    val_dir = photographs(tmp_path / "val", count=2, first=7)
    val_lr_dir = given(val_dir, tmp_path / "val_lr", "{}_LR".format)
    apart = make(lr_dir=str(lr_dir), val_dir=str(val_dir), val_lr_dir=str(val_lr_dir))
    assert apart.val_lr_files == [val_lr_dir / "0007_LR.png", val_lr_dir / "0008_LR.png"]
    before = apart.manifest()
    Image.new("RGB", (9, 9)).save(val_lr_dir / "0008_LR.png")
    assert apart.manifest() != before
    with pytest.raises(
        DataError, match=r"val_lr/0008_LR.png is 9x9, but .*val/0008.png is 74x53; .* be 37x26"
    ):
        apart.prepare()
    (val_lr_dir / "0008_LR.png").unlink()
    with pytest.raises(
        DataError, match=r"val/0008.png has no LR image in .*val_lr; name its LR image 0008, "
    ):
        make(lr_dir=str(lr_dir), val_dir=str(val_dir), val_lr_dir=str(val_lr_dir))
    with pytest.raises(ConfigError, match=r"dataset.val_lr_dir: .* got only lr_dir; set dataset.val_lr_dir"):
        make(lr_dir=str(lr_dir), val_dir=str(val_dir))


def test_two_lr_images_for_one_hr_image_are_refused(make, tmp_path):
    lr_dir = photographs(tmp_path / "lr")
    (lr_dir / "0001_LR.png").write_bytes((lr_dir / "0001.png").read_bytes())
    with pytest.raises(DataError, match=r"hr/0001.png fits .*lr/0001.png and .*lr/0001_LR.png at scale=2; "):
        make(lr_dir=str(lr_dir))


def test_the_error_for_a_folder_without_images_names_its_sub_folders_that_have_some(make, tmp_path):
    (tmp_path / "photos").mkdir()
    photographs(tmp_path / "photos" / "HR", count=2)
    with pytest.raises(
        DataError, match=rf"photos has no image; its sub-folders .*: 2 in {tmp_path}/photos/HR; "
    ):
        make(hr_dir=str(tmp_path / "photos"))


def test_the_error_for_a_missing_lr_image_names_it(make, tmp_path):
    lr_dir = photographs(tmp_path / "lr", count=2)
    message = (
        r"hr/0002.png has no LR image in .*lr \(1 more have none: 0003.png\); name its LR image 0002, 0002x2,"
    )
    with pytest.raises(DataError, match=message):
        make(lr_dir=str(lr_dir))


def test_the_error_for_an_lr_image_of_the_wrong_size_gives_both_sizes(make, tmp_path):
    dataset = make(lr_dir=str(photographs(tmp_path / "lr", height=27)))
    message = r"lr/0003.png is 69x27, but .*hr/0003.png is 69x53; at scale=2 the LR image must be 34x26"
    with pytest.raises(DataError, match=message):
        dataset.prepare()


def test_every_hr_folder_needs_its_lr_folder(make, tmp_path):
    with pytest.raises(ConfigError, match=r"1 folder\(s\) in hr_dir and 2 in lr_dir"):
        make(lr_dir=[str(tmp_path), str(tmp_path)])


def test_the_error_for_an_image_smaller_than_the_patch_is_raised_before_training(make):
    dataset = make(scale=4, lr_patch_size=14)
    message = r"hr/0000.png is 66x53 pixels, but patches of lr_patch_size=14 at scale=4 need 56x56"
    with pytest.raises(DataError, match=message):
        dataset.prepare()


def test_a_patch_as_large_as_the_image_fits(make):
    dataset = make(scale=4, lr_patch_size=13)  # 53 // 4
    dataset.prepare()
    assert dataset.__getitems__(range(8))["hr"].shape == (8, 3, 52, 52)


@pytest.mark.parametrize("name", ["0000.png", "0003.png"], ids=["training", "validation"])
def test_a_broken_image_is_found_before_training(make, tmp_path, name):
    dataset = make()
    (tmp_path / "hr" / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=rf"cannot read .*hr/{name}"):
        dataset.prepare()


def test_a_degradation_for_another_scale_is_refused(make):
    with pytest.raises(ConfigError, match="degradation: its scale is 4, but the dataset's is 2"):
        make(scale=2, degradation=BicubicDegradation(scale=4))


def test_degradations_with_different_borders_do_not_share_lr_images(make):
    batches = []
    for border in ("symmetric", "replicate"):
        dataset = make(degradation=BicubicDegradation(scale=2, border=border))
        dataset.prepare()
        batches.append(dataset.__getitems__(range(60))["lr"])
    assert not torch.equal(*batches)


def test_reading_samples_needs_a_prepared_cache(make):
    with pytest.raises(DataError, match="call prepare"):
        make().__getitems__([0])


def test_the_manifest_depends_only_on_names_and_sizes(make, tmp_path):
    first = make().manifest()
    moved = tmp_path / "moved"
    (tmp_path / "hr").rename(moved)
    os.utime(moved / "0000.png", ns=(1, 1))
    assert make(hr_dir=str(moved)).manifest() == first
    assert make(hr_dir=str(moved), val_count=2).manifest() != first  # the training images differ
    (moved / "0000.png").write_bytes(b"longer or shorter")
    assert make(hr_dir=str(moved)).manifest() != first


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"val_count": 0}, ConfigError, "val_count must be at least 1, got 0"),
        ({"val_count": 4}, DataError, r"4 image\(s\) in .*hr, but at least 5 are needed, since .* takes 4"),
        ({"lr_patch_size": 0}, ConfigError, "must be at least 1, got 2 and 0"),
        ({"hr_dir": "/nowhere/photos"}, DataError, "there is no folder /nowhere/photos"),
    ],
)
def test_invalid_settings_are_refused(make, settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)


def test_the_sample_photographs_are_complete():
    dataset = SamplePhotographs(scale=4, degradation=BicubicDegradation(scale=4), cache_dir="unused")
    assert len(dataset) == 5
    names = [file.name for file in (*dataset.files, *dataset.val_files, *benchmark_photographs())]
    assert len(set(names)) == 8
    for file in dataset.files:
        with Image.open(file) as image:
            assert min(image.size) >= 4 * dataset.lr_patch_size


def test_the_sample_photographs_are_found_without_importing_scikit_image(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    benchmark_photographs()
    assert "skimage" not in sys.modules
