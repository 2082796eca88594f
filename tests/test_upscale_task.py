"""``task=upscale``: files and folders in, PNG files out."""

import numpy as np
import pytest
from PIL import Image

import sr_lab
from sr_lab.errors import ConfigError, DataError
from sr_lab.tasks import upscale
from tests.command_line import sr_lab as command
from tests.conftest import compose


@pytest.fixture
def photos(tmp_path):
    """A folder with a colour image, and in a sub-folder a grey one of 16 bit and one with transparency."""
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


def test_a_folder_comes_out_as_it_lies(photos, tmp_path, capsys):
    output = tmp_path / "big"
    run(photos, output)
    assert below(output) == ["colour_x3.png", "deep/grey_x3.png", "deep/layer_x3.png"]
    assert "3 of 3 enlarged" in capsys.readouterr().out
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


def test_a_file_is_enlarged_as_sr_lab_upscale_does(weights_dir, photos, tmp_path):
    ckpt = weights_dir / "IMDN" / "IMDN_x2.pth"
    run(photos / "colour.JPG", tmp_path / "big", ckpt=ckpt)
    expected = sr_lab.upscale(photos / "colour.JPG", sr_lab.load(ckpt))
    with Image.open(tmp_path / "big" / "colour_x2.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_what_is_there_is_passed_over(photos, tmp_path, capsys):
    output = tmp_path / "big"
    output.mkdir()
    (output / "colour_x3.png").write_text("already")
    run(photos, output)
    assert (output / "colour_x3.png").read_text() == "already"
    assert "1 there already" in capsys.readouterr().out
    run(photos, output, "overwrite=true")
    with Image.open(output / "colour_x3.png") as image:
        assert image.size == (24, 27)


def test_a_broken_image_does_not_end_the_others(photos, tmp_path, capsys):
    (photos / "broken.png").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        run(photos, tmp_path / "big")
    assert ended.value.code == 1
    assert len(below(tmp_path / "big")) == 3
    said = capsys.readouterr().out
    assert f"failed: {photos / 'broken.png'}: images: cannot read" in said
    assert "3 of 4 enlarged" in said


def test_results_within_the_input_are_not_enlarged_again(photos):
    run(photos, photos / "big")
    before = below(photos)
    run(photos, photos / "big")
    assert below(photos) == before


def test_several_inputs_are_told_apart(photos, tmp_path):
    (photos / "colour.png").write_bytes((photos / "colour.JPG").read_bytes())
    with pytest.raises(DataError, match=r"colour.JPG and .*colour.png would both become .*colour_x3.png"):
        run(photos, tmp_path / "big")


def test_a_list_of_inputs(photos, tmp_path):
    run(f"[{photos / 'colour.JPG'},{photos / 'deep'}]", tmp_path / "big")
    assert below(tmp_path / "big") == ["colour_x3.png", "grey_x3.png", "layer_x3.png"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_an_input_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^input: "):
        run(tmp_path / name, tmp_path / "big")


def test_a_network_needs_its_weights(photos, tmp_path):
    config = compose("task=upscale", "model=imdn", f"input={photos}", f"output={tmp_path}", "trainer=cpu")
    with pytest.raises(ConfigError, match=r"ckpt: IMDN has weights and none are given"):
        upscale.run(config, tmp_path, [])


@pytest.mark.parametrize("tile", ["0", "some", "1.5"])
def test_no_such_tile(photos, tmp_path, tile):
    with pytest.raises(ConfigError, match="tile"):
        run(photos, tmp_path, f"tile={tile}")


def test_a_tiled_image_says_so(weights_dir, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 110, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    run(tmp_path / "wide.png", tmp_path / "big", "tile=96", ckpt=weights_dir / "IMDN" / "IMDN_RTC_x2.pth")
    assert "tiled: 60x110 pixels in tiles of 60x96, overlapping by 22; equal" in capsys.readouterr().out


def test_the_command_line_leaves_images_and_nothing_else(photos, tmp_path):
    arguments = ("task=upscale", "model=bicubic", "scale=2", "trainer=cpu", f"input={photos}", "output=big")
    done = command(tmp_path / "work", *arguments)
    assert done.returncode == 0, done.stderr
    assert below(tmp_path / "work" / "big") == [
        f"{name}_x2.png" for name in ("colour", "deep/grey", "deep/layer")
    ]
    assert not (tmp_path / "work" / "outputs").exists()
    assert done.stdout == "3 of 3 enlarged into big\n"
