import math

import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from sr_lab.ops.metrics import psnr, quantise, ssim
from tests import references


def pair(*shape, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (hr + noise * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1), hr


def test_psnr_of_a_constant_offset_is_exact():
    hr = torch.full((2, 1, 16, 16), 0.5)
    assert psnr(hr + 0.1, hr, crop_border=2).tolist() == pytest.approx([20.0, 20.0], abs=1e-5)


def test_psnr_equals_scikit_images():
    sr, hr = pair(1, 3, 20, 30)
    expected = peak_signal_noise_ratio(hr[0].numpy(), sr[0].numpy(), data_range=1)
    assert psnr(sr, hr, crop_border=0).item() == pytest.approx(expected, abs=1e-10)


def test_psnr_of_equal_images_is_infinite():
    image = torch.rand(1, 1, 8, 8)
    assert psnr(image, image, crop_border=0).item() == math.inf


def test_ssim_of_equal_images_is_one():
    image = torch.rand(2, 3, 16, 16)
    assert ssim(image, image, crop_border=0).tolist() == [1.0, 1.0]


def of_scikit_image(sr, hr):
    return references.ssim(sr[0, 0].numpy(), hr[0, 0].numpy(), data_range=1)


# The largest image is measured in strips, the last of which has fewer rows.
@pytest.mark.parametrize(("height", "width"), [(11, 11), (40, 53), (64, 32), (501, 303)])
def test_ssim_equals_scikit_images_on_the_valid_region(height, width):
    sr, hr = pair(1, 1, height, width)
    assert ssim(sr, hr, crop_border=0).item() == pytest.approx(of_scikit_image(sr, hr), abs=1e-12)


def checkerboard():
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(60), indexing="ij")
    return ((rows + columns) % 2).double()[None, None]


@pytest.mark.parametrize(
    ("sr", "hr"),
    [
        (torch.full((1, 1, 30, 30), 0.92), torch.full((1, 1, 30, 30), 0.91)),
        (0.92 + 1e-4 * torch.rand(1, 1, 30, 30), 0.92 + 1e-4 * torch.rand(1, 1, 30, 30)),
        (checkerboard(), 1 - checkerboard()),
        (torch.zeros(1, 1, 30, 30), torch.ones(1, 1, 30, 30)),
        (checkerboard() * 0.5 + 1e-7 * torch.rand(1, 1, 48, 60), checkerboard() * 0.5),
    ],
    ids=["flat", "nearly flat and bright", "inverse", "black and white", "tiny difference"],
)
def test_ssim_equals_scikit_images_where_rounding_would_matter(sr, hr):
    sr, hr = sr.double(), hr.double()
    assert ssim(sr, hr, crop_border=0).item() == pytest.approx(of_scikit_image(sr, hr), abs=1e-12)


def test_a_batch_measured_in_strips_gives_the_values_of_its_single_images():
    sr, hr = pair(3, 2, 150, 200)
    alone = [
        (of_scikit_image(s[None, None], h[None, None]) + of_scikit_image(s2[None, None], h2[None, None])) / 2
        for (s, s2), (h, h2) in zip(sr, hr, strict=True)
    ]
    assert ssim(sr, hr, crop_border=0).tolist() == pytest.approx(alone, abs=1e-12)


def test_ssim_equals_kornias():
    sr, hr = pair(2, 3, 24, 31)
    expected = kornia.metrics.ssim(sr, hr, 11, padding="valid").mean(dim=(1, 2, 3))
    assert ssim(sr, hr, crop_border=0).tolist() == pytest.approx(expected.tolist(), abs=1e-8)


def test_float32_images_are_measured_in_float64():
    # In float32 the variances of a bright, nearly constant image are lost to rounding.
    sr, hr = pair(1, 1, 32, 32, noise=1e-3)
    sr, hr = (0.9 + 0.01 * sr).float(), (0.9 + 0.01 * hr).float()
    assert ssim(sr, hr, crop_border=0).item() == ssim(sr.double(), hr.double(), crop_border=0).item()
    assert psnr(sr, hr, crop_border=0).dtype == ssim(sr, hr, crop_border=0).dtype == torch.float64


@pytest.mark.parametrize("metric", [psnr, ssim])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), crop_border=st.integers(0, 4))
def test_metrics_are_symmetric_and_ignore_the_border(metric, seed, crop_border):
    sr, hr = pair(2, 2, 20, 22, seed=seed)
    value = metric(sr, hr, crop_border=crop_border)
    assert value.tolist() == pytest.approx(metric(hr, sr, crop_border=crop_border).tolist(), abs=1e-12)
    inside = (..., slice(crop_border, 20 - crop_border), slice(crop_border, 22 - crop_border))
    spoilt = torch.zeros_like(sr)
    spoilt[inside] = sr[inside]
    assert torch.equal(metric(spoilt, hr, crop_border=crop_border), value)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_the_outermost_pixel_inside_the_border_counts(metric):
    sr, hr = pair(1, 1, 20, 20)
    changed = sr.clone()
    changed[..., 2, 2] += 0.5
    assert metric(changed, hr, crop_border=2).item() < metric(sr, hr, crop_border=2).item()


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_every_image_is_measured_separately(metric):
    sr, hr = pair(3, 1, 16, 16)
    alone = [metric(sr[i : i + 1], hr[i : i + 1], crop_border=1).item() for i in range(3)]
    assert metric(sr, hr, crop_border=1).tolist() == pytest.approx(alone, abs=1e-12)


def test_halves_are_rounded_up():
    levels = torch.tensor([-20.0, 0.49, 0.5, 2.5, 254.5, 300.0], dtype=torch.float64)
    assert (quantise(levels / 255) * 255).round().tolist() == [0, 0, 1, 3, 255, 255]


def test_quantising_twice_changes_nothing():
    image = torch.from_numpy(np.arange(256, dtype=np.float32) / 255)
    assert torch.equal(quantise(image), image)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("sr", "hr", "crop_border", "message"),
    [
        (
            (1, 3, 12, 12),
            (1, 3, 12, 13),
            0,
            r"same shape \(N, C, H, W\), got \(1, 3, 12, 12\) and \(1, 3, 12, 13\)",
        ),
        ((3, 12, 12), (3, 12, 12), 0, "same shape"),
        ((1, 1, 16, 12), (1, 1, 16, 12), 6, "crop_border=6 leaves no pixels of a 12x16 image"),
        ((1, 1, 12, 12), (1, 1, 12, 12), -1, "crop_border must be at least 0, got -1"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(metric, sr, hr, crop_border, message):
    with pytest.raises(ValueError, match=f"{metric.__name__}: .*{message}"):
        metric(torch.rand(sr), torch.rand(hr), crop_border=crop_border)


def test_integer_images_are_refused():
    image = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"psnr: expects floating-point images in \[0, 1\], got torch.uint8"):
        psnr(image, image, crop_border=0)


def test_ssim_needs_a_whole_window():
    image = torch.rand(1, 1, 14, 20)
    with pytest.raises(
        ValueError, match="crop_border=2 leaves 16x10 pixels of a 20x14 image; the window needs 11x11"
    ):
        ssim(image, image, crop_border=2)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_an_output_that_requires_a_gradient_can_be_measured(metric):
    sr, hr = pair(1, 1, 16, 16)
    value = metric(sr.requires_grad_(), hr, crop_border=0)
    assert not value.requires_grad
    assert value == metric(sr.detach(), hr, crop_border=0)
