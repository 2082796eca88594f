import hashlib
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.datasets.benchmark import BenchmarkSet, benchmark_files
from sr_lab.datasets.images import is_grey, read_image
from sr_lab.errors import ConfigError, DataError
from sr_lab.protocol import PROTOCOLS


@pytest.fixture
def folder(tmp_path):
    """The folder ``<tmp_path>/benchmarks/Two/HR`` with a colour image and a grey image."""
    path = tmp_path / "benchmarks" / "Two" / "HR"
    path.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (41, 46, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path / "colour.png")
    Image.fromarray(pixels[..., 0]).save(path / "grey.png")
    return path


def two(tmp_path, protocol="rgb_uint8", scale=4, **settings):
    files = benchmark_files(tmp_path, "Two")
    return BenchmarkSet(name="Two", files=files, scale=scale, protocol=PROTOCOLS[protocol], **settings)


@pytest.mark.parametrize(("protocol", "channels"), [("rgb_uint8", 3), ("rgb_double", 3), ("classic_y", 1)])
def test_an_item_can_be_measured_by_its_protocol(folder, tmp_path, protocol, channels):
    item = two(tmp_path, protocol)[0]
    assert item["name"] == "colour"
    assert item["hr"].dtype == torch.uint8
    assert item["hr"].shape == (3, 40, 44)
    assert item["lr"].dtype == torch.float32
    assert item["lr"].shape == (channels, 10, 11)
    sr = PROTOCOLS[protocol].bicubic(item["lr"][None], 4)
    values = PROTOCOLS[protocol].measure(sr, item["hr"][None], 4, grey=item["grey"])
    assert all(value.isfinite().all() for value in values)


def test_grey_files_are_recognised_and_downscaled_as_the_protocol_says(folder, tmp_path):
    images = two(tmp_path, "classic_y", scale=2)
    assert [images[index]["grey"] for index in range(2)] == [False, True]
    hr = images[1]["hr"][None]
    assert torch.equal(images[1]["lr"][None], PROTOCOLS["classic_y"].make_lr(hr, 2, grey=True))


def test_the_limit_keeps_the_first_images(folder, tmp_path):
    assert len(two(tmp_path)) == 2
    assert [item["name"] for item in two(tmp_path, limit=1)] == ["colour"]
    with pytest.raises(ConfigError, match="benchmark Two: limit must be at least 1, got 0"):
        two(tmp_path, limit=0)


def test_the_digest_covers_names_pixels_channels_and_given_lr_images_but_no_format(folder, tmp_path):
    def saved(name, *lr_values):
        files = []
        for value in lr_values:
            files.append(tmp_path / name / f"{len(files)}.png")
            files[-1].parent.mkdir(exist_ok=True)
            Image.new("RGB", (11, 10), (value, 0, 0)).save(files[-1])
        return files

    first = two(tmp_path).digest()
    given = [two(tmp_path, lr_files=saved(*lr)).digest() for lr in (("a", 1, 2), ("b", 1, 2), ("c", 1, 3))]
    assert given[0] == given[1]
    others = {given[0], given[2]}
    colour = Image.open(folder / "colour.png")
    (folder / "colour.png").unlink()
    colour.save(folder / "colour.bmp")
    assert two(tmp_path).digest() == first
    (folder / "colour.bmp").rename(folder / "color.bmp")
    others.add(two(tmp_path).digest())
    colour.putpixel((0, 0), (1, 2, 3))
    colour.save(folder / "colour.bmp")
    (folder / "color.bmp").unlink()
    others.add(two(tmp_path).digest())
    Image.open(folder / "grey.png").convert("RGB").save(folder / "grey.png")
    others.add(two(tmp_path).digest())
    assert len({first, *others}) == 6


def test_a_benchmark_set_is_found_by_its_name(folder, tmp_path):
    images = BenchmarkSet.of("Two", data_dir=tmp_path, scale=2, protocol=PROTOCOLS["rgb_uint8"])
    assert (images.name, len(images)) == ("Two", 2)


def test_div2k_means_its_validation_images_unless_the_benchmarks_folder_has_a_div2k(folder, tmp_path):
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/DIV2K/DIV2K_valid_HR; "):
        benchmark_files(tmp_path, "DIV2K")
    own = tmp_path / "DIV2K" / "DIV2K_valid_HR"
    own.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(own / "0801.png")
    assert benchmark_files(tmp_path, "DIV2K") == [own / "0801.png"]
    folder.parent.rename(tmp_path / "benchmarks" / "DIV2K")
    names = [path.name for path in benchmark_files(tmp_path, "DIV2K")]
    assert names == ["colour.png", "grey.png"]


def test_the_error_for_a_missing_set_names_the_folder_and_the_setting(tmp_path):
    message = f"benchmark Set5: there is no folder {tmp_path}/benchmarks/Set5/HR; .* set paths.data_dir"
    with pytest.raises(DataError, match=message):
        benchmark_files(tmp_path, "Set5")


@pytest.mark.parametrize(
    ("name", "there"),
    [("B100", "BSD100"), ("B100", "BSDS100"), ("B100", "CBSD100"), ("BSD100", "B100"), ("Set5", "set5")],
)
def test_a_folder_with_another_spelling_of_a_sets_name_is_used(folder, tmp_path, name, there):
    folder.parent.rename(tmp_path / "benchmarks" / there)
    names = [path.relative_to(tmp_path).as_posix() for path in benchmark_files(tmp_path, name)]
    assert names[0] == f"benchmarks/{there}/HR/colour.png"
    lr = tmp_path / "benchmarks" / there / "LR" / "X4"
    lr.mkdir(parents=True)
    for path in benchmark_files(tmp_path, name):
        Image.new("RGB", (11, 10)).save(lr / path.name)
    protocol = PROTOCOLS["rgb_uint8"].on_given_lr()
    images = BenchmarkSet.of(name, data_dir=tmp_path, scale=4, protocol=protocol)
    assert (images.name, images.lr_files) == (name, sorted(lr.iterdir()))


def test_the_exact_name_takes_precedence_and_two_other_spellings_are_refused(folder, tmp_path):
    root = tmp_path / "benchmarks"
    for there in ("BSD100", "CBSD100", "B100"):
        shutil.copytree(root / "Two", root / there)
    assert {path.parents[1].name for path in benchmark_files(tmp_path, "B100")} == {"B100"}
    assert {path.parents[1].name for path in benchmark_files(tmp_path, "CBSD100")} == {"CBSD100"}
    shutil.rmtree(root / "B100")
    message = f"B100: both {root}/BSD100/HR and {root}/CBSD100/HR may hold .* rename .* to {root}/B100/HR"
    with pytest.raises(DataError, match=message):
        benchmark_files(tmp_path, "B100")


@pytest.mark.parametrize("there", ["benchmark/B100/HR", "BSD100", "benchmarks/BSD100_HR", "testsets/CBSD100"])
def test_the_error_for_a_missing_set_says_where_its_images_seem_to_be(folder, tmp_path, there):
    shutil.copytree(folder, tmp_path / there)
    message = f"no folder {tmp_path}/benchmarks/B100/HR; its images seem to be in {tmp_path}/{there}: move"
    with pytest.raises(DataError, match=message):
        benchmark_files(tmp_path, "B100")


def test_a_set_without_images_is_refused():
    with pytest.raises(DataError, match="benchmark Two: there are no images"):
        BenchmarkSet(name="Two", files=[], scale=2, protocol=PROTOCOLS["rgb_uint8"])


def test_an_image_that_is_too_small_to_measure_is_named_in_the_error(folder, tmp_path):
    Image.new("RGB", (40, 18)).save(folder / "a.png")
    with pytest.raises(
        DataError, match=r"a.png is 40x16 pixels when cropped to multiples of scale=4; measuring needs 19x19"
    ):
        two(tmp_path)[0]
    assert two(tmp_path, scale=3)[0]["hr"].shape == (3, 18, 39)  # 17x17 pixels are enough


def test_a_protocol_on_given_lr_images_reads_them_and_measures_as_without_them(folder, tmp_path):
    lr_dir = folder.parent / "LR" / "X4"
    lr_dir.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (10, 11, 3), dtype=np.uint8)
    for name in ("colourx4", "grey_LR4"):
        Image.fromarray(pixels).save(lr_dir / f"{name}.png")
    protocol = PROTOCOLS["rgb_uint8"].on_given_lr()
    images = BenchmarkSet.of("Two", data_dir=tmp_path, scale=4, protocol=protocol)
    item = images[0]
    assert torch.equal(item["lr"], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert torch.equal(item["hr"], two(tmp_path)[0]["hr"])
    assert protocol.describe(4).startswith("rgb_uint8 on given LR: x4 LR images as given; PSNR and SSIM on")
    sr = protocol.bicubic(item["lr"][None], 4)
    measured = [p.measure(sr, item["hr"][None], 4) for p in (protocol, PROTOCOLS["rgb_uint8"])]
    assert measured[0] == measured[1]


def test_missing_given_lr_images_are_named_before_any_image_is_read(folder, tmp_path):
    protocol = PROTOCOLS["rgb_uint8"].on_given_lr()

    def read(**settings):
        return BenchmarkSet.of("Two", data_dir=tmp_path, scale=4, protocol=protocol, **settings)

    with pytest.raises(
        DataError, match=r"benchmark Two: there is no folder .*Two/LR/X4 with given LR images"
    ):
        read()
    lr_dir = tmp_path / "lr"
    lr_dir.mkdir()
    Image.new("RGB", (11, 10)).save(lr_dir / "colour.png")
    with pytest.raises(DataError, match=r"benchmark Two: .*HR/grey.png has no LR image in .*lr; name it"):
        read(lr_dir=lr_dir)
    Image.new("RGB", (12, 10)).save(lr_dir / "grey.png")
    with pytest.raises(DataError, match=r"lr/grey.png is 12x10, but .*HR/grey.png is 46x41; .* be 11x10"):
        read(lr_dir=lr_dir)


def test_the_sample_set_needs_no_data_folder():
    images = BenchmarkSet.of("sample", data_dir="/nowhere", scale=4, protocol=PROTOCOLS["rgb_uint8"])
    assert [images.files[index].stem for index in range(2)] == ["astronaut", "chelsea"]
    assert images[1]["lr"].shape == (3, 75, 112)


@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_the_pixels_equal_the_pixels_of_the_published_sets(data_dir, name, count):
    listed = (data_dir / "benchmark_pixels.csv").read_text().splitlines()
    hashes = {line.split(",")[1]: line.split(",")[-1] for line in listed if line.startswith(f"{name},")}
    files = benchmark_files(data_dir, name)
    assert len(files) == len(hashes) == count
    for file in files:
        pixels = read_image(file)
        pixels = pixels[..., :1] if is_grey(file) else pixels
        text = "x".join(map(str, pixels.shape)).encode()
        assert hashlib.sha256(text + pixels.tobytes()).hexdigest() == hashes[file.name], file
