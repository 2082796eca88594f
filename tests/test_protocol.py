import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.errors import ConfigError
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import psnr, quantise
from sr_lab.ops.resize import downscale_uint8, imresize
from sr_lab.protocol import PROTOCOLS, Protocol, variants
from sr_lab.reporting.formatting import fixed

RGB_UINT8, RGB_DOUBLE, CLASSIC_Y, MATLAB_UINT8 = PROTOCOLS.values()
FULL_RANGE_GAIN = 20 * np.log10(255 / 219)  # dB


def photograph(height=41, width=46, seed=0):
    """A smooth uint8 image whose sides are not multiples of 2, 3 or 4."""
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(noise, size=(height, width), mode="bilinear")
    return (image * 255).round().to(torch.uint8)


def grey_photograph():
    return photograph()[:, :1].expand(-1, 3, -1, -1)


def test_the_four_protocols_have_their_names():
    assert list(PROTOCOLS) == ["rgb_uint8", "rgb_double", "classic_y", "matlab_uint8"]
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_is_made_from_the_cropped_image(scale):
    hr = photograph()
    cropped = hr[..., : 41 // scale * scale, : 46 // scale * scale]
    for protocol in PROTOCOLS.values():
        lr = protocol.make_lr(hr, scale)
        assert lr.dtype == torch.float32
        assert lr.shape == (1, 1 if protocol is CLASSIC_Y else 3, 41 // scale, 46 // scale)
        assert torch.equal(lr, protocol.make_lr(cropped, scale))


def test_the_rgb_uint8_protocol_rounds_after_each_axis():
    hr = photograph(48, 48)
    assert torch.equal(RGB_UINT8.make_lr(hr, 2), downscale_uint8(hr, scale=2).float() / 255)


def test_the_rgb_double_protocol_rounds_once():
    hr = photograph(48, 48)
    lr = RGB_DOUBLE.make_lr(hr, 3)
    assert torch.equal(lr, quantise(imresize(hr.double() / 255, denominator=3)).float())
    assert not torch.equal(lr, RGB_UINT8.make_lr(hr, 3))


def test_the_classic_y_protocol_downscales_rounded_luma_without_rounding_the_result():
    hr = photograph(48, 48)
    luma = (rgb_to_y(hr.double() / 255) * 255).round() / 255
    lr = CLASSIC_Y.make_lr(hr, 2)
    torch.testing.assert_close(lr.double(), imresize(luma, denominator=2), rtol=0, atol=1e-7)
    assert (lr * 255 - (lr * 255).round()).abs().max() > 0.1


def test_measuring_ignores_as_many_pixels_at_every_edge_as_the_scale():
    hr = photograph(36, 36)
    sr = hr.double() / 255 + 0.05 * torch.rand(hr.shape, generator=torch.Generator().manual_seed(1))
    before = RGB_UINT8.measure(sr, hr, 3)
    sr[..., :3, :] = sr[..., -3:, :] = sr[..., :, :3] = sr[..., :, -3:] = 0
    assert RGB_UINT8.measure(sr, hr, 3) == before
    sr[..., 3, 3] = 0
    assert RGB_UINT8.measure(sr, hr, 3)[0] < before[0]


def test_hr_is_cropped_to_the_scale_before_measuring():
    hr = photograph(41, 46)
    psnr_y, ssim_y = RGB_UINT8.measure(hr[..., :40, :44].float() / 255, hr, 4)
    assert psnr_y.item() == float("inf")
    assert ssim_y.item() == pytest.approx(1.0)


def test_results_are_clipped_and_rounded_before_measuring():
    hr = photograph(36, 36)
    sr = hr.double() / 255
    assert RGB_UINT8.measure(sr + 0.49 / 255, hr, 2)[0].item() == float("inf")
    unquantised = dataclasses.replace(RGB_UINT8, quantise=False)
    assert unquantised.measure(sr + 0.49 / 255, hr, 2)[0].item() < 60
    white = torch.full((1, 3, 36, 36), 255, dtype=torch.uint8)
    assert RGB_UINT8.measure(torch.full((1, 3, 36, 36), 7.0), white, 2)[0].item() == float("inf")


def test_luma_of_an_rgb_result_is_not_rounded():
    hr = photograph(36, 36)
    sr = hr.clone()
    sr[:, 2] = (sr[:, 2].int() + 1).clamp(max=255).to(torch.uint8)  # one level of blue is 0.098 levels of Y
    expected = psnr(rgb_to_y(sr.double() / 255), rgb_to_y(hr.double() / 255), crop_border=2)
    assert RGB_UINT8.measure(sr.float() / 255, hr, 2)[0].item() == pytest.approx(expected.item(), abs=1e-9)
    assert expected.item() > 67


def test_a_luma_network_is_measured_on_its_luma():
    hr = photograph(36, 36)
    luma = rgb_to_y(hr.double() / 255)
    assert RGB_UINT8.measure(luma, hr, 2)[0].item() > 300  # equal except for the last bit
    assert CLASSIC_Y.measure(luma, hr, 2)[0].item() == float("inf")  # both rounded


def test_full_range_luma_gives_a_lower_psnr():
    hr = photograph(36, 36)
    sr = (hr.double() / 255 + 3 / 255).clamp(0, 1)
    full = dataclasses.replace(RGB_UINT8, luma_range="full")
    gain = RGB_UINT8.measure(sr, hr, 2)[0] - full.measure(sr, hr, 2)[0]
    assert gain.item() == pytest.approx(FULL_RANGE_GAIN, abs=1e-6)


def test_a_grey_file_has_a_higher_psnr_when_measured_as_rgb():
    hr = grey_photograph()
    as_luma = dataclasses.replace(RGB_UINT8, grey="luma")
    sr = imresize(RGB_UINT8.make_lr(hr, 2, grey=True), numerator=2)
    gain = RGB_UINT8.measure(sr, hr, 2, grey=True)[0] - as_luma.measure(sr, hr, 2, grey=True)[0]
    assert gain.item() == pytest.approx(FULL_RANGE_GAIN, abs=1e-6)
    # Without grey=True, the file counts as one with three channels.
    assert torch.equal(as_luma.measure(sr, hr, 2)[0], RGB_UINT8.measure(sr, hr, 2)[0])


def test_a_grey_file_is_used_as_luma_in_classic_y():
    hr = grey_photograph()
    torch.testing.assert_close(
        CLASSIC_Y.make_lr(hr, 2, grey=True).double(),
        imresize(hr[:, :1, :40].double() / 255, denominator=2),
        rtol=0,
        atol=1e-7,
    )


def test_an_rgb_protocol_measures_all_channels():
    hr = photograph(36, 36)
    sr = quantise(hr.double() / 255 + 0.1 * torch.rand(1, 3, 36, 36, dtype=torch.float64))
    protocol = Protocol(name="rgb", colour="rgb", crop=5)
    expected = psnr(sr, hr.double() / 255, crop_border=5)
    assert torch.equal(protocol.measure(sr, hr, 2)[0], expected)


def test_networks_get_the_channels_they_take():
    lr = RGB_UINT8.make_lr(photograph(), 2)
    assert RGB_UINT8.network_input(lr, "rgb") is lr
    assert RGB_UINT8.network_input(lr, "any") is lr
    assert torch.equal(RGB_UINT8.network_input(lr, "y"), rgb_to_y(lr))
    luma = CLASSIC_Y.make_lr(photograph(), 2)
    assert CLASSIC_Y.network_input(luma, "y") is luma
    assert CLASSIC_Y.network_input(luma, "any") is luma


def test_an_rgb_network_does_not_fit_classic_y():
    message = "protocol classic_y has a luma LR image, got an RGB network; allowed: rgb_uint8, rgb_double"
    with pytest.raises(ConfigError, match=message):
        CLASSIC_Y.network_input(torch.rand(1, 1, 8, 8), "rgb")


def test_a_luma_network_is_not_measured_on_rgb():
    protocol = Protocol(name="rgb", colour="rgb")
    with pytest.raises(ConfigError, match="protocol rgb measures RGB, got a network that returns luma only"):
        protocol.measure(torch.rand(1, 1, 36, 36), photograph(36, 36), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"luma_range": "half"}, "protocol p: unknown luma_range='half'; allowed: studio, full"),
        ({"border": "zero"}, "unknown border='zero'; allowed: symmetric, replicate"),
        ({"crop": -1}, "crop=-1; allowed: scale, or a number of at least 0"),
        ({"colour": "rgb", "lr_source": "luma"}, "colour=rgb needs an RGB result, got lr_source=luma"),
    ],
)
def test_invalid_fields_of_a_protocol_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(name="p", **fields)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_description_is_one_sentence_that_names_all_settings_that_affect_figures(protocol):
    text = protocol.describe(3)
    assert text.startswith(f"{protocol.name}: x3 ")
    assert text.endswith(".")
    assert ". " not in text
    assert "3 pixels cropped" in text
    for change in ({"border": "replicate"}, {"crop": 7}, {"luma_range": "full"}, {"quantise": False}):
        assert dataclasses.replace(protocol, **change).describe(3) != text


@pytest.mark.parametrize("colour", ["rgb", "y", "any"])
@pytest.mark.parametrize("protocol", [RGB_UINT8, RGB_DOUBLE], ids=lambda protocol: protocol.name)
def test_every_protocol_variant_differs_and_can_be_measured(protocol, colour):
    hr = photograph()
    listed = variants(protocol, colour=colour)
    assert listed[0] == ("as measured", protocol)
    assert len({label for label, _ in listed}) == len({other for _, other in listed}) == len(listed) > 7
    for _, other in listed:
        lr = other.network_input(other.make_lr(hr, 2), colour)
        assert other.measure(imresize(lr, numerator=2), hr, 2)[0].isfinite().all()


def test_variants_of_classic_y_measure_only_luma():
    labels = [label for label, _ in variants(CLASSIC_Y, colour="y")]
    assert "RGB instead of Y" not in labels
    assert "Y not rounded" in labels


def read(file):
    image = Image.open(file)
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return pixels, image.mode == "L"


def bicubic_row(data_dir, name, protocol, scale):
    values = []
    for file in sorted((data_dir / "benchmarks" / name / "HR").iterdir()):
        hr, grey = read(file)
        sr = protocol.bicubic(protocol.make_lr(hr, scale, grey=grey), scale)
        values.append(torch.stack(protocol.measure(sr, hr, scale, grey=grey)))
    return torch.stack(values).mean(dim=0).flatten().tolist()


# The bicubic rows that papers have printed since VDSR (Kim et al., CVPR 2016).
@pytest.mark.parametrize(
    ("name", "scale", "expected_psnr", "expected_ssim"),
    [
        ("Set5", 2, "33.66", "0.9299"),
        ("Set5", 3, "30.39", "0.8682"),
        ("Set5", 4, "28.42", "0.8104"),
        ("Set14", 2, "30.24", "0.8688"),
        ("Set14", 3, "27.55", "0.7742"),
        ("Set14", 4, "26.00", "0.7027"),
    ],
)
def test_published_bicubic_rows_are_reproduced(data_dir, name, scale, expected_psnr, expected_ssim):
    psnr_y, ssim_y = bicubic_row(data_dir, name, CLASSIC_Y, scale)
    assert fixed(psnr_y, 2) == expected_psnr
    assert fixed(ssim_y, 4) == expected_ssim


# Results for MATLAB's 8-bit images, upscaled as uint8 and as double.
@pytest.mark.parametrize(
    ("name", "protocol", "scale", "expected_psnr", "expected_ssim"),
    [
        ("Set5", RGB_UINT8, 2, 33.673, 0.9303),
        ("Set5", RGB_UINT8, 3, 30.403, 0.8689),
        ("Set5", RGB_UINT8, 4, 28.429, 0.8111),
        ("Set5", RGB_DOUBLE, 2, 33.682, 0.9305),
        ("Set5", RGB_DOUBLE, 3, 30.405, 0.8690),
        ("Set5", RGB_DOUBLE, 4, 28.431, 0.8113),
        ("Set5", MATLAB_UINT8, 4, 28.416, 0.8101),
    ],
)
def test_bicubic_rows_of_the_other_protocols_do_not_change(
    data_dir, name, protocol, scale, expected_psnr, expected_ssim
):
    psnr_y, ssim_y = bicubic_row(data_dir, name, protocol, scale)
    assert psnr_y == pytest.approx(expected_psnr, abs=0.0005)
    assert ssim_y == pytest.approx(expected_ssim, abs=5e-5)


@pytest.mark.parametrize("image", [photograph, grey_photograph])
def test_bicubic_luma_is_clipped_to_the_studio_range_before_it_is_rounded(image):
    extreme = (image() > 127).to(torch.uint8) * 255  # overshoots at every edge
    grey = image is grey_photograph
    lr = CLASSIC_Y.make_lr(extreme, 2, grey=grey)
    raw = imresize(lr, numerator=2)
    sr = CLASSIC_Y.bicubic(lr, 2)
    assert raw.min() * 255 < 16
    assert raw.max() * 255 > 235
    assert torch.equal(sr, raw.clamp(16 / 255, 235 / 255))
    full = dataclasses.replace(CLASSIC_Y, luma_range="full")
    assert torch.equal(full.bicubic(lr, 2), raw)


def test_a_luma_networks_result_is_not_clipped_to_the_studio_range():
    hr = torch.full((1, 3, 36, 36), 255, dtype=torch.uint8)
    sr = torch.full((1, 1, 36, 36), 240 / 255)
    assert CLASSIC_Y.measure(sr, hr, 2)[0].item() == pytest.approx(20 * np.log10(255 / 5))


def test_manga109s_bicubic_row_is_made_from_8_bit_images_at_every_step():
    hr = photograph(48, 48)
    lr = MATLAB_UINT8.make_lr(hr, 2)
    sr = MATLAB_UINT8.bicubic(lr, 2)
    luma = quantise(rgb_to_y(quantise(sr.double())))
    expected = psnr(luma, quantise(rgb_to_y(hr.double() / 255)), crop_border=2)
    assert torch.equal(lr, RGB_UINT8.make_lr(hr, 2))
    assert torch.equal(MATLAB_UINT8.measure(sr, hr, 2)[0], expected)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_each_protocol_says_whose_figures_it_reproduces(protocol):
    assert protocol.reproduces
    assert f"; reproduces {protocol.reproduces}." in protocol.describe(2)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_other_named_protocols_are_among_the_variants(protocol):
    shown = {other.settings for _, other in variants(protocol, colour="any")}
    assert {other.settings for other in PROTOCOLS.values()} <= shown
    labels = " ".join(label for label, _ in variants(protocol, colour="any"))
    assert all(name in labels for name in PROTOCOLS if name != protocol.name)
