import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.ops.complexity import num_params
from sr_lab.upsamplers.deconv import DeconvUpsampler
from sr_lab.upsamplers.mwaum import MWAUM
from sr_lab.upsamplers.pa import PAUpsampler
from sr_lab.upsamplers.rbwa import RBWAUpsampler
from sr_lab.upsamplers.stepwise import StepwiseUpsampler
from sr_lab.upsamplers.subpixel import SubpixelUpsampler

UPSAMPLERS = [SubpixelUpsampler, DeconvUpsampler, MWAUM, RBWAUpsampler, StepwiseUpsampler, PAUpsampler]


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("num_out_ch", [1, 3])
def test_the_output_size_is_exact(upsampler, scale, num_out_ch):
    tail = upsampler(num_feat=6, num_out_ch=num_out_ch, scale=scale)
    assert tail(torch.rand(2, 6, 5, 7)).shape == (2, num_out_ch, 5 * scale, 7 * scale)


@pytest.mark.parametrize(
    ("upsampler", "scale"),
    [
        (SubpixelUpsampler, 0),
        (DeconvUpsampler, 0),
        (MWAUM, 1),
        (MWAUM, 5),
        (MWAUM, 6),
        (RBWAUpsampler, 1),
        (RBWAUpsampler, 6),
        (StepwiseUpsampler, 0),
        (StepwiseUpsampler, 6),
        (PAUpsampler, 0),
        (PAUpsampler, 6),
    ],
)
def test_an_unsupported_scale_is_refused(upsampler, scale):
    with pytest.raises(ConfigError, match=f"scale={scale}; allowed"):
        upsampler(num_feat=6, num_out_ch=3, scale=scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_subpixel_has_the_parameters_of_one_convolution(scale):
    tail = SubpixelUpsampler(num_feat=64, num_out_ch=3, scale=scale)
    assert num_params(tail) == (64 * 9 + 1) * 3 * scale**2


def test_subpixel_with_middle_channels_has_the_parameters_of_two_convolutions():
    tail = SubpixelUpsampler(num_feat=40, num_out_ch=3, scale=4, mid_ch=4)
    assert num_params(tail) == (40 * 9 + 1) * 64 + (4 * 9 + 1) * 3
    assert tail(torch.rand(1, 40, 5, 7)).shape == (1, 3, 20, 28)


def test_subpixel_fills_each_block_of_pixels_from_one_position():
    tail = SubpixelUpsampler(num_feat=1, num_out_ch=1, scale=2)
    torch.nn.init.zeros_(tail[0].weight)
    tail[0].bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert tail(torch.rand(1, 1, 1, 2))[0, 0].tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]


@pytest.mark.parametrize(("scale", "kernel_size"), [(2, 3), (3, 5), (4, 7), (8, 15), (16, 31)])
def test_deconv_has_the_parameters_of_one_transposed_convolution(scale, kernel_size):
    tail = DeconvUpsampler(num_feat=40, num_out_ch=3, scale=scale)
    assert num_params(tail) == 40 * 3 * kernel_size**2 + 3


@pytest.mark.parametrize(("scale", "num_stages"), [(2, 1), (3, 1), (4, 2), (8, 3), (16, 4)])
def test_the_parameters_of_mwaum_follow_from_the_number_of_its_stages(scale, num_stages):
    first, later = (40 * 9 + 1) * 24, (24 * 9 + 1) * 24
    rest_of_stage = (24 + 1) * 24 + (24 * 9 + 1) * 24  # the pixel attention and the second convolution
    tail = MWAUM(num_feat=40, num_out_ch=3, scale=scale)
    assert num_params(tail) == (
        first + (num_stages - 1) * later + num_stages * rest_of_stage + (24 * 9 + 1) * 3
    )


def test_tails_have_the_same_size_order_as_in_table_3_of_imfm():
    # The paper prints MWAUM 596.362K, sub-pixel 594.011K and deconvolution 576.169K: gaps of 2.4K and 17.8K.
    mwaum, subpixel, deconv = (
        num_params(tail)
        for tail in (
            MWAUM(num_feat=40, num_out_ch=3, scale=4),
            SubpixelUpsampler(num_feat=40, num_out_ch=3, scale=4, mid_ch=4),
            DeconvUpsampler(num_feat=40, num_out_ch=3, scale=4),
        )
    )
    assert (mwaum - subpixel, subpixel - deconv) == (2_924, 17_332)


def rbwa_params(num_in_ch, num_out_ch):
    squeezed = num_out_ch // 4
    attention = 2 * num_out_ch * squeezed + squeezed + num_out_ch
    return (num_in_ch * 9 + 1) * num_out_ch + attention + (num_out_ch * 9 + 1) * num_out_ch


@pytest.mark.parametrize("num_feat", [60, 84], ids=["MREN", "MREN-L"])
def test_rbwa_has_the_parameters_of_its_stages(num_feat):
    first, second = rbwa_params(num_feat, num_feat), rbwa_params(num_feat, num_feat // 2)
    third = rbwa_params(num_feat // 2, num_feat // 4)
    for scale, stages, last in ((2, first, 1), (3, first + second, 2), (4, first + second, 2)):
        tail = RBWAUpsampler(num_feat=num_feat, num_out_ch=3, scale=scale)
        assert num_params(tail) == stages + (num_feat // last * 9 + 1) * 3
    tail = RBWAUpsampler(num_feat=num_feat, num_out_ch=3, scale=8)
    assert num_params(tail) == first + second + third + (num_feat // 4 * 9 + 1) * 3


def test_rbwa_interpolates_bilinearly_before_its_convolutions():
    tail = RBWAUpsampler(num_feat=1, num_out_ch=1, scale=2)
    stage = tail.stages[0]
    for layer in (stage.conv1, stage.conv2, tail.last):
        torch.nn.init.zeros_(layer.bias)
        torch.nn.init.dirac_(layer.weight)
    torch.nn.init.zeros_(stage.attention.excite[1].weight)
    torch.nn.init.zeros_(stage.attention.excite[1].bias)  # the sigmoid is 1/2
    stage.act = torch.nn.Identity()
    row = tail(torch.tensor([[[[0.0, 8.0]]]]))[0, 0, 0]
    assert row.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(("scale", "factors"), [(2, [4]), (3, [9]), (4, [4, 4])])
def test_stepwise_has_the_parameters_of_edsrs_convolutions(scale, factors):
    tail = StepwiseUpsampler(num_feat=64, num_out_ch=3, scale=scale)
    assert num_params(tail) == sum((64 * 9 + 1) * 64 * factor for factor in factors) + (64 * 9 + 1) * 3


def test_stepwise_supports_groups_and_a_relu_before_the_shuffle():
    tail = StepwiseUpsampler(num_feat=64, num_out_ch=3, scale=2, groups=4, act=True)
    assert num_params(tail) == (16 * 9 + 1) * 256 + (64 * 9 + 1) * 3
    assert [type(layer).__name__ for layer in tail] == ["Conv2d", "ReLU", "PixelShuffle", "Conv2d"]
