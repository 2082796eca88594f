import kornia
import pytest
import torch

from sr_lab.ops import colour
from sr_lab.ops.colour import rgb_to_y


def test_luma_of_white_and_black_matches_matlab():
    y = rgb_to_y(torch.tensor([[1.0] * 3, [0.0] * 3]).view(2, 3, 1, 1))
    assert (y.flatten() * 255).tolist() == pytest.approx([235.0, 16.0], abs=1e-4)


def test_luma_of_primaries_matches_matlab():
    y = rgb_to_y(torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1))
    assert (y.flatten() * 255).tolist() == pytest.approx([81.481, 144.553, 40.966], abs=1e-9)


def test_full_range_luma_equals_kornias():
    rgb = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(rgb_to_y(rgb, full_range=True), kornia.color.rgb_to_y(rgb), rtol=0, atol=1e-6)


def test_the_full_range_luma_of_a_grey_pixel_is_its_value():
    grey = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    y = rgb_to_y(grey.expand(-1, 3, -1, -1), full_range=True)
    torch.testing.assert_close(y, grey, rtol=0, atol=1e-15)


def test_leading_axes_are_kept():
    rgb = torch.rand(4, 2, 3, 5, 6)
    y = rgb_to_y(rgb)
    assert y.shape == (4, 2, 1, 5, 6)
    torch.testing.assert_close(y[1, 1], rgb_to_y(rgb[1, 1]))


@pytest.mark.parametrize("rgb", [torch.rand(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)])
def test_images_that_are_not_floating_point_rgb_are_refused(rgb):
    with pytest.raises(ValueError, match="rgb_to_y: expects floating-point images"):
        rgb_to_y(rgb)


def test_the_matrix_to_rgb_is_the_inverse_of_the_matrix_from_rgb():
    product = (
        torch.tensor(colour._TO_RGB, dtype=torch.float64) @ torch.tensor(colour._TO_YCBCR).double() / 255
    )
    torch.testing.assert_close(product, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)
