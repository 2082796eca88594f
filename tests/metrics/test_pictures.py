"""PSNR and SSIM of images from any program."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

import sr_lab
from sr_lab.errors import ConfigError, DataError
from tests import references
from tests.datasets.test_images import save_png16


def picture(path, seed, height=40, width=48, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **more)
    return pixels


def of_skimage(sr, hr):
    """The PSNR and SSIM that scikit-image gives for images in 0..255."""
    return peak_signal_noise_ratio(hr, sr, data_range=255), references.ssim(sr, hr, data_range=255)


def test_every_convention_gives_the_figures_of_scikit_image(tmp_path):
    hr, sr = picture(tmp_path / "HR" / "a.png", 0), picture(tmp_path / "SR" / "ax4.bmp", 1)
    found = sr_lab.measure(tmp_path / "SR", tmp_path / "HR")
    assert found.scale == 4
    luma = [rgb2ycbcr(image[4:-4, 4:-4] / 255.0)[..., :1] for image in (sr, hr)]
    expected = {
        "rgb_uint8": of_skimage(*luma),
        "classic_y": of_skimage(*(np.floor(image + 0.5) for image in luma)),
        "rgb": of_skimage(*(image[4:-4, 4:-4].astype(float) for image in (sr, hr))),
    }
    assert found.images["a"].keys() == expected.keys()
    for way, figures in expected.items():
        assert found.images["a"][way] == pytest.approx(figures, abs=1e-5)
    assert found.mean == found.images["a"]


def test_the_settings_crop_and_colour_follow_the_conventions_of_a_challenge(tmp_path):
    hr, sr = picture(tmp_path / "0801.png", 0), picture(tmp_path / "0801x4.png", 1)
    found = sr_lab.measure(tmp_path / "0801x4.png", tmp_path / "0801.png", scale=4, crop=10, colour="rgb")
    expected = of_skimage(*(image[10:-10, 10:-10].astype(float) for image in (sr, hr)))
    assert found.images == {"0801": {"rgb crop=10": pytest.approx(expected, abs=1e-5)}}
    luma = sr_lab.measure(tmp_path / "0801x4.png", tmp_path / "0801.png", scale=4, colour="y")
    assert list(luma.mean) == ["rgb_uint8", "classic_y"]


def test_a_grey_file_is_measured_as_each_protocol_says(tmp_path):
    for name, seed in (("HR/a.png", 0), ("SR/a.png", 1)):
        picture(tmp_path / name, seed)
        Image.open(tmp_path / name).convert("L").save(tmp_path / name)
    found = sr_lab.measure(tmp_path / "SR", tmp_path / "HR", scale=2).mean
    assert found["classic_y"].psnr == pytest.approx(found["rgb"].psnr, abs=1e-9)
    assert found["rgb_uint8"].psnr == pytest.approx(found["rgb"].psnr + 20 * np.log10(255 / 219), abs=1e-6)


def test_the_mean_is_over_the_images_and_an_exact_image_has_an_infinite_psnr(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        picture(tmp_path / "HR" / f"{name}.png", seed)
    picture(tmp_path / "SR" / "a.png", 5)
    picture(tmp_path / "SR" / "b.png", 6)
    found = sr_lab.measure(tmp_path / "SR", tmp_path / "HR", scale=2)
    values = [own["rgb"].psnr for own in found.images.values()]
    assert found.mean["rgb"].psnr == pytest.approx(sum(values) / 2)
    picture(tmp_path / "SR" / "b.png", 1)
    found = sr_lab.measure(tmp_path / "SR", tmp_path / "HR", scale=2)
    assert found.images["b"]["rgb"] == (float("inf"), pytest.approx(1))


def test_a_larger_hr_image_is_cut_to_a_multiple_of_the_scale_and_images_of_equal_size_are_not(tmp_path):
    hr = picture(tmp_path / "HR" / "a.png", 0, 41, 46)
    picture(tmp_path / "SR" / "a_x4.png", 1, 40, 44)
    cut = sr_lab.measure(tmp_path / "SR", tmp_path / "HR")
    Image.fromarray(hr[:40, :44]).save(tmp_path / "HR" / "a.png")
    assert sr_lab.measure(tmp_path / "SR", tmp_path / "HR").images == cut.images
    sr = picture(tmp_path / "SR" / "a_x4.png", 1, 41, 46)
    Image.fromarray(hr).save(tmp_path / "HR" / "a.png")
    whole = sr_lab.measure(tmp_path / "SR", tmp_path / "HR").mean["rgb"]
    expected = of_skimage(*(image[4:-4, 4:-4].astype(float) for image in (sr, hr)))
    assert whole == pytest.approx(expected, abs=1e-5)


def refused(tmp_path, error, match, **settings):
    with pytest.raises(error, match=match):
        sr_lab.measure(tmp_path / "SR", tmp_path / "HR", **settings)


def test_the_message_about_images_that_cannot_be_measured_names_the_files(tmp_path):
    refused(tmp_path, DataError, "there is no folder .*HR")
    picture(tmp_path / "HR" / "a.png", 0)
    (tmp_path / "SR").mkdir()
    refused(tmp_path, DataError, "the folder .*SR has no image; allowed: ")
    picture(tmp_path / "SR" / "x2" / "a.png", 1)
    refused(tmp_path, DataError, r"SR has no image; its sub-folders have images.*: 1 in .*SR/x2; give these")
    picture(tmp_path / "SR" / "a_SR.png", 1, 20, 24)
    message = r"SR/a_SR.png is 24x20 pixels .* but .*HR/a.png is 48x40; the image must be 48x40$"
    refused(tmp_path, DataError, message, scale=2)
    picture(tmp_path / "SR" / "b_SR.png", 1)
    picture(tmp_path / "HR" / "c.png", 1)
    message = r"no HR image for b_SR.png in .*SR and no image in .*SR for c.png in .*HR; .* rename or"
    refused(tmp_path, DataError, message, scale=2)
    picture(tmp_path / "SR" / "a_x2.png", 1)
    refused(tmp_path, DataError, r"HR/a.png fits .*SR/a_SR.png and .*SR/a_x2.png; remove or rename", scale=2)
    picture(tmp_path / "SR" / "a.bmp", 1)
    picture(tmp_path / "SR" / "a.png", 1)
    refused(tmp_path, DataError, "a.bmp and a.png in .*SR have the same stem", scale=2)


def test_the_names_give_the_scale_and_a_different_scale_is_refused(tmp_path):
    picture(tmp_path / "HR" / "a.png", 0)
    picture(tmp_path / "SR" / "a.png", 1)
    refused(tmp_path, ConfigError, "the names of the images do not give one scale; set scale")
    assert sr_lab.measure(tmp_path / "SR", tmp_path / "HR", default_scale=3).is_assumed
    (tmp_path / "SR" / "a.png").rename(tmp_path / "SR" / "ax2.png")
    assert sr_lab.measure(tmp_path / "SR", tmp_path / "HR", default_scale=4).scale == 2
    refused(tmp_path, ConfigError, r"SR/ax2.png is x2 according to its name, got scale=4", scale=4)
    (tmp_path / "SR" / "ax2.png").rename(tmp_path / "SR" / "ax2_IMDN.png")
    assert sr_lab.measure(tmp_path / "SR", tmp_path / "HR", default_scale=4).scale == 2
    refused(tmp_path, ConfigError, r"SR/ax2_IMDN.png is x2 according to its name, got scale=4", scale=4)
    (tmp_path / "SR" / "ax2_IMDN.png").rename(tmp_path / "SR" / "ax2.png")
    picture(tmp_path / "HR" / "b.png", 0)
    picture(tmp_path / "SR" / "b_x3.png", 0)
    refused(tmp_path, ConfigError, r"ax2.png is x2 and .*b_x3.png is x3; measure one scale at a time")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "scale must be a whole number of at least 1, got 0"),
        ({"scale": 2, "crop": -1}, "crop must be a whole number of at least 0, got -1"),
        ({"scale": 2, "colour": "lab"}, "unknown colour='lab'; allowed: y, rgb"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    picture(tmp_path / "HR" / "a.png", 0)
    picture(tmp_path / "SR" / "a.png", 1)
    refused(tmp_path, ConfigError, message, **settings)


def test_16_bit_images_are_refused_because_reading_reduces_them_to_8_bits(tmp_path):
    picture(tmp_path / "HR" / "a.png", 0)
    (tmp_path / "SR").mkdir()
    for channels, colour_type in ((3, 2), (1, 0)):
        save_png16(tmp_path / "SR" / "a.png", np.full((40, 48, channels), 40000, np.uint16), colour_type)
        refused(
            tmp_path,
            DataError,
            r"SR/a.png has 16 bits, but the protocols compare 8-bit images; round it",
            scale=2,
        )


def test_images_too_small_for_their_crop_are_refused(tmp_path):
    picture(tmp_path / "HR" / "a.png", 0)
    picture(tmp_path / "SR" / "a.png", 1)
    refused(tmp_path, DataError, r"with 15 pixels cropped at every edge needs 41x41", scale=2, crop=15)
