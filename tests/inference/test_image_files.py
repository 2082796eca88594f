"""Formats, modes and metadata of the images that ``task=upscale`` reads and writes."""

import io
import math
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps, ImageSequence, features

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import DataError
from sr_lab.inference import pictures
from sr_lab.inference.reading import Frame, ImageInfo, read_frames, read_info
from sr_lab.inference.self_ensemble import SelfEnsemble
from sr_lab.inference.tiling import Tiled
from sr_lab.inference.upscaling import upscale_batch
from sr_lab.inference.writing import SUFFIX_OF, refuse_unwritable, stamp_of, write
from sr_lab.ops.dihedral import dihedral
from tests.datasets.test_images import save_png16
from tests.test_api import Repeat

STAMP = "5" * 64
LOSSLESS = ("png", "tiff", "webp")
SHAPES = {"grey": (5, 7), "RGB": (5, 7, 3)}


def drawn(colours, dtype=np.uint8, alpha=False, seed=0):
    values = np.random.default_rng(seed)
    peak = np.iinfo(dtype).max
    pixels = values.integers(0, peak + 1, SHAPES[colours], dtype=dtype)
    return pictures.Picture(pixels, values.integers(0, peak + 1, (5, 7), dtype=dtype) if alpha else None)


def about_of(picture, **facts):
    return ImageInfo(picture.size, "PNG", **{"moves": False, **facts})


def stored(tmp_path, picture, form, about=None, quality=100):
    path, said = tmp_path / f"a{SUFFIX_OF[form]}", []
    write([Frame(picture)], about or about_of(picture), path, form, quality, STAMP, said.append)
    return path, said


def read(path, note=lambda text: pytest.fail(text)):
    return [frame.picture for frame in read_frames(path, math.inf, note)]


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("colours", SHAPES)
@pytest.mark.parametrize("form", [*LOSSLESS, "jpeg"])
def test_what_is_written_is_read_again(tmp_path, form, colours, dtype, alpha):
    picture = drawn(colours, dtype, alpha)
    path, said = stored(tmp_path, picture, form)
    assert stamp_of(path) == STAMP
    assert any("16 bits become 8" in text for text in said) == (
        dtype == np.uint16 and form in ("webp", "jpeg")
    )
    assert any("put on white" in text for text in said) == (alpha and form == "jpeg")
    if form == "jpeg":
        (back,) = read(path)
        assert back.colours.shape == picture.colours.shape
        return
    (back,) = read(path)
    expected = picture if form in ("png", "tiff") else picture.in_8_bits()
    seen = slice(None) if expected.alpha is None else expected.alpha > 0  # WebP stores no invisible colour
    colours_back = back.colours[..., 0] if back.colours.ndim > expected.colours.ndim else back.colours
    assert np.array_equal(colours_back[seen], expected.colours[seen])
    assert (back.alpha is None) == (expected.alpha is None)
    assert expected.alpha is None or np.array_equal(back.alpha, expected.alpha)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (130, 33)])
@pytest.mark.parametrize("noise", [False, True])
def test_a_png_of_any_size_is_read_by_pillow(tmp_path, size, noise):
    rows, columns = np.indices(size)
    pixels = np.stack([rows, columns, rows * columns], 2).astype(np.uint8)
    if noise:
        pixels ^= np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    path, _ = stored(tmp_path, pictures.Picture(pixels), "png")
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), pixels)


def camera(orientation=6):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A] = "ACME", orientation, 99.0
    exif[0x8769] = {0x829A: 0.01, 0xA002: 7}
    exif[0x8825] = {1: "N"}
    return exif


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "tiff"])
def test_metadata_is_kept(tmp_path, form, dtype):
    image = Image.fromarray(drawn("RGB").colours)
    image.save(tmp_path / "photo.jpg", exif=camera(), dpi=(300, 200), icc_profile=b"the colours")
    about = read_info(tmp_path / "photo.jpg", math.inf)
    assert about.size == (7, 5)  # upright
    path, said = stored(tmp_path, drawn("RGB", dtype), form, about)
    again = read_info(path, math.inf)
    assert again.icc == b"the colours"
    assert form == "webp" or again.dpi == pytest.approx((300, 200), abs=0.1)
    if form == "tiff" and dtype == np.uint16:
        assert ["EXIF record is dropped" in text for text in said] == [True]
        return
    exif = Image.Exif()
    exif.load(again.exif)
    assert (exif[0x010F], exif[0x0112]) == ("ACME", 1)
    assert float(exif.get_ifd(0x8769)[0x829A]) == 0.01
    assert exif.get_ifd(0x8825)[1] == "N"
    assert 0xA002 not in exif.get_ifd(0x8769)  # the width of the small image
    assert 0x011A not in exif  # the dots per inch, which are stated elsewhere


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "deep.png"])
def test_a_cameras_orientation_is_applied(tmp_path, name, orientation):
    pixels = drawn("RGB").colours.repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    if name == "deep.png":
        about = ImageInfo((40, 56), "PNG", moves=False, exif=exif.tobytes())
        picture = pictures.Picture(pixels.astype(np.uint16) * 257)
        write([Frame(picture)], about, path, "png", 1, STAMP, print)
    else:
        Image.fromarray(pixels).save(
            path, exif=exif, **({"quality": 100, "subsampling": 0} if name == "a.jpg" else {})
        )
    small = Image.fromarray(pixels)
    small.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(small)).astype(int)
    (picture,) = read(path)
    assert read_info(path, math.inf).size == picture.size == expected.shape[:2]
    levels = picture.in_8_bits().colours.astype(int)
    assert np.abs(levels - expected).mean() < (3 if name == "a.jpg" else 1e-9)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_colours_of_a_tiff_file_are_read(tmp_path, compression, order, alpha):
    picture = drawn("RGB", np.uint16, alpha)
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(tmp_path / "a.tif", picture.channels(), photometric="rgb", byteorder=order,
                     compression=compression, **extra)  # fmt: skip
    (back,) = read(tmp_path / "a.tif")
    assert np.array_equal(back.channels(), picture.channels())


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_colours_of_a_png_file_are_read(tmp_path, colour_type, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (4, 5, channels), dtype=np.uint16)
    (back,) = read(save_png16(tmp_path / "a.png", pixels, colour_type))
    assert np.array_equal(np.atleast_3d(back.channels()), pixels)


def test_16_bits_are_upscaled_with_16_bits_and_alpha_too():
    picture = pictures.Picture(drawn("RGB", np.uint16).colours, np.full((5, 7), 12345, np.uint16))
    sr = pictures.upscaled(picture, Tiled(Repeat()), lambda _: None)
    assert np.array_equal(sr.colours, picture.colours.repeat(2, 0).repeat(2, 1))
    assert (sr.alpha == 12345).all()


def test_invisible_16_bit_pixels_do_not_colour_visible_ones():
    colours = np.full((4, 8, 3), 50_000, np.uint16)
    colours[:, :4] = 7
    alpha = np.full((4, 8), 65535, np.uint16)
    alpha[:, :4] = 0
    assert (pictures.seen(pictures.Picture(colours, alpha)) == 50_000).all()


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("source", ["gif", "webp", "png"])
@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_an_animation_keeps_frames_durations_and_loop(tmp_path, source, form, alpha):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [Image.new("RGBA" if alpha else "RGB", (8, 6), colour) for colour in colours]
    if alpha:
        for number, frame in enumerate(frames):
            frame.paste((0, 0, 0, 0), (number, 0, number + 2, 6))
    path = tmp_path / f"a.{source}"
    facts = {"duration": [100, 200, 70], "loop": 3, "lossless": True, "disposal": 2 if source == "gif" else 0}
    frames[0].save(path, save_all=True, append_images=frames[1:], **facts)
    about = read_info(path, math.inf)
    assert about.moves
    result = tmp_path / f"big.{form}"
    large = [
        Frame(pictures.upscaled(frame.picture, Tiled(Repeat()), lambda _: None), frame.duration)
        for frame in read_frames(path, math.inf, pytest.fail)
    ]
    write(large, about, result, form, 100, STAMP, pytest.fail)
    assert stamp_of(result) == STAMP
    with Image.open(result) as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((16, 12), 3, 3)
        durations = []
        for frame, expected in zip(ImageSequence.Iterator(image), frames, strict=True):
            pixels = np.asarray(frame.convert("RGBA"))
            durations.append(frame.info["duration"])
            levels = np.asarray(expected.convert("RGBA")).repeat(2, 0).repeat(2, 1)
            seen = levels[..., 3] == 255
            assert np.abs(pixels[seen].astype(int) - levels[seen])[:, :3].mean() < 2
    assert durations == [100, 200, 70]


@pytest.mark.parametrize(("form", "most"), [("gif", 655_350), ("webp", 2**24 - 1), ("png", 65_535)])
def test_a_duration_that_a_format_cannot_hold_becomes_the_nearest_that_it_can(tmp_path, form, most):
    levels = [np.full((4, 5, 3), level, np.uint8) for level in (0, 90, 250)]
    about, result, notes = ImageInfo((4, 5), "PNG", moves=True, loop=0), tmp_path / f"a.{form}", []
    durations = zip(levels, (-7, 100, 2**31), strict=True)
    frames = [Frame(pictures.Picture(level, None), duration) for level, duration in durations]
    write(frames, about, result, form, 100, STAMP, notes.append)
    with Image.open(result) as image:
        assert [frame.copy().info["duration"] for frame in ImageSequence.Iterator(image)] == [0, 100, most]
    assert f"{most / 1e3:g}" in "".join(notes)


def test_frames_count_together_against_the_limit(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert len(list(read_frames(tmp_path / "a.gif", 3 * 48, print))) == 3
    with pytest.raises(DataError, match="more than 143 pixels in all frames together; raise max_pixels"):
        list(read_frames(tmp_path / "a.gif", 3 * 48 - 1, print))


@pytest.mark.parametrize(
    ("form", "size", "moves", "said"),
    [
        ("jpeg", (10, 40_000), False, "jpeg cannot hold 80000x20 pixels; set format=png"),
        ("webp", (9000, 10), False, "webp cannot hold"),
        ("tiff", (30_000, 30_000), False, "tiff cannot hold"),
        ("jpeg", (10, 10), True, "jpeg cannot hold an animation"),
        ("tiff", (10, 10), True, "tiff cannot hold an animation"),
        ("gif", (10, 10), False, "gif has only 256 colours"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_it_is_computed(form, size, moves, said):
    with pytest.raises(DataError, match=said):
        refuse_unwritable(ImageInfo(size, "PNG", moves=moves), 2, form)
    refuse_unwritable(ImageInfo(size, "PNG", moves=moves), 2, "png")


@pytest.mark.parametrize(("suffix", "feature"), [("avif", "avif"), ("jp2", "jpg_2000")])
def test_formats_that_only_upscaling_reads(tmp_path, suffix, feature):
    if not features.check(feature):
        pytest.skip("this Pillow was built without it")
    Image.fromarray(drawn("RGB").colours).save(tmp_path / f"a.{suffix}")
    assert [picture.size for picture in read(tmp_path / f"a.{suffix}")] == [(5, 7)]


def test_a_heic_file_names_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"a\.heic: HEIC needs another package; pip install pillow-heif"):
        read_info(tmp_path / "a.heic", math.inf)


def test_pages_are_not_an_animation(tmp_path):
    pages = [Image.new("L", (4, 4), value) for value in (0, 255)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="has several pages"):
        read_info(tmp_path / "a.tif", math.inf)


def test_a_header_is_read_without_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.core, "zip_decoder", None)
    path, _ = stored(tmp_path, drawn("RGB"), "png")
    assert read_info(path, math.inf).size == (5, 7)


def test_an_exif_record_that_jpeg_cannot_hold_is_dropped_with_a_note(tmp_path):
    exif = camera()
    exif[0x010E] = "x" * 70_000
    path, said = stored(tmp_path, drawn("RGB"), "jpeg", about_of(drawn("RGB"), exif=exif.tobytes()))
    assert ["EXIF record is dropped" in text for text in said] == [True]
    assert stamp_of(path) == STAMP


@pytest.mark.parametrize("name", ["srcnn", "imdn_rtc", "bicubic"])  # luma, RGB, any colours
def test_a_network_for_any_colours_can_be_ensembled(name):
    ensemble = SelfEnsemble(Entry(name, 2).build().eval())
    image = torch.rand(1, 3, 6, 7)
    sr = upscale_batch(ensemble, image)
    assert sr.shape == (1, 3, 12, 14)
    assert torch.allclose(upscale_batch(ensemble, image.flip(-1)).flip(-1), sr, atol=1e-5)


def test_a_self_ensemble_is_the_mean_over_the_symmetries():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2)).eval()
    lr = torch.rand(1, 3, 6, 6)
    eight = network(dihedral(lr.expand(8, -1, -1, -1), torch.arange(8)))
    inverse = torch.tensor([0, 1, 2, 3, 4, 6, 5, 7])
    expected = dihedral(eight, inverse).mean(0, keepdim=True)
    with torch.no_grad():
        assert torch.allclose(SelfEnsemble(network)(lr), expected, atol=1e-6)
        assert SelfEnsemble(network)(lr[..., :4]).shape == (1, 3, 12, 8)
        wide = torch.rand(1, 3, 5, 9)
        turned = SelfEnsemble(network)(wide.flip(-1)).flip(-1)
        assert torch.allclose(SelfEnsemble(network)(wide), turned, atol=1e-6)


def test_a_result_may_go_into_an_open_file():
    shown = io.BytesIO()
    picture = drawn("RGB")
    write([Frame(picture)], about_of(picture), shown, "png", 95, STAMP, print)
    with Image.open(shown) as image:
        assert np.array_equal(np.asarray(image), picture.colours)
