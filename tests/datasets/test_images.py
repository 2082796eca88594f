import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sr_lab.datasets.images import is_grey, list_images, read_image, spread
from sr_lab.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    image.save(path, **options)
    return path


def save_png16(path, pixels, colour_type):
    """Save a 16-bit PNG; Pillow itself can save only grey images with 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_images_are_sorted_and_other_files_are_skipped(tmp_path):
    for name in ["b.png", "a.JPG", ".hidden.png", "notes.txt", "c.tiff"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.tiff"]


def test_the_error_for_a_missing_folder_names_it(tmp_path):
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/photos"):
        list_images(tmp_path / "photos")


def test_the_error_for_an_empty_folder_names_it(tmp_path):
    with pytest.raises(DataError, match=f"the folder {tmp_path} has no image; allowed: .png"):
        list_images(tmp_path)


def test_two_files_with_the_same_stem_are_refused(tmp_path):
    for name in ["a.bmp", "a.png"]:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"a.bmp and a.png in .* have the same stem"):
        list_images(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_rgb_pixels_are_read_unchanged(tmp_path, suffix):
    pixels = read_image(save(tmp_path / f"a.{suffix}", RGB))
    assert pixels.dtype == np.uint8
    assert (pixels == RGB).all()


def test_webp_and_gif_are_read(tmp_path):
    assert (read_image(save(tmp_path / "a.webp", RGB, lossless=True)) == RGB).all()
    flat = np.full((8, 8, 3), 200, dtype=np.uint8)
    assert (read_image(save(tmp_path / "a.gif", flat)) == flat).all()


def test_a_grey_image_gets_three_equal_channels(tmp_path):
    path = save(tmp_path / "a.png", RGB[..., 0])
    assert (read_image(path) == RGB[..., :1]).all()
    assert is_grey(path)


def test_a_palette_image_becomes_rgb_and_is_not_grey(tmp_path):
    flat = np.zeros((6, 6, 3), dtype=np.uint8)
    flat[:, 3:] = (10, 200, 30)
    path = tmp_path / "a.png"
    Image.fromarray(flat).quantize(2).save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
    assert (read_image(path) == flat).all()
    assert not is_grey(path)


def test_an_rgb_file_with_equal_channels_is_not_a_grey_file(tmp_path):
    assert not is_grey(save(tmp_path / "a.png", np.repeat(RGB[..., :1], 3, axis=2)))


def test_transparent_pixels_are_blended_with_white(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[0] = (10, 20, 30, 255)
    pixels[1] = (0, 0, 0, 0)
    pixels[2] = (0, 0, 0, 51)  # a fifth opaque
    result = read_image(save(tmp_path / "a.png", pixels))
    assert result[:3, 0].tolist() == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]


def test_a_transparent_colour_becomes_white(tmp_path):
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0] = (1, 2, 3)
    result = read_image(save(tmp_path / "a.png", pixels, transparency=(1, 2, 3)))
    assert result[:, 0].tolist() == [[255, 255, 255], [0, 0, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    assert (read_image(save(tmp_path / "a.tif", white, mode="CMYK")) == 255).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)], ids=["grey", "rgb"])
def test_16_bit_values_keep_their_high_byte(tmp_path, colour_type, channels):
    values = np.array([[0x00FF, 0x0180], [0x8000, 0xFFFF]])
    pixels = np.repeat(values[..., None], channels, axis=2)
    path = save_png16(tmp_path / "a.png", pixels, colour_type)
    assert (read_image(path) == (values >> 8)[..., None]).all()
    assert is_grey(path) == (channels == 1)


def test_a_transparent_16_bit_value_becomes_white(tmp_path):
    values = np.array([[7, 8, 40000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=7)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255] * 3, [0] * 3, [156] * 3]


def test_an_invisible_pixel_gets_the_mean_of_the_smallest_block_with_a_visible_pixel():
    colours = np.array([[10, 99, 99, 99, 99], [13, 99, 99, 99, 40]], np.uint8)
    expected = [[10, 12, 12, 12, 40], [13, 12, 12, 12, 40]]
    assert spread(colours, colours != 99).tolist() == expected
    assert spread(colours[..., None], colours != 99)[..., 0].tolist() == expected
    assert spread(colours, colours > 200) is colours  # no pixel is visible
    assert spread(colours, colours < 200) is colours  # every pixel is visible


@pytest.mark.parametrize(
    "pixels", [RGB, RGB[..., 0], RGB[..., 0].astype(np.uint16) << 8], ids=["rgb", "grey", "16"]
)
def test_the_exif_orientation_is_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was on its side: rotate the image clockwise to display it
    turned = read_image(save(tmp_path / "a.png", pixels, exif=exif))
    upright = read_image(save(tmp_path / "b.png", pixels))
    assert (turned == np.rot90(upright, -1)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_the_error_for_a_truncated_file_names_it(tmp_path, suffix, share):
    path = save(
        tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=f"cannot read {path}"):
        read_image(path)


def test_the_error_for_a_missing_file_or_one_that_is_not_an_image_names_it(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    for path in [tmp_path / "a.png", tmp_path / "b.png"]:
        for function in (read_image, is_grey):
            with pytest.raises(DataError, match=f"cannot read {path}"):
                function(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_animation_is_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=f"{path} is animated or has several pages"):
        read_image(path)


def test_the_second_image_in_a_cameras_mpo_file_is_ignored(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    path = tmp_path / "a.jpg"
    frames[0].save(path, format="MPO", save_all=True, append_images=frames[1:])
    assert (read_image(path) == 255).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_values_are_refused(tmp_path, dtype):
    path = save(tmp_path / "a.tif", np.ones((4, 4), dtype=dtype))
    with pytest.raises(DataError, match="has 32-bit values"):
        read_image(path)


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sr_lab.datasets.images.MAX_PIXELS", 100)
    with pytest.raises(DataError, match="has 14x9 pixels; allowed: 100 in all"):
        read_image(save(tmp_path / "a.png", RGB))
