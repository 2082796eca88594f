import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CCA, ESA, MSWA
from sr_lab.layers.bsconv import ERB, BSConv
from sr_lab.layers.distillation import IMDB, RFDB
from sr_lab.layers.image import DIV2K_MEAN, ImageRange, MeanShift, without_mean_shift
from sr_lab.ops.complexity import num_params


def test_bsconv_has_a_bias_only_on_its_depthwise_part():
    assert num_params(BSConv(24, 64)) == 24 * 64 + 64 * 9 + 64
    assert num_params(BSConv(64, 64, 1)) == 64 * 64 + 64 + 64


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_bsconv_keeps_the_image_size(kernel_size):
    assert BSConv(3, 8, kernel_size)(torch.rand(1, 3, 5, 9)).shape == (1, 8, 5, 9)


def test_bsconv_equals_a_convolution_with_a_blueprint_kernel():
    conv = BSConv(3, 5)
    kernel = (
        conv.pointwise.weight * conv.depthwise.weight
    )  # (5, 3, 1, 1) * (5, 1, 3, 3), Haase and Amthor, Eq. 4
    x = torch.rand(1, 3, 6, 7)
    expected = torch.nn.functional.conv2d(x, kernel, conv.depthwise.bias, padding=1)
    torch.testing.assert_close(conv(x), expected)


def test_an_erb_with_zero_weights_is_its_activation():
    block = ERB(4, 3)
    torch.nn.init.zeros_(block.conv.depthwise.weight)
    torch.nn.init.zeros_(block.conv.depthwise.bias)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.nn.functional.gelu(x))


def published_cca(cca, x):
    """CCA as in IMDN's code, which computes the population standard deviation without an epsilon."""
    mean = x.sum(3, keepdim=True).sum(2, keepdim=True) / (x.size(2) * x.size(3))
    variance = (x - mean).pow(2).sum(3, keepdim=True).sum(2, keepdim=True) / (x.size(2) * x.size(3))
    return x * cca.excite(mean + variance.pow(0.5))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("contrast", [1.0, 1e-4, 0.0], ids=["image", "faint", "constant"])
def test_cca_equals_the_published_code(mode, contrast):
    torch.manual_seed(0)
    cca = CCA(64).train(mode == "train")
    x = 0.5 + contrast * torch.randn(2, 64, 12, 10)
    torch.testing.assert_close(cca(x), published_cca(cca, x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_cca_has_finite_gradients_on_a_constant_patch(value):
    cca = CCA(16)
    x = torch.full((1, 16, 8, 8), value, requires_grad=True)
    cca(x).sum().backward()
    assert x.grad.isfinite().all()


def test_cca_computes_its_statistics_in_float32():
    cca = CCA(16)
    x = 300 + torch.randn(1, 16, 64, 64)  # the sum of squares overflows float16
    expected = cca.weights(x.half().float())
    torch.testing.assert_close(cca.half().weights(x.half()).float(), expected, atol=2e-3, rtol=0)


def test_cca_has_580_parameters():
    assert num_params(CCA(64)) == 64 * 4 + 4 + 4 * 64 + 64 == 580


def test_cca_refuses_a_reduction_that_leaves_no_channel():
    with pytest.raises(ConfigError, match="num_feat=8 leaves no channel at reduction=16"):
        CCA(8)


def test_esa_has_4064_parameters():
    bsconv = 16 * 16 + 16 * 9 + 16
    assert num_params(ESA(64)) == (64 * 16 + 16) + (16 * 16 + 16) + 4 * bsconv + (16 * 64 + 64) == 4064


def test_esa_in_rfdns_form_has_2960_parameters():
    conv3x3 = 8 * 8 * 9 + 8
    esa = ESA(32, num_squeezed=8, form="rfdn")
    assert num_params(esa) == (32 * 8 + 8) + 4 * conv3x3 + (8 * 8 + 8) + (8 * 32 + 32) == 2960


def test_esa_keeps_the_image_size_and_refuses_an_image_below_its_minimum():
    esa = ESA(16)
    assert esa(torch.rand(1, 16, 15, 32)).shape == (1, 16, 15, 32)
    with pytest.raises(ConfigError, match="at least 15x15 pixels, got 32x14"):
        esa(torch.rand(1, 16, 14, 32))


def test_mswa_averages_only_pixels_inside_the_image():
    mswa = MSWA(1)
    torch.nn.init.ones_(mswa.conv.weight)
    torch.nn.init.zeros_(mswa.conv.bias)
    x = torch.full((1, 1, 6, 6), 0.7)
    torch.testing.assert_close(mswa(x), torch.sigmoid(x))


def test_mswa_without_windows_is_pixel_attention():
    mswa = MSWA(4, window_sizes=())
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(mswa(x), torch.sigmoid(mswa.conv(x)))


def test_mswa_has_only_the_parameters_of_its_1x1_convolution():
    assert num_params(MSWA(24)) == 24 * 24 + 24


@pytest.mark.parametrize(("block", "params"), [(IMDB, 26_090), (RFDB, 38_992)])
def test_distillation_blocks_keep_the_image_size(block, params):
    net = block(32)
    assert num_params(net) == params
    assert net(torch.rand(1, 32, 15, 17)).shape == (1, 32, 15, 17)


def test_an_unknown_form_of_esa_is_refused():
    with pytest.raises(ConfigError, match="got form=typo; allowed: bsrn, rfdn"):
        ESA(16, form="typo")


def test_even_window_sizes_are_refused():
    with pytest.raises(ConfigError, match="window_sizes must be odd and at least 1, got \\(2,\\)"):
        MSWA(8, window_sizes=(2,))


@pytest.mark.parametrize("gain", [1, 255])
def test_a_frozen_mean_shift_is_dropped_because_image_range_replaces_it(gain):
    mean = gain * torch.tensor(DIV2K_MEAN)
    identity = torch.eye(3).view(3, 3, 1, 1)
    state = {"sub_mean.weight": identity, "sub_mean.bias": -mean, "add_mean.shifter.bias": mean}
    assert set(without_mean_shift(state | {"head.weight": identity}, gain=gain)) == {"head.weight"}


def test_a_trained_mean_shift_is_not_dropped():
    state = {"sub_mean.weight": 0.9 * torch.eye(3).view(3, 3, 1, 1), "add_mean.bias": torch.zeros(3)}
    assert set(without_mean_shift(state, gain=255)) == set(state)


def test_image_range_and_its_inverse_cancel_out():
    image, shift = torch.rand(2, 3, 4, 5), ImageRange(gain=255)
    assert torch.allclose(shift.restore(shift(image)), image, atol=1e-6)
    assert torch.allclose(shift(image), MeanShift(sign=-1)(image * 255), atol=1e-4)
    assert shift.state_dict() == {}
