"""IMDN (Hui et al., ACM MM 2019): the printed sizes, the light variant, and the optional image skip."""

import pytest
import torch

from sr_lab.checkpoints.opening import build_network
from sr_lab.errors import ConfigError
from sr_lab.models.imdn import IMDN
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.ops.resize import imresize
from tests.composing import compose
from tests.papers.meta import on_meta


@pytest.mark.parametrize(
    ("scale", "params", "multi_adds_g"), [(2, 694_404, 158.8), (3, 703_059, 71.5), (4, 715_176, 40.9)]
)
def test_the_size_equals_the_printed_size(scale, params, multi_adds_g):
    net = on_meta(IMDN, scale=scale)
    counted = multi_adds(net, scale=scale, rule="conv") / 1e9
    if scale == 3:
        counted *= 427 / 426  # the paper rounds the LR width 1280 / 3 up; sr_lab rounds it down (71.3 G)
    assert num_params(net) == params
    assert counted == pytest.approx(multi_adds_g, abs=0.05)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_image_skip_adds_matlabs_bicubic_image(scale):
    net = IMDN(scale=scale, num_feat=16, num_block=1, image_skip=True)
    torch.nn.init.zeros_(net.tail[0].weight)
    torch.nn.init.zeros_(net.tail[0].bias)
    lr = torch.rand(1, 3, 9, 11)
    inner = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))  # the borders differ
    torch.testing.assert_close(net(lr)[inner], imresize(lr, numerator=scale)[inner], atol=1e-5, rtol=0)


def test_the_image_skip_has_no_parameters():
    assert num_params(on_meta(IMDN, scale=2, image_skip=True)) == 694_404


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_the_image_skip_works_in_half_precision(dtype):
    net = IMDN(scale=2, num_feat=16, num_block=1, image_skip=True).eval()
    lr = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=dtype):
            assert net(lr).isfinite().all()
        assert net.to(dtype)(lr.to(dtype)).dtype == dtype


def test_the_light_variant_is_available_as_an_option_and_as_an_argument():
    option = build_network(compose("trainer=cpu", "model=imdn_rtc", "scale=2"))
    argument = build_network(compose("trainer=cpu", "model=imdn", "+model.variant=rtc", "scale=2"))
    assert num_params(option) == 20_190
    assert num_params(argument) == num_params(on_meta(IMDN, scale=2, variant="rtc"))  # with IMDN's width


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "as"}, "got variant=as; allowed: imdn, rtc"),
        ({"variant": "rtc", "cca_reduction": 4}, "has no channel attention, got cca_reduction=4"),
    ],
    ids=["unknown variant", "attention that is not there"],
)
def test_an_unknown_variant_and_a_setting_without_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        IMDN(scale=2, **settings)
