import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sr_lab.ops.resize import downscale_uint8, imresize, mod_crop


def matlab_axis(values, numerator, denominator):
    """MATLAB's `contributions` along the last axis, written in numpy from its documentation."""
    length, factor = values.shape[-1], numerator / denominator
    shrink = min(factor, 1.0)
    size = length * numerator // denominator
    centre = np.arange(1, size + 1) / factor + 0.5 * (1 - 1 / factor)
    width = 4 / shrink
    index = np.floor(centre - width / 2)[:, None] + np.arange(np.ceil(width) + 2)
    x = np.abs(shrink * (centre[:, None] - index))
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weight = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    index = mirrored[(index - 1).astype(int) % (2 * length)]
    return (values[..., index] * weight).sum(axis=-1)


def matlab_imresize(image, numerator, denominator):
    rows = matlab_axis(image.swapaxes(-1, -2), numerator, denominator).swapaxes(-1, -2)
    return matlab_axis(rows, numerator, denominator)


@pytest.mark.parametrize(
    ("numerator", "denominator"), [(1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1), (3, 2), (2, 3)]
)
def test_imresize_equals_matlabs(numerator, denominator):
    image = torch.rand(2, 3, 24, 36, dtype=torch.float64)
    expected = matlab_imresize(image.numpy(), numerator, denominator)
    result = imresize(image, numerator=numerator, denominator=denominator)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("height", "width", "denominator"), [(4, 4, 4), (3, 6, 3), (2, 8, 2)])
def test_an_image_smaller_than_the_kernel_is_mirrored_repeatedly(height, width, denominator):
    image = torch.rand(1, 1, height, width, dtype=torch.float64)
    expected = matlab_imresize(image.numpy(), 1, denominator)
    np.testing.assert_allclose(imresize(image, denominator=denominator).numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("height", "width"), [(7, 1), (1, 7), (1, 1)])
@pytest.mark.parametrize("numerator", [2, 3, 4])
def test_an_image_of_one_row_or_column_equals_matlabs(height, width, numerator):
    image = torch.rand(2, 3, height, width, dtype=torch.float64)
    expected = matlab_imresize(image.numpy(), numerator, 1)
    np.testing.assert_allclose(imresize(image, numerator=numerator).numpy(), expected, rtol=0, atol=1e-13)


def test_replicate_padding_differs_only_at_the_border():
    image = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    difference = (imresize(image, denominator=4) - imresize(image, denominator=4, border="replicate")).abs()
    assert difference[..., 2:-2, 2:-2].max() == 0
    assert difference[..., 0, :].min() > 0


def test_replicate_padding_repeats_the_edge_pixel():
    image = torch.rand(1, 2, 12, 15, dtype=torch.float64)
    wider = torch.nn.functional.pad(image, (9, 9, 9, 9), mode="replicate")
    expected = imresize(wider, denominator=3)[..., 3:-3, 3:-3]
    torch.testing.assert_close(
        imresize(image, denominator=3, border="replicate"), expected, rtol=0, atol=1e-13
    )


def test_the_result_is_rounded_after_each_axis_with_the_height_first():
    image = torch.randint(0, 256, (1, 3, 40, 60)).double()
    rows = matlab_axis(image.numpy().swapaxes(-1, -2), 1, 2).swapaxes(-1, -2)
    rows = np.clip(np.floor(rows + 0.5), 0, 255)
    expected = np.clip(np.floor(matlab_axis(rows, 1, 2) + 0.5), 0, 255)
    assert (imresize(image, denominator=2, round_each_axis=True).numpy() == expected).all()


def test_halves_are_rounded_up():
    image = torch.tensor([[0.0, 1.0]]).repeat(2, 1).view(1, 1, 2, 2)  # mean 0.5 in every row
    assert imresize(image, denominator=2, round_each_axis=True).item() == 1.0


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    numerator=st.integers(1, 5),
    denominator=st.integers(1, 5),
    border=st.sampled_from(["symmetric", "replicate"]),
)
def test_a_constant_image_stays_constant(height, width, numerator, denominator, border):
    image = torch.full((1, 2, height * denominator, width * denominator), 0.3, dtype=torch.float64)
    result = imresize(image, numerator=numerator, denominator=denominator, border=border)
    assert result.shape == (1, 2, height * numerator, width * numerator)
    assert (result - 0.3).abs().max() < 1e-14


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1)])
def test_a_ramp_stays_a_ramp_away_from_the_border(numerator, denominator):
    step = numerator / denominator
    ramp = torch.arange(48, dtype=torch.float64).expand(1, 1, 48, 48)
    result = imresize(ramp, numerator=numerator, denominator=denominator)[0, 0, 24 * numerator // denominator]
    centres = (torch.arange(len(result), dtype=torch.float64) + 0.5) / step - 0.5
    margin = 2 + 2 * numerator
    torch.testing.assert_close(result[margin:-margin], centres[margin:-margin], rtol=0, atol=1e-12)


def test_images_of_a_batch_do_not_affect_each_other():
    images = torch.rand(3, 2, 12, 16)
    alone = torch.cat([imresize(image[None], denominator=4) for image in images])
    assert torch.equal(imresize(images, denominator=4), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_imresize_keeps_the_dtype(dtype):
    assert imresize(torch.rand(1, 1, 8, 8, dtype=dtype), denominator=2).dtype == dtype


def test_imresize_gives_the_shape_on_the_meta_device():
    assert imresize(torch.empty(2, 3, 9, 12, device="meta"), denominator=3).shape == (2, 3, 3, 4)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (
            torch.rand(1, 1, 5, 8),
            {"denominator": 2},
            "an image of 8x5 pixels times 1/2 has a fractional size",
        ),
        (torch.rand(1, 8, 8), {}, r"non-empty floating-point images \(N, C, H, W\), got shape \(1, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), {}, "of torch.uint8"),
        (torch.rand(1, 1, 0, 8), {}, "expects non-empty"),
        (torch.rand(1, 1, 8, 8), {"numerator": 0}, "must be at least 1, got 0 and 1"),
        (
            torch.rand(1, 1, 8, 8),
            {"border": "zero"},
            "unknown border='zero'; allowed: 'symmetric', 'replicate'",
        ),
    ],
)
def test_invalid_images_and_arguments_are_refused(image, arguments, message):
    with pytest.raises(ValueError, match=message):
        imresize(image, **arguments)


def test_downscale_refuses_floats():
    with pytest.raises(ValueError, match=r"downscale_uint8: expects uint8 images, got torch\.float32"):
        downscale_uint8(torch.rand(1, 3, 8, 8), scale=2)


def test_mod_crop_cuts_the_right_and_bottom_edges():
    image = torch.arange(5 * 7).view(1, 1, 5, 7)
    assert torch.equal(mod_crop(image, 3), image[..., :3, :6])
    assert torch.equal(mod_crop(image, 1), image)


@pytest.mark.parametrize(
    ("folder", "border"),
    [
        ("Set5/LR_matlab", "symmetric"),
        ("Set5/LR_matlab_selfexsr", "replicate"),
        ("Set14/LR_matlab", "replicate"),
    ],
)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlabs_images_are_reproduced_bit_for_bit(data_dir, folder, border, scale):
    benchmarks = data_dir / "benchmarks"
    hr_files = sorted((benchmarks / folder).parent.glob("HR/*.png"))
    assert hr_files
    for hr_file in hr_files:
        lr_file = benchmarks / folder / f"X{scale}" / f"{hr_file.stem}x{scale}.png"
        hr, lr = (np.atleast_3d(np.asarray(Image.open(file))) for file in (hr_file, lr_file))
        hr = mod_crop(torch.tensor(hr).permute(2, 0, 1)[None], scale)
        assert (downscale_uint8(hr, scale=scale, border=border)[0].permute(1, 2, 0).numpy() == lr).all(), (
            lr_file
        )
