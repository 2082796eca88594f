import pytest
from torch import nn

from sr_lab.inference.footprint import is_quadratic, measured_scale, reach
from tests.inference.test_tiling import Chain, built


@pytest.mark.parametrize(
    ("sizes", "pixels"), [((3,), 2), ((3, 3, 3), 3), ((7, 3, 1), 4), ((9, 9, 9, 9), 16), ((31,) * 4, 60)]
)
def test_the_receptive_field_of_convolutions_is_measured(sizes, pixels):
    assert reach(Chain(*sizes)) == pixels


def test_zero_weights_do_not_hide_the_receptive_field():
    network = Chain(3, 9)
    nn.init.zeros_(network.convs[1].weight)
    assert reach(network) == 5


def test_a_mean_over_the_image_has_no_bounded_receptive_field():
    assert reach(Chain(3, pool=True)) is None


def test_a_network_with_a_stride_has_no_fixed_receptive_field():
    """The pixels that an output depends on vary with the start of the tile."""
    assert reach(Chain(3, stride=4)) is None


@pytest.mark.parametrize(
    ("name", "pixels"),
    # 3x3 convolutions in a row; VDSR has twenty at HR size after a bicubic kernel
    [("bicubic", 2), ("span", 21), ("carn_m", 21), ("vdsr", 2 + 20 // 2), ("ecbsr_m4c16", 6)],
)
def test_networks_of_local_operations_have_a_bounded_receptive_field(name, pixels):
    assert reach(built(name)) == pixels


@pytest.mark.parametrize("name", ["imdn", "osffnet", "rfdn", "mren", "lbnet", "swinir_light"])
def test_networks_that_pool_or_attend_over_the_image_have_no_bounded_receptive_field(name):
    assert reach(built(name)) is None


def test_only_attention_over_the_image_makes_the_cost_per_pixel_grow_with_the_image():
    assert is_quadratic(built("lbnet"))
    assert not any(is_quadratic(built(name)) for name in ("imdn", "swinir_light"))


def test_the_scale_is_measured_from_the_output_if_the_network_does_not_state_it():
    network = nn.Sequential(nn.Conv2d(3, 27, 3, padding=1), nn.PixelShuffle(3))
    assert measured_scale(network) == 3
