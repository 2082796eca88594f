"""``task=doctor`` finds every fault in a data folder; ``task=prepare`` downloads data without faults."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.datasets import facts
from sr_lab.datasets.doctor import Finding, examine
from sr_lab.datasets.images import read_image
from sr_lab.datasets.layouts import places
from sr_lab.errors import DataError
from sr_lab.ops.resize import downscale_uint8, imresize
from sr_lab.tasks import doctor, prepare
from tests.command_line import sr_lab
from tests.composing import compose
from tests.loopback import serving


def findings(root: Path, state: str | None = None) -> dict[str, str]:
    """Map each path below ``root`` to its finding."""
    found = [one for one in examine(root) if state in (None, one.state)]
    return {one.where.relative_to(root).as_posix(): one.says for one in found}


def image_file(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(number: int, height: int = 48, width: int = 36) -> np.ndarray:
    """Noise that is so smooth that methods of resizing differ on it as they do on photographs."""
    small = np.random.default_rng(number).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def set14(tmp_path, data_dir) -> Path:
    """A copy of Set14 that a test may damage."""
    folder = tmp_path / "benchmarks" / "Set14" / "HR"
    shutil.copytree(data_dir / "benchmarks" / "Set14" / "HR", folder)
    return folder


def changed(folder: Path, name: str, change: Callable[[Image.Image], Image.Image]) -> None:
    path = folder / name
    with Image.open(path) as image:
        result = change(image)
    result.save(path)


# The stored facts about the published sets.


def test_the_facts_describe_the_images_of_the_five_sets():
    counts = {name: len(images) for name, images in facts.facts().items()}
    assert counts == {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
    assert len(facts.by_hash()) == 328
    bridge = facts.expected("bridge", "Set14")
    assert bridge is not None
    assert (bridge.height, bridge.width, bridge.channels) == (512, 512, 1)


def test_a_hash_covers_the_size_and_the_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert facts.pixel_hash(pixels) == hashlib.sha256(b"2x2x3" + bytes(range(12))).hexdigest()


@pytest.mark.parametrize(
    ("stem", "set_name", "file"),
    [
        ("baby", "Set5", "baby.png"),
        ("img_003_SRF_4_HR", "Set5", "butterfly.png"),
        ("img001", "Urban100", "img_001.png"),
        ("img_002", "Set14", "barbara.png"),
        ("AkkeraKanjinchou", "Manga109", "AkkeraKanjinchou.png"),
    ],
)
def test_a_file_name_from_any_folder_layout_is_understood(stem, set_name, file):
    found = facts.expected(stem, set_name)
    assert found is not None
    assert found.file == file


# Test sets.


def test_unchanged_sets_are_reported_as_correct(data_dir):
    for name, count in (("Set5", 5), ("Set14", 14)):
        (found,) = examine(data_dir / "benchmarks" / name / "HR")
        assert found.state == "right"
        assert f"{name} in our layout: {count} of {count} images right" in found.says


def test_the_version_of_matlabs_own_lr_images_is_recognised(data_dir):
    (new,) = examine(data_dir / "benchmarks" / "Set5" / "LR_matlab" / "X3")
    (old,) = examine(data_dir / "benchmarks" / "Set5" / "LR_matlab_selfexsr" / "X3")
    assert new.state == "right"
    assert "5 of 5 are bit for bit MATLAB's bicubic" in new.says
    assert old.state == "note"
    assert "5 of 5 are bit for bit MATLAB's bicubic of an older version" in old.says


TAMPERED = {
    "baboon.png": (lambda image: image.crop((0, 0, 492, 480)), "cropped: to a multiple of 12: 492x480"),
    "comic.png": (lambda image: image.crop((0, 0, 248, 360)), "cropped: to a multiple of 4: 248x360"),
    "zebra.png": (lambda image: image.crop((3, 3, 583, 388)), "cropped: 580x385 instead of 586x391"),
    "monarch.png": (lambda image: image.resize((384, 256)), "half-size: 384x256 instead of 768x512"),
    "ppt3.png": (lambda image: image.resize((264, 328)), "half-size: 264x328 instead of 529x656"),
    "man.png": (lambda image: image.resize((128, 128)), "quarter-size: 128x128"),
    "foreman.png": (
        lambda image: image.rotate(90, expand=True),
        "rotated: this is Set14/foreman.png, rotated clockwise by 270 degrees",
    ),
    "pepper.png": (lambda image: image.resize((600, 512)), "other size: 600x512"),
    "lenna.png": (lambda image: image.crop((0, 0, 400, 512)), "other size: 400x512"),
    "coastguard.png": (
        lambda image: image.point(lambda value: value ^ 1),
        "recompressed: 352x288",
    ),
}


def test_each_tampered_image_is_reported_by_name(set14):
    for name, (change, _) in TAMPERED.items():
        changed(set14, name, change)
    with Image.open(set14 / "barbara.png") as image:
        image.save(set14 / "barbara.jpg", quality=95)
    (set14 / "barbara.png").unlink()
    shutil.move(set14 / "flowers.png", set14 / "face.png")
    (set14 / "bridge.png").write_bytes((set14 / "bridge.png").read_bytes()[:2000])
    image_file(set14 / "holiday.png", noise(0))
    wrong = findings(set14, "wrong")
    assert wrong["."].startswith("Set14 in our layout: 1 of 14 images right, 1 of them under other names; ")
    for part in ("2 half-size", "3 cropped", "2 recompressed", "1 broken", "1 superfluous", "1 missing"):
        assert part in wrong["."]
    for name, (_, said) in TAMPERED.items():
        assert wrong[name].startswith(said), (name, wrong[name])
    assert wrong["barbara.jpg"].startswith("recompressed: JPEG 720x576, the right size")
    assert wrong["face.png"] == "missing"
    renamed = findings(set14, "note")["face.png"]
    assert renamed == "renamed: right, under another name: this is Set14/flowers.png"
    assert wrong["bridge.png"].startswith("broken: cannot read")
    assert wrong["holiday.png"] == "superfluous: Set14 has no image of this name"


def test_a_set_with_its_published_pixels_is_called_by_its_name(set14):
    files = sorted(set14.iterdir())
    assert facts.as_published("Set14", files) == "Set14, 14 of 14 as published"
    assert facts.as_published("mine", files) == "mine, 14 images"


def test_a_changed_set_is_not_called_the_published_set(set14):
    changed(set14, "zebra.png", lambda image: image.crop((0, 0, 100, 100)))
    changed(set14, "man.png", lambda image: image.crop((0, 0, 508, 508)))
    (set14 / "lenna.png").unlink()
    says = facts.as_published("Set14", sorted(set14.iterdir()))
    assert says.startswith("not the published Set14: ")
    assert "1 image of another size" in says
    assert "1 image cropped" in says
    assert says.endswith("1 missing, 11 as published")


def test_a_set_of_another_size_is_not_the_published_set(tmp_path):
    files = [image_file(tmp_path / fact.file, noise(n)) for n, fact in enumerate(facts.facts()["Set5"])]
    assert facts.as_published("Set5", files) == "not the published Set5: 5 images of another size"


def test_an_image_of_another_set_is_reported(tmp_path, data_dir):
    folder = tmp_path / "Set5" / "HR"
    shutil.copytree(data_dir / "benchmarks" / "Set5" / "HR", folder)
    shutil.copy(data_dir / "benchmarks" / "Set14" / "HR" / "face.png", folder / "head.png")
    assert findings(folder, "wrong")["head.png"] == "another image: these are the pixels of Set14/face.png"


def test_a_duplicate_image_is_reported(set14):
    shutil.copy(set14 / "man.png", set14 / "man_copy.png")
    assert findings(set14, "wrong") == {".": "Set14 in our layout: 14 of 14 images right; man.png twice"}
    assert findings(set14, "note") == {
        "man_copy.png": "renamed: right, under another name: this is Set14/man.png"
    }


def test_correct_images_under_other_names_are_accepted(set14):
    names = sorted(path.name for path in set14.iterdir())
    for name in names:
        (set14 / name).rename(set14 / f"old {name}")
    for name, other in zip(names, [*names[1:], "first.png"], strict=True):  # every name is another image's
        (set14 / f"old {name}").rename(set14 / other)
    found = findings(set14)
    assert found["."] == "Set14 in our layout: 14 of 14 images right, 14 of them under other names"
    assert found["first.png"] == f"renamed: right, under another name: this is Set14/{names[-1]}"
    assert len(found) == 15
    assert not findings(set14, "wrong")
    assert facts.as_published("Set14", sorted(set14.iterdir())) == "Set14, 14 of 14 as published"


@pytest.mark.parametrize(
    ("turn", "how"),
    [
        (Image.Transpose.ROTATE_90, "rotated clockwise by 270 degrees"),
        (Image.Transpose.ROTATE_180, "rotated clockwise by 180 degrees"),
        (Image.Transpose.ROTATE_270, "rotated clockwise by 90 degrees"),
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
        (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored and rotated clockwise by 180 degrees"),
        (Image.Transpose.TRANSPOSE, "mirrored and rotated clockwise by 90 degrees"),
    ],
)
def test_a_rotated_or_mirrored_image_is_reported_as_such_whatever_its_name(set14, turn, how):
    changed(set14, "man.png", lambda image: image.transpose(turn))  # a square
    (set14 / "man.png").rename(set14 / "mine.png")
    wrong = findings(set14, "wrong")
    kind = how.partition(" ")[0]
    assert wrong == {
        ".": f"Set14 in our layout: 13 of 14 images right; 1 {kind}",
        "mine.png": f"{kind}: this is Set14/man.png, {how}",
    }
    says = facts.as_published("Set14", sorted(set14.iterdir()))
    assert says == f"not the published Set14: 1 image {kind}, 13 as published"


def test_a_grey_image_in_three_channels_and_a_colour_image_in_one_are_noted(set14):
    changed(set14, "bridge.png", lambda image: image.convert("RGB"))
    changed(set14, "man.png", lambda image: image.convert("L"))
    assert findings(set14, "wrong") == {}
    notes = findings(set14, "note")
    assert "in three equal channels instead of 1" in notes["bridge.png"]
    assert "in one channel instead of 3" in notes["man.png"]


def test_a_cropped_set_is_accepted_in_basicsrs_layout_and_is_a_fault_elsewhere(tmp_path, data_dir):
    for folder in ("Set5/GTmod12", "benchmarks/Set5/HR"):
        for file in (data_dir / "benchmarks" / "Set5" / "HR").iterdir():
            pixels = read_image(file)
            height, width = (side - side % 12 for side in pixels.shape[:2])
            image_file(tmp_path / folder / file.name, pixels[:height, :width])
    found = {one.where.relative_to(tmp_path).as_posix(): one for one in examine(tmp_path)}
    assert found["Set5/GTmod12"].state == "note"
    assert "as in this layout" in found["Set5/GTmod12/baby.png"].says
    assert found["benchmarks/Set5/HR"].state == "wrong"
    assert (
        found["benchmarks/Set5/HR/baby.png"].says
        == "cropped: to a multiple of 12: 504x504 instead of 512x512 pixels"
    )


# LR images.


def pairs(root: Path, hr: str, lr: str, shrink: Callable[[np.ndarray], np.ndarray], count: int = 3) -> None:
    for number in range(1, count + 1):
        image_file(root / hr.format(number), noise(number))
        image_file(root / lr.format(number), shrink(noise(number)))


def matlab(hr: np.ndarray, scale: int = 4) -> np.ndarray:
    planes = torch.from_numpy(hr).permute(2, 0, 1)[None]
    return downscale_uint8(planes, scale=scale)[0].permute(1, 2, 0).numpy()


def matlab_double(hr: np.ndarray) -> np.ndarray:
    planes = imresize(torch.from_numpy(hr).permute(2, 0, 1)[None].double(), denominator=4)
    return (planes + 0.5).floor().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


def pillow(resample: Image.Resampling) -> Callable[[np.ndarray], np.ndarray]:
    return lambda hr: np.array(Image.fromarray(hr).resize((hr.shape[1] // 4, hr.shape[0] // 4), resample))


def recompressed(hr: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(matlab(hr)).save(file, "JPEG", quality=95, subsampling=0)
    return np.array(Image.open(file))


def brighter(hr: np.ndarray) -> np.ndarray:
    return np.clip(matlab(hr).astype(int) + 60, 0, 255).astype(np.uint8)


TREES = {
    "EDSR": ("DIV2K/DIV2K_train_HR/{:04d}.png", "DIV2K/DIV2K_train_LR_bicubic/X4/{:04d}x4.png"),
    "EDSR's benchmarks": ("benchmark/Set5/HR/{}.png", "benchmark/Set5/LR_bicubic/X4/{}x4.png"),
    "BasicSR": ("DIV2K_train_HR_sub/{:04d}_s001.png", "DIV2K_train_LR_bicubic/X4_sub/{:04d}_s001.png"),
    "BasicSR's benchmarks": ("Set5/GTmod12/{}.png", "Set5/LRbicx4/{}.png"),
    "Hugging Face": ("Set5_HR/{}.png", "Set5_LR_x4/{}.png"),
    "Hugging Face's folders": ("train/hr/{}.png", "train/lr_x4/{}.png"),
    "SelfExSR": ("Set5/image_SRF_4/img_{:03d}_SRF_4_HR.png", "Set5/image_SRF_4/img_{:03d}_SRF_4_LR.png"),
}


@pytest.mark.parametrize("tree", TREES)
def test_every_folder_layout_is_recognised_and_its_pairs_are_found(tree, tmp_path):
    hr, lr = TREES[tree]
    pairs(tmp_path, hr, lr, matlab)
    (place,) = (place for place in places(tmp_path) if place.role == "LR")
    assert place.tree == tree.split("'")[0]
    assert place.scale == 4
    (found,) = (one for one in examine(tmp_path) if "x4 LR" in one.says)
    assert found.state == "right"
    assert "3 of 3 fit their HR images; 3 of 3 are bit for bit MATLAB's bicubic" in found.says


@pytest.mark.parametrize(
    ("shrink", "state", "said"),
    [
        (matlab_double, "note", "3 of 3 are bit for bit MATLAB's bicubic of double images"),
        (pillow(Image.Resampling.BICUBIC), "wrong", "3 of 3 are bit for bit Pillow's bicubic ("),
        (pillow(Image.Resampling.LANCZOS), "wrong", "3 of 3 are bit for bit Pillow's Lanczos ("),
        (lambda hr: hr[::4, ::4], "wrong", "3 of 3 are bit for bit nearest neighbour (OpenCV"),
        (recompressed, "wrong", "3 of 3 are recompressed, converted or shifted (000"),
        (brighter, "wrong", "3 of 3 are made by an unknown resize"),
    ],
    ids=["double", "Pillow", "Lanczos", "every fourth pixel", "JPEG", "brighter"],
)
def test_the_resize_of_lr_images_is_recognised(shrink, state, said, tmp_path):
    pairs(tmp_path, *TREES["EDSR"], shrink)
    below = [one for one in examine(tmp_path) if "LR_bicubic" in str(one.where)]
    assert below[0].state == state
    assert any(said in one.says for one in below), below


def test_an_unknown_degradation_is_not_compared(tmp_path):
    hr, lr = TREES["EDSR"]
    pairs(tmp_path, hr, lr.replace("bicubic", "unknown"), brighter)
    (found,) = (one for one in examine(tmp_path) if "x4 LR" in one.says)
    assert found.state == "right"
    assert "not bicubic according to the name of the folder" in found.says


def test_missing_images_and_pairs_with_wrong_sizes_are_reported(tmp_path):
    hr, lr = TREES["Hugging Face"]
    pairs(tmp_path, hr, lr, matlab, count=4)
    (tmp_path / hr.format(1)).unlink()
    (tmp_path / lr.format(2)).unlink()
    image_file(tmp_path / lr.format(3), matlab(noise(3))[:-1])
    wrong = findings(tmp_path, "wrong")
    assert "1 of 3 fit their HR images, and 1 HR images have no LR image" in wrong["Set5_LR_x4"]
    assert wrong["Set5_LR_x4/1.png"].startswith("has no HR image in")
    assert wrong["Set5_LR_x4/3.png"] == "9x11 does not fit its HR image 36x48 at x4"


def test_lr_images_without_hr_images_are_reported(tmp_path):
    image_file(tmp_path / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png", noise(1))
    assert "without HR images in" in findings(tmp_path, "wrong")["DIV2K_train_LR_bicubic/X2"]


# Folder layouts of data from real cameras and of other programs: HR and LR images at scale 4.
CAMERAS = {
    "RealSR": ("Canon/Train/4/Canon_{:03d}_HR.png", "Canon/Train/4/Canon_{:03d}_LR4.png"),
    "RealSR by role": ("RealSR/HR/Canon_{:03d}_HR.png", "RealSR/LR4/Canon_{:03d}_LR4.png"),
    "DRealSR": ("Train_x4/train_HR/DSC_{}_x4.png", "Train_x4/train_LR/DSC_{}_x1.png"),
    "KAIR": ("trainsets/trainH/{:04d}.png", "trainsets/trainL/{:04d}x4.png"),
    "KAIR's own": ("data/H/{}.png", "data/L/{}.png"),
    "GT and LQ": ("data/GT/{}.png", "data/LQ/{}.png"),
}


@pytest.mark.parametrize("tree", CAMERAS)
def test_pairs_of_a_real_camera_or_another_program_are_found(tree, tmp_path):
    pairs(tmp_path, *CAMERAS[tree], brighter)
    (found,) = (one for one in examine(tmp_path) if " LR images" in one.says)
    assert "x4 LR images in" in found.says
    assert "3 of 3 fit their HR images" in found.says
    assert found.state == "note"  # the LR images are not MATLAB's bicubic, but no path claims that they are


@pytest.mark.parametrize("tree", [*CAMERAS, *TREES])
def test_unpaired_images_of_any_layout_are_wrong(tree, tmp_path):
    hr, lr = (CAMERAS | TREES)[tree]
    pairs(tmp_path, hr, lr, matlab, count=4)
    for number in (1, 2):
        (tmp_path / hr.format(number)).unlink()
    (tmp_path / lr.format(3)).unlink()
    wrong = findings(tmp_path, "wrong")
    assert any(
        "1 of 3 fit their HR images, and 1 HR images have no LR image" in says for says in wrong.values()
    )
    for number in (1, 2):
        assert wrong[lr.format(number)].startswith("has no HR image in")


@pytest.mark.parametrize("tree", ["RealSR", "KAIR", "GT and LQ"])
def test_lr_images_alone_are_wrong_and_hr_images_alone_are_not(tree, tmp_path):
    hr, lr = CAMERAS[tree]
    for folder, name in (("hr", hr), ("lr", lr)):
        image_file(tmp_path / folder / name.format(1), noise(1))
    assert findings(tmp_path / "hr", "wrong") == {}
    assert any(
        "LR images without HR images in" in says for says in findings(tmp_path / "lr", "wrong").values()
    )


def test_photographs_with_hr_or_lr_in_their_names_are_not_paired(tmp_path):
    for name in ("beach", "lake", "hill", "sunset_LR", "office_HR"):
        image_file(tmp_path / "photos" / f"{name}.png", noise(1))
    assert findings(tmp_path) == {"photos": "photos: 5 images, smallest side 36"}


# Training sets and other folders.


def test_an_incomplete_div2k_and_images_of_half_size_are_reported(tmp_path):
    folder = tmp_path / "DIV2K" / "DIV2K_valid_HR"
    for number in range(802, 901):
        image_file(folder / f"{number:04d}.png", np.zeros((4, 2040, 3), np.uint8))
    image_file(folder / "0900.png", np.zeros((678, 1020, 3), np.uint8))
    wrong = findings(tmp_path, "wrong")
    assert "DIV2K (validation) in EDSR's layout: 99 images" in wrong["DIV2K/DIV2K_valid_HR"]
    assert "1 missing, starting with 0801" in wrong["DIV2K/DIV2K_valid_HR"]
    assert wrong["DIV2K/DIV2K_valid_HR/0900.png"].startswith("half-size or another image: 1020x678")
    image_file(folder / "0801.png", np.zeros((4, 2040, 3), np.uint8))
    image_file(folder / "0900.png", np.zeros((4, 2040, 3), np.uint8))
    assert findings(tmp_path, "wrong") == {}
    image_file(folder / "0901.png", np.zeros((4, 2040, 3), np.uint8))
    assert "1 more than DIV2K (validation) has" in findings(tmp_path, "wrong")["DIV2K/DIV2K_valid_HR"]


def test_photos_are_read_completely(tmp_path):
    good = image_file(tmp_path / "photos" / "a.png", noise(0))
    (tmp_path / "photos" / "b.png").write_bytes(good.read_bytes()[:-40])
    found = findings(tmp_path)
    assert found["photos"] == "photos: 2 images, smallest side 36; 1 wrong"
    assert found["photos/b.png"].startswith("broken: cannot read")


def test_databases_and_archives_are_noted(tmp_path):
    image_file(tmp_path / "a.png", noise(0))
    (tmp_path / "DIV2K_train_HR_sub.lmdb").mkdir()
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"")
    (tmp_path / "Set5_HR.tar.gz").write_bytes(b"")
    notes = findings(tmp_path, "note")
    assert set(notes) == {"DIV2K_train_HR_sub.lmdb", "train-00000-of-00001.parquet", "Set5_HR.tar.gz"}


def test_many_faults_of_a_kind_are_summarised(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    found = list(examine(tmp_path))
    assert sum("broken" in one.says for one in found) == 20
    assert Finding("wrong", tmp_path, "and 10 more of this kind") in found


def test_links_in_a_loop_are_followed_once(tmp_path):
    image_file(tmp_path / "photos" / "a.png", noise(0))
    (tmp_path / "photos" / "up").symlink_to(tmp_path)
    assert len(list(examine(tmp_path))) == 1


def test_an_empty_and_a_missing_folder_are_reported(tmp_path):
    assert findings(tmp_path, "wrong") == {".": "holds no images"}
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; set folder="):
        list(examine(tmp_path / "nowhere"))


# The command line.


def test_the_doctor_exits_with_1_if_something_is_wrong(tmp_path, set14):
    changed(set14, "baboon.png", lambda image: image.crop((0, 0, 492, 480)))
    bad = sr_lab(tmp_path, "task=doctor", SR_LAB_DATA=str(tmp_path))
    assert bad.returncode == 1, bad.stderr
    assert "Set14 in our layout: 13 of 14 images right; 1 cropped" in bad.stdout
    assert "benchmarks/Set14/HR/baboon.png" in bad.stdout
    assert "cropped: to a multiple of 12: 492x480 instead of 500x480" in bad.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", ["B100", "BSD100", "cbsd100", "b100"])
def test_a_set_is_compared_with_the_published_set_whatever_its_usual_name_is(tmp_path, name):
    image_file(tmp_path / "a.png", noise(0))
    assert facts.as_published(name, [tmp_path / "a.png"]).startswith("not the published B100: ")


def test_a_folder_without_faults_gives_exit_code_0_and_its_name_is_shown_without_markup(
    tmp_path, set14, capsys
):
    image_file(tmp_path / "[red]photos" / "a.png", noise(0))
    doctor.run(compose("task=doctor", f"folder='{tmp_path}'"), tmp_path, [])
    printed = capsys.readouterr().out
    assert "Set14 in our layout: 14 of 14 images right" in printed
    assert "[red]photos" in printed
    assert f"{tmp_path}: 2 right" in printed


def test_prepare_downloads_a_test_set_from_the_users_own_server_and_decodes_images(
    tmp_path, data_dir, capsys
):
    hr_dir = tmp_path / "hr"
    for number in range(3):
        image_file(hr_dir / f"{number}.png", noise(number))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for image in sorted((data_dir / "benchmarks" / "Set5" / "HR").iterdir()):
            file.add(image, f"Set5_HR/{image.name}")
    with serving() as server:
        server.files["/Set5_HR.tar.gz"] = archive.getvalue()
        server.cuts = [0, 100_000]
        config = compose(
            *("task=prepare", "benchmark=set5", "dataset=folder", f"mirror='{server.url}'"),
            *(f"dataset.hr_dir='{hr_dir}'", "dataset.lr_patch_size=8", "scale=2"),
            *(f"paths.data_dir='{tmp_path / 'data'}'", f"paths.cache_dir='{tmp_path / 'cache'}'"),
        )
        prepare.run(config, tmp_path, [])
    printed = capsys.readouterr().out
    assert f"Set5: 5 images in {tmp_path}/data/benchmarks/Set5/HR, every pixel as published" in printed
    assert "dataset: nothing to download" in printed
    assert "dataset: 2 training images decoded for x2" in printed
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4
    prepare.run(config.model_copy(update={"decode": False}), tmp_path, [])
    assert "Set5: is already there, with every pixel right" in capsys.readouterr().out


def test_prepare_tries_every_set_and_reports_a_set_that_is_not_for_download(tmp_path, capsys):
    config = compose(
        "task=prepare",
        "benchmark=manga109",
        "benchmark.sets=[Manga109,sample]",
        "decode=false",
        f"paths.data_dir='{tmp_path}'",
    )
    with pytest.raises(DataError, match=r"^prepare: Manga109 cannot be downloaded: its terms forbid"):
        prepare.run(config, tmp_path, [])
    assert "Manga109: failed" in capsys.readouterr().out
