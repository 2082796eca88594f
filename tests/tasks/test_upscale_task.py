"""``task=upscale``: image files and folders in, upscaled files out."""

import io
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.untrusted import settled
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.inference.image_file import beside_image
from sr_lab.inference.inputs import result_names
from sr_lab.inference.reading import ImageInfo, read_info
from sr_lab.inference.tiling import Tiled
from sr_lab.tasks import upscale
from sr_lab.tasks.upscale import Job, Manner
from sr_lab.zoo import published, shipped
from tests.command_line import sr_lab as command
from tests.composing import compose
from tests.datasets.test_images import save_png16


@pytest.fixture
def photos(tmp_path):
    """A folder with a colour image, and a sub-folder with a 16-bit grey image and a transparent one."""
    drawn = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    colour = Image.fromarray(drawn.integers(0, 256, (9, 8, 3), dtype=np.uint8))
    colour.save(folder / "colour.JPG", "PNG", icc_profile=b"what the colours mean")
    Image.fromarray(drawn.integers(0, 65536, (7, 6), dtype=np.uint16)).save(folder / "deep" / "grey.png")
    colour.putalpha(77)
    colour.save(folder / "deep" / "layer.webp", lossless=True)
    colour.save(folder / "deep" / ".hidden" / "thumbnail.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(source, output, *overrides, ckpt=None):
    arguments = (f"input={source}", f"output={output}", "trainer=cpu", *overrides)
    network = (f"ckpt={ckpt}",) if ckpt else ("model=bicubic", "scale=3")
    config = compose("task=upscale", *network, *arguments)
    upscale.run(config, output, [*network, *arguments])


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sub_folders_are_kept(photos, tmp_path, capsys):
    output = tmp_path / "big"
    run(photos, output)
    assert below(output) == ["colour_x3.png", "deep/grey_x3.png", "deep/layer_x3.png"]
    assert "3 of 3 upscaled" in capsys.readouterr().out
    with Image.open(output / "colour_x3.png") as image:
        assert (image.mode, image.size, image.info["icc_profile"]) == (
            "RGB",
            (24, 27),
            b"what the colours mean",
        )
    with Image.open(output / "deep" / "grey_x3.png") as image:
        assert (image.mode, image.size) == ("I;16", (18, 21))
    with Image.open(output / "deep" / "layer_x3.png") as image:
        assert (image.mode, image.getchannel("A").getextrema()) == ("RGBA", (77, 77))


def weights(path, seed):
    torch.manual_seed(seed)
    torch.save(Entry("ecbsr_m4c16", 2).build().state_dict(), path)
    return path


SMALL = ("model=ecbsr_m4c16", "scale=2")


def test_a_file_is_upscaled_exactly_as_by_sr_lab_upscale(photos, tmp_path):
    ckpt = weights(tmp_path / "weights.pth", 1)
    run(photos / "colour.JPG", tmp_path / "big", *SMALL, ckpt=ckpt)
    network = Entry("ecbsr_m4c16", 2).build()
    network.load_state_dict(torch.load(ckpt))
    expected = sr_lab.upscale(photos / "colour.JPG", network.eval())
    with Image.open(tmp_path / "big" / "colour_x2.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_results_of_the_same_image_and_network_are_skipped(photos, tmp_path, capsys):
    output = tmp_path / "big"
    run(photos, output)
    before = (output / "colour_x3.png").stat().st_mtime_ns
    capsys.readouterr()
    run(photos, output)
    assert (output / "colour_x3.png").stat().st_mtime_ns == before
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 already done (overwrite=true makes them again)"
    assert all(line.startswith("skipped: ") for line in said[1:])
    run(photos, output, "overwrite=true")
    assert (output / "colour_x3.png").stat().st_mtime_ns != before


def test_a_result_of_another_network_or_image_is_reported_and_kept(photos, tmp_path, capsys):
    source, result = photos / "colour.JPG", tmp_path / "big" / "colour_x2.png"
    one, other = weights(tmp_path / "one.pth", 1), weights(tmp_path / "other.pth", 2)
    run(source, result.parent, *SMALL, ckpt=one)
    of_one = result.read_bytes()

    def refused(ckpt):
        with pytest.raises(SystemExit) as ended:
            run(source, result.parent, *SMALL, ckpt=ckpt)
        said = capsys.readouterr().out
        assert f"failed: {source}: '{result}' exists, but is not this network's result for this image" in said
        assert "0 of 1 upscaled" in said
        return ended.value.code

    assert refused(other) == 1
    assert result.read_bytes() == of_one
    source.write_bytes((photos / "deep" / "layer.webp").read_bytes())
    assert refused(one) == 1
    result.write_text("a letter")
    assert refused(one) == 1
    assert result.read_text() == "a letter"
    run(source, result.parent, *SMALL, "overwrite=true", ckpt=other)
    with Image.open(result) as image:
        assert image.mode == "RGBA"


def test_tiles_that_change_no_pixel_do_not_count_as_a_different_result(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    ckpt = weights(tmp_path / "weights.pth", 1)
    run(tmp_path / "wide.png", tmp_path / "big", *SMALL, "tile=96", ckpt=ckpt)
    run(tmp_path / "wide.png", tmp_path / "big", *SMALL, "tile=none", ckpt=ckpt)
    assert "1 already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made_with", "found_by"),
    [("96", ["96"]), ("none", ["none", "auto", "150"]), ("auto", ["none", "auto", "150"])],
)
def test_a_tiled_result_is_not_mistaken_for_the_result_of_the_whole_image(tmp_path, made_with, found_by):
    (job,) = drawn(tmp_path / "photos", (20, 150))
    network = Pooling(10_000).eval()

    def tiled(tile):
        return Tiled(network, tile=int(tile) if tile.isdigit() else tile)

    assert upscale.upscale_all([job], tiled(made_with), Manner("a maker")) == {}
    found = [
        tile
        for tile in ("96", "100", "none", "auto", "150")
        if upscale._is_result(job, tiled(tile), Manner("a maker"))
    ]
    assert found == found_by
    assert not upscale._is_result(job, tiled(made_with), Manner("another maker"))


def test_a_result_that_was_tiled_for_lack_of_memory_is_recognised(tmp_path):
    (job,) = drawn(tmp_path / "photos", (500, 500))
    network = Pooling(150_000).eval()
    assert upscale.upscale_all([job], Tiled(network, memory=2**27), Manner("a maker")) == {}
    assert upscale._is_result(job, Tiled(network, memory=2**27), Manner("a maker"))
    assert not upscale._is_result(job, Tiled(network, tile="none"), Manner("a maker"))


def test_a_stamp_does_not_depend_on_the_folder(photos, tmp_path):
    run(photos, tmp_path / "big")
    elsewhere = photos.rename(tmp_path / "elsewhere")
    run(elsewhere, tmp_path / "again")
    for name in below(tmp_path / "big"):
        assert (tmp_path / "big" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with Image.open(tmp_path / "big" / "colour_x3.png") as image:
        assert list(image.text) == ["sr_lab"]
        assert len(bytes.fromhex(image.text["sr_lab"])) == 32


def test_a_broken_image_does_not_stop_the_rest(photos, tmp_path, capsys):
    (photos / "broken.png").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        run(photos, tmp_path / "big")
    assert ended.value.code == 1
    assert len(below(tmp_path / "big")) == 3
    said = capsys.readouterr().out
    assert f"failed: {photos / 'broken.png'}: images: cannot read" in said
    assert "3 of 4 upscaled" in said


def test_results_inside_the_input_folder_are_not_upscaled_again(photos):
    run(photos, photos / "big")
    before = below(photos)
    run(photos, photos / "big")
    assert below(photos) == before


def test_results_next_to_the_images_are_not_upscaled_again(photos):
    run(photos, photos)
    before = below(photos)
    assert "colour_x3.png" in before
    run(photos, photos)
    run(photos / "deep", photos / "deep")
    assert below(photos) == before


def test_images_below_the_output_folder_are_upscaled(photos):
    run(photos / "deep", photos)
    assert {"grey_x3.png", "layer_x3.png"} < set(below(photos))


def test_no_image_is_written_through_a_link_in_the_output_folder(photos, tmp_path, capsys):
    output, precious = tmp_path / "big", tmp_path / "precious"
    output.mkdir()
    precious.mkdir()
    (output / "deep").symlink_to(precious)
    (output / "colour_x3.png").symlink_to(precious / "there")  # this link is replaced
    with pytest.raises(SystemExit):
        run(photos, output)
    assert list(precious.iterdir()) == []
    said = capsys.readouterr().out
    assert "deep' is a link out of" in said
    assert "1 of 3 upscaled" in said
    (tmp_path / "link").symlink_to(output)  # the output itself may be a link
    (output / "deep").unlink()
    run(photos, tmp_path / "link")
    assert below(output) == ["colour_x3.png", "deep/grey_x3.png", "deep/layer_x3.png"]


def test_images_whose_results_would_have_the_same_name_are_both_written(photos, tmp_path, capsys):
    (photos / "colour.png").write_bytes((photos / "colour.JPG").read_bytes())
    run(f"[{photos},{photos / 'deep'},{photos / 'deep' / '..' / 'colour.png'}]", tmp_path / "big")
    assert below(tmp_path / "big") == [
        *("colour_jpg_x3.png", "colour_png_x3.png", "deep/grey_x3.png", "deep/layer_x3.png")
    ]
    said = capsys.readouterr().out
    assert f"note: {photos / 'colour.JPG'}: becomes colour_jpg_x3.png, since another image" in said
    assert "4 of 4 upscaled" in said


def test_result_names_are_distinct_whatever_the_images_are_called():
    names = [Path(name) for name in ("a.png", "A.PNG", "a.jpg", "a_jpg.png", "b.png")]
    named = [str(name) for name, _ in result_names([(name, "png") for name in names], 2)]
    assert named == ["a_png_x2.png", "A_png_2_x2.png", "a_jpg_2_x2.png", "a_jpg_x2.png", "b_x2.png"]


class Hungry(nn.Module):
    """Runs out of memory on images with more than ``pixels`` LR pixels."""

    scale = 2
    colour = "rgb"

    def __init__(self, pixels):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.pixels = pixels

    def forward(self, lr):
        if not lr.is_meta and lr.dtype == torch.float32 and lr.shape[2] * lr.shape[3] > self.pixels:
            torch.empty(2**58, device=lr.device)
        return self.conv(lr).repeat_interleave(2, 2).repeat_interleave(2, 3)


class Pooling(Hungry):
    """A network that gives different pixels in tiles than on the whole image."""

    def forward(self, lr):
        return super().forward(lr) * lr.mean((2, 3), keepdim=True)


def drawn(path, *sizes):
    path.mkdir()
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return [
        Job(image, path / f"big_{image.name}", "png", read_info(image, math.inf))
        for image in sorted(path.iterdir())
    ]


def test_an_image_too_large_for_memory_is_reported_and_the_rest_are_upscaled(tmp_path):
    jobs = drawn(tmp_path / "photos", (20, 20), (200, 200), (20, 21))
    failed = upscale.upscale_all(jobs, Tiled(Hungry(1000), tile="none"), Manner("a maker"))
    assert failed == {
        tmp_path / "photos" / "1.png": "upscale: the image does not fit into memory with tile=none; "
        "set tile=auto or a smaller tile"
    }
    assert [job.output.is_file() for job in jobs] == [True, False, True]


def test_an_image_too_large_for_memory_is_upscaled_in_smaller_tiles(tmp_path, capsys):
    (job,) = drawn(tmp_path / "photos", (500, 500))
    network = Hungry(150_000).eval()
    assert upscale.upscale_all([job], Tiled(network, memory=2**27), Manner("a maker")) == {}
    assert "tiled: 500x500 pixels in tiles of" in capsys.readouterr().out
    network.pixels = 1_000_000
    with Image.open(job.output) as image:
        assert np.array_equal(np.asarray(image), np.asarray(sr_lab.upscale(job.source, network)))


def test_an_error_of_a_network_is_not_reported_as_lack_of_memory(tmp_path):
    with pytest.raises(RuntimeError, match="expected input"):
        upscale.upscale_all(
            drawn(tmp_path / "photos", (9, 9)), Tiled(nn.Conv2d(4, 4, 3), like=Hungry(99)), Manner("")
        )


def test_a_result_that_cannot_be_written_does_not_stop_the_rest(tmp_path):
    jobs = drawn(tmp_path / "photos", (9, 9), (9, 8))
    first, last = jobs
    first.output.mkdir()
    assert upscale.upscale_all(jobs, Tiled(Hungry(999)), Manner("a maker")).keys() == {first.source}
    assert last.output.is_file()


@pytest.mark.parametrize(("form", "noted"), [("png", False), ("tiff", False), ("jpeg", True)])
def test_a_loss_of_bit_depth_is_noted(tmp_path, capsys, form, noted):
    path = save_png16(tmp_path / "deep.png", np.full((5, 6, 3), 40000, np.uint16), 2)
    run(path, tmp_path / "big", f"format={form}")
    assert (f"note: {path}: 16 bits become 8: {form} has only 8" in capsys.readouterr().out) == noted


def test_the_input_may_be_a_list(photos, tmp_path):
    run(f"[{photos / 'colour.JPG'},{photos / 'deep'}]", tmp_path / "big")
    assert below(tmp_path / "big") == ["colour_x3.png", "grey_x3.png", "layer_x3.png"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_an_input_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^input: "):
        run(tmp_path / name, tmp_path / "big")


def test_a_network_needs_its_weights(photos, tmp_path):
    config = compose("task=upscale", "model=imdn", f"input={photos}", f"output={tmp_path}", "trainer=cpu")
    with pytest.raises(ConfigError, match=r"ckpt: IMDN has weights, but no checkpoint is given"):
        upscale.run(config, tmp_path, ["model=imdn"])


@pytest.mark.parametrize("tile", ["0", "some", "1.5"])
def test_an_invalid_value_of_tile_is_refused(photos, tmp_path, tile):
    with pytest.raises(ConfigError, match="tile"):
        run(photos, tmp_path, f"tile={tile}")


def test_tiling_of_an_image_is_reported(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 110, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    ckpt = weights(tmp_path / "weights.pth", 1)
    run(tmp_path / "wide.png", tmp_path / "big", *SMALL, "tile=96", ckpt=ckpt)
    assert "tiled: 110x60 pixels in tiles of 96x60, overlapping by 6; equal" in capsys.readouterr().out


def test_the_command_line_writes_images_and_nothing_else(photos, tmp_path):
    arguments = ("task=upscale", "model=bicubic", "scale=2", "trainer=cpu", f"input={photos}", "output=big")
    done = command(tmp_path / "work", *arguments)
    assert done.returncode == 0, done.stderr
    assert below(tmp_path / "work" / "big") == [
        f"{name}_x2.png" for name in ("colour", "deep/grey", "deep/layer")
    ]
    assert not (tmp_path / "work" / "outputs").exists()
    assert done.stdout.splitlines()[-1] == "3 of 3 upscaled into big"


def test_a_result_is_written_while_the_next_image_is_computed(tmp_path, monkeypatch):
    jobs = drawn(tmp_path / "photos", (9, 9), (9, 8))
    result, overlaps = jobs[0].output, []
    network, second, write = Hungry(999), threading.Event(), upscale._write
    network.register_forward_pre_hook(lambda _, given: second.set() if given[0].shape[3] == 8 else None)

    def slow_write(*arguments):
        overlaps.append(second.wait(5))
        write(*arguments)

    monkeypatch.setattr(upscale, "_write", slow_write)
    assert upscale.upscale_all(jobs, Tiled(network), Manner("a maker")) == {}
    assert overlaps == [True, True]
    written = result.read_bytes()
    assert written[written.index(b"IDAT") + 4 :].startswith(b"\x78\x5e")  # zlib header for levels 2 to 5


@pytest.mark.parametrize("task", ["upscale", "measure", "prepare", "shard", "doctor"])
def test_the_help_has_an_example_of_each_task_that_works_on_files(task):
    help_page = (Path(__file__).parents[2] / "conf" / "config.yaml").read_text()
    assert f"\n        python -m sr_lab task={task} " in help_page


# Where and how results are written


def test_the_output_may_be_a_file_of_any_format(photos, tmp_path, capsys):
    for suffix in ("png", "jpg", "webp", "tif"):
        output = tmp_path / "new" / f"big.{suffix}"
        config = compose("task=upscale", "model=bicubic", "scale=2", f"input={photos / 'colour.JPG'}",
                         f"output={output}", "trainer=cpu")  # fmt: skip
        assert config.folder == str(output.parent)
        for again in (False, True):
            upscale.run(config, output.parent, ["model=bicubic"])
            assert ("1 already done" in capsys.readouterr().out) == again
        with Image.open(output) as image:
            assert image.size == (16, 18)
            assert image.info["icc_profile"] == b"what the colours mean"
            assert image.format.lower()[:3] == {"jpg": "jpe", "webp": "web"}.get(suffix, suffix)


def test_without_an_output_results_are_in_a_folder_of_their_own():
    config = compose("task=upscale", "input=photo.jpg")
    assert (config.folder, config.file) == ("upscaled", None)


@pytest.mark.parametrize(
    ("output", "more", "said"),
    [
        ("big.jpg", ("input={0}",), "output: .*big.jpg holds one image, got 3 images"),
        ("-", ("input={0}",), "output: - holds one image, got 3 images"),
        ("big.heic", ("input={0}/colour.JPG",), "output: cannot write 'big.heic'; allowed: .png"),
        ("big.jpg", ("input={0}/colour.JPG", "format=png"), "format: is png, but output=.*big.jpg is jpeg"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(photos, output, more, said):
    words = [word.format(photos) for word in more]
    config = compose("task=upscale", "model=bicubic", f"output={output}", "trainer=cpu", *words)
    with pytest.raises(ConfigError, match=said):
        upscale.run(config, photos.parent, ["model=bicubic"])


def test_an_image_goes_to_stdout_and_the_rest_to_stderr(photos, tmp_path, capfdbinary):
    config = compose("task=upscale", "model=bicubic", "scale=2", f"input={photos / 'deep' / 'layer.webp'}",
                     "output=-", "format=tiff", "trainer=cpu")  # fmt: skip
    upscale.run(config, tmp_path, ["model=bicubic"])
    image, said = capfdbinary.readouterr()
    with Image.open(io.BytesIO(image)) as shown:
        assert (shown.format, shown.mode, shown.size) == ("TIFF", "RGBA", (16, 18))
    assert b"1 of 1 upscaled into stdout" in said


def test_a_dry_run_lists_the_results_and_writes_nothing(photos, tmp_path, capsys):
    (photos / "broken.png").write_text("no image")
    Image.new("F", (3, 3)).save(photos / "floats.tif")
    with pytest.raises(SystemExit):
        run(photos, tmp_path / "big", "dry_run=true", "format=webp")
    said = capsys.readouterr().out
    assert f"would write {tmp_path}/big/deep/grey_x3.webp: webp, 18x21 pixels" in said
    assert f"failed: {photos / 'broken.png'}: images: cannot read" in said
    assert f"failed: {photos / 'floats.tif'}: upscale: cannot upscale a Pillow image of mode F" in said
    assert "3 of 5 would be upscaled" in said
    assert not (tmp_path / "big").exists()


def test_the_last_line_names_the_file_that_was_asked_for(photos, tmp_path, capsys):
    (tmp_path / "big.png").write_text("mine")
    words = [
        "task=upscale",
        "model=bicubic",
        f"input={photos / 'colour.JPG'}",
        f"output={tmp_path / 'big.png'}",
    ]
    with pytest.raises(SystemExit):
        upscale.run(compose(*words), tmp_path, words)
    assert capsys.readouterr().out.splitlines()[-1] == f"0 of 1 upscaled into {tmp_path / 'big.png'}"


def test_everything_that_is_skipped_is_listed_with_the_reason(photos, capsys):
    run(photos, photos)
    capsys.readouterr()
    run(photos, photos)
    said = capsys.readouterr().out
    assert f"skipped: {photos / 'notes.txt'}: its name is not that of an image" in said
    assert f"skipped: {photos / 'deep' / '.hidden' / 'thumbnail.png'}: it is hidden" in said
    assert f"skipped: {photos / 'colour_x3.png'}: it is a result of task=upscale" in said


def test_an_image_is_never_overwritten_by_its_own_result(photos):
    source = photos / "colour.png"
    source.write_bytes(before := (photos / "colour.JPG").read_bytes())
    config = compose("task=upscale", "model=bicubic", "scale=2", f"input={source}", f"output={source}",
                     "overwrite=true", "trainer=cpu")  # fmt: skip
    with pytest.raises(SystemExit):
        upscale.run(config, photos, ["model=bicubic"])
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "change", ["quality=50", "self_ensemble=true", "scale=2"], ids=["quality", "ensemble", "scale"]
)
@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_result_of_other_settings_is_neither_reused_nor_overwritten(photos, tmp_path, capsys, form, change):
    run(photos / "colour.JPG", tmp_path / "big", f"format={form}")
    (result,) = (tmp_path / "big").iterdir()
    before = result.read_bytes()
    if change.startswith("scale"):
        (tmp_path / "big" / result.name.replace("x3", "x2")).write_bytes(before)
    with pytest.raises(SystemExit):
        run(photos / "colour.JPG", tmp_path / "big", f"format={form}", change)
    assert "exists, but is not this network's result" in capsys.readouterr().out
    assert result.read_bytes() == before


@pytest.mark.parametrize("form", ["auto", "png", "tiff"])
def test_a_quality_that_no_result_has_is_refused(photos, tmp_path, form):
    with pytest.raises(
        ConfigError, match=r"quality: is used by jpeg and webp, and the results are (png|tiff)"
    ):
        run(photos / "colour.JPG", tmp_path / "big", f"format={form}", "quality=50")
    assert not list(tmp_path.glob("big/*"))


def test_the_limit_on_pixels_can_be_lifted(photos, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(photos / "colour.JPG", tmp_path / "big", "max_pixels=71")
    assert "has 8x9 pixels; allowed: 71 in all; raise max_pixels" in capsys.readouterr().out
    run(photos / "colour.JPG", tmp_path / "big", "max_pixels=72")
    assert compose("task=upscale", "input=x", "max_pixels=none").most_pixels == math.inf


def test_no_file_lifts_the_limit_on_pixels():
    with pytest.raises(ConfigError, match=r"max_pixels: a file may not raise this limit, got 1000000000"):
        settled({"max_pixels": 10**9}, {}, [])
    settled({"max_pixels": 10**9}, {}, ["max_pixels=1000000000"])
    settled({"max_pixels": None}, {}, [])


def test_a_large_image_gets_smaller_tiles_and_a_small_one_does_not():
    network = Tiled(Entry("ecbsr_m4c16", 2).build())
    for side, least, most in ((1000, 2**31, 2**31), (10_000, 2**28, 2**30)):
        about = ImageInfo((side, side), "PNG", moves=False)
        assert least <= beside_image(network, about).memory <= most


def test_a_network_is_suggested_if_none_is_given(photos, tmp_path):
    config = compose("task=upscale", f"input={photos / 'colour.JPG'}", "scale=8", "trainer=cpu")
    with pytest.raises(CheckpointError) as refused:
        upscale.run(config, tmp_path, ["scale=8"])
    said = str(refused.value)
    assert all(f"zoo/{published.named(name).name}" in said for name in shipped.suggested())
    assert f"python -m sr_lab task=upscale ckpt=zoo/bsrn_x4 input={photos / 'colour.JPG'}" in said


def test_weights_in_the_package_are_the_default(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    network = Entry("ecbsr_m4c16", 2).build()
    save_file(network.state_dict(), tmp_path / "tiny_x2.safetensors")
    (tmp_path / "notes.safetensors").touch()
    assert shipped.shipped() == {2: tmp_path / "tiny_x2.safetensors"}
    config = compose(
        "task=upscale", f"input={photos / 'colour.JPG'}", f"output={tmp_path / 'big'}", "trainer=cpu"
    )
    upscale.run(config, tmp_path / "big", [])
    assert below(tmp_path / "big") == ["colour_x2.png"]
    assert "network: pretrained/tiny_x2; " in capsys.readouterr().out
    assert type(sr_lab.load()) is type(network)
    with pytest.raises(
        CheckpointError, match=r"load: a checkpoint is needed.*weights only for x2.*zoo/bsrn_x3"
    ):
        sr_lab.load(scale=3)


def test_progress_shows_images_speed_and_time_left(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(upscale.Progress, "is_due", True)
    monkeypatch.setattr(
        upscale.Progress, "update", lambda _, done, *facts, share: shown.append((done, share, facts))
    )
    upscale.upscale_all(drawn(tmp_path / "photos", (10, 10), (10, 30)), Tiled(Hungry(999)), Manner(""))
    assert [(done, share) for done, share, _ in shown] == [(0, 0), (1, 0.25), (1, 0.25), (2, 1)]
    assert all("megapixels/s" in facts[0] and facts[1].endswith(".png") for _, _, facts in shown)
