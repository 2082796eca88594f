"""MREN and MREN-L (Cai et al.): the sizes printed in Tables 1 and 3 to 6, and the equations."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import WSILBV
from sr_lab.models.mren import DRACB, MREN, SCACB
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.upsamplers.rbwa import RBWAUpsampler
from tests.papers.meta import on_meta

CONF = Path(__file__).parents[2] / "conf"
MREN_L = {"num_feat": 84}
DISTILLATION_BLOCK = {"communication_weight": 0.0, "dracb_sigmoid": False}
SMALL = {"num_feat": 16, "num_block": 1}


def params_k(**settings):
    return num_params(on_meta(MREN, **settings)) / 1e3


@pytest.mark.parametrize(
    ("num_block", "printed"), [(3, 196), (4, 230), (5, 264), (6, 298), (7, 332), (8, 366)]
)
def test_table_1_is_reproduced(num_block, printed):
    assert params_k(scale=4, num_block=num_block) == pytest.approx(printed, abs=0.5)


@pytest.mark.parametrize(("mode", "printed"), [("osa", 245), ("oca", 375), ("scnc", 298), ("full", 298)])
def test_table_3_is_reproduced(mode, printed):
    assert params_k(scale=4, scacb=mode) == pytest.approx(printed, abs=0.5)


@pytest.mark.parametrize(
    "settings",
    [DISTILLATION_BLOCK, {"communication_weight": 0.0}, {"dracb_sigmoid": False}, {}],
    ids=["distillation block", "+ sigmoid", "+ jump connection", "DRACB"],
)
def test_table_4_is_reproduced(settings):
    assert params_k(scale=4, **settings) == pytest.approx(298, abs=0.5)


@pytest.mark.parametrize(
    ("settings", "scale", "printed"),
    [({}, 2, 274), ({}, 3, 298), ({}, 4, 298), (MREN_L, 2, 531), (MREN_L, 3, 579), (MREN_L, 4, 579)],
)
def test_table_5_is_reproduced(settings, scale, printed):
    assert params_k(scale=scale, **settings) == pytest.approx(printed, abs=0.5)


@pytest.mark.parametrize(("settings", "printed"), [({}, 23.8), (MREN_L, 46.3)], ids=["MREN", "MREN-L"])
def test_table_6_is_reproduced_with_the_authors_counter(settings, printed):
    net = on_meta(MREN, scale=2, **settings)
    assert multi_adds(net, scale=2, rule=net.multi_adds_rule) / 1e9 == pytest.approx(printed, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "scale", "counted"),
    [
        ({}, 2, 105.1),  # Table 6 prints 23.8, though it counts other networks at 1280x720
        ({}, 3, 69.1),
        ({}, 4, 49.0),
        (MREN_L, 2, 204.5),  # printed: 46.3
        (MREN_L, 3, 134.7),
        (MREN_L, 4, 95.5),
    ],
)
def test_the_full_count_is_exact(settings, scale, counted):
    net = on_meta(MREN, scale=scale, **settings)
    assert multi_adds(net, scale=scale, rule="all") / 1e9 == pytest.approx(counted, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"scale": 2}, 274_308),
        ({"scale": 4}, 298_315),
        ({"scale": 4, "scacb": "osa"}, 245_035),
        ({"scale": 4, "scacb": "oca"}, 374_995),
        ({"scale": 2, **MREN_L}, 531_198),
        ({"scale": 4, **MREN_L}, 578_668),
    ],
)
def test_parameters_are_exact_to_the_unit(settings, params):
    assert num_params(on_meta(MREN, **settings)) == params


def test_blocks_have_the_specified_parameter_counts():
    net = on_meta(MREN, scale=4)
    assert num_params(net.body[0]) == 34_035
    assert num_params(SCACB(60)) == 8_280


def test_mren_l_is_mren_with_84_channels():
    configs = [OmegaConf.load(CONF / "model" / f"{name}.yaml") for name in ("mren", "mren_l")]
    assert OmegaConf.merge(configs[0], {"num_feat": 84}) == configs[1]


def test_equation_3_is_the_rbwa_tail_that_any_network_can_use():
    native, named = (MREN(scale=3, upsampler=tail, **SMALL).eval() for tail in (None, RBWAUpsampler))
    named.load_state_dict(native.state_dict())
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        assert torch.equal(named(lr), native(lr))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equation_4_adds_the_bicubic_image(scale):
    net = MREN(scale=scale, **SMALL).eval()
    torch.nn.init.zeros_(net.tail.last.weight)
    torch.nn.init.zeros_(net.tail.last.bias)
    lr = torch.rand(1, 3, 7, 9)
    expected = F.interpolate(lr, size=(7 * scale, 9 * scale), mode="bicubic", align_corners=False)
    torch.testing.assert_close(net(lr), expected)


@pytest.mark.parametrize(
    ("weight", "message"), [(0.0, "raw"), (0.2, "raw"), (0.2, "fused"), (1.0, "raw"), (1.0, "fused")]
)
def test_a_block_follows_equations_5_and_6(weight, message):
    torch.manual_seed(0)
    block = DRACB(6, 3, communication_weight=weight, sigmoid=True, message=message)
    x, previous = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5)
    own = block.conv(x)
    fused = weight * previous + own
    out, handed_on = block(x, previous)
    torch.testing.assert_close(out, fused * torch.sigmoid(fused))
    torch.testing.assert_close(handed_on, own if message == "raw" else fused)


def test_a_block_without_sigmoid_outputs_its_feature_map():
    block = DRACB(6, 3, communication_weight=0.2, sigmoid=False, message="raw")
    x, previous = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(block(x, previous)[0], block.conv(x) + 0.2 * previous)


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({}, {"communication_weight": 0.0}),
        ({}, {"dracb_sigmoid": False}),
        ({}, {"dracb_message": "fused"}),
        ({}, {"scacb_exchange": "final"}),
    ],
)
def test_readings_with_equal_parameters_give_different_outputs(settings, other):
    net, changed = MREN(scale=2, **SMALL, **settings).eval(), MREN(scale=2, **SMALL, **other).eval()
    changed.load_state_dict(net.state_dict())
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        assert not torch.equal(changed(lr), net(lr))


def published_scacb(block, x, *, exchange):
    """SCACB with both parts separate, as in Fig. 2: each has its own maps and its own aggregation."""
    squeezed = block.squeeze(x)
    c1, s1 = block.channel.level1(squeezed), block.spatial.level1(squeezed)
    c2, s2 = block.channel.level2(squeezed), block.spatial.level2(squeezed)
    if exchange == "final":
        c3, s3 = block.channel.level3(c2), block.spatial.level3(s2)
    if exchange != "none":
        (c1, s1), (c2, s2) = (c1 + s1, s1 + c1), (c2 + s2, s2 + c2)
    if exchange != "final":
        c3, s3 = block.channel.level3(c2), block.spatial.level3(s2)
    if exchange != "none":
        c3, s3 = c3 + s3, s3 + c3
    weights, biases = block.aggregate[0].weight.chunk(2), block.aggregate[0].bias.chunk(2)
    spatial = F.gelu(F.conv2d(torch.cat((s1, s2, s3), dim=1), weights[0], biases[0]))
    channel = F.gelu(F.conv2d(torch.cat((c1, c2, c3), dim=1), weights[1], biases[1]))
    return block.expand(torch.cat((spatial, channel), dim=1)) + x


@pytest.mark.parametrize(
    ("mode", "exchange"), [("full", "running"), ("full", "final"), ("scnc", "none")], ids=lambda word: word
)
def test_scacb_computes_what_its_figure_shows(mode, exchange):
    torch.manual_seed(0)
    block = SCACB(60, mode=mode, exchange="final" if exchange == "final" else "running")
    x = torch.randn(2, 60, 9, 7)
    torch.testing.assert_close(block(x), published_scacb(block, x, exchange=exchange))


def test_scacb_without_exchange_can_load_the_weights_of_scacb_with_exchange():
    SCACB(60, mode="scnc").load_state_dict(SCACB(60, mode="full").state_dict())


@pytest.mark.parametrize(
    ("mode", "mixes"), [("osa", False), ("oca", True)], ids=["spatial alone", "channel alone"]
)
def test_only_the_channel_part_mixes_channels(mode, mixes):
    block = SCACB(12, mode=mode)
    part = block.spatial if mode == "osa" else block.channel
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    part(x)[2][:, 0].sum().backward()
    assert bool(x.grad[:, 1:].any()) == mixes


def published_wsilbv(block, x):
    """WSILB as defined in PMDN's code, with one convolution replaced by two."""
    mean = x.sum((2, 3), keepdim=True) / (x.size(2) * x.size(3))
    deviation = ((x - mean).pow(2).sum((2, 3), keepdim=True) / (x.size(2) * x.size(3))).pow(0.5)
    logits = block.excite(deviation + mean) + block.excite(F.adaptive_max_pool2d(x, 1))
    return x * torch.sigmoid(logits)


@pytest.mark.parametrize("contrast", [1.0, 1e-4, 0.0], ids=["image", "faint", "constant"])
def test_wsilbv_equals_the_published_code(contrast):
    torch.manual_seed(0)
    block = WSILBV(60)
    x = 0.5 + contrast * torch.randn(2, 60, 12, 10)
    torch.testing.assert_close(block(x), published_wsilbv(block, x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("num_feat", "num_squeezed"), [(60, 15), (30, 7), (84, 21), (42, 10), (3, 1)])
def test_wsilbv_squeezes_its_channels_to_a_quarter(num_feat, num_squeezed):
    assert num_params(WSILBV(num_feat)) == 2 * num_feat * num_squeezed + num_squeezed + num_feat


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("scale", [2, 3])
def test_the_network_works_in_half_precision(scale, dtype):
    net = MREN(scale=scale, **SMALL).eval()
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        expected = net(lr)
        sr = net.to(dtype)(lr.to(dtype))
    assert sr.dtype == dtype
    torch.testing.assert_close(sr.float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("scale", [8, 16])
def test_networks_for_other_scales_can_be_built(scale):
    net = MREN(scale=scale, **SMALL).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 3, 4)).shape == (1, 3, 3 * scale, 4 * scale)


@pytest.mark.parametrize(
    ("mode", "exchange"),
    [("osa", "running"), ("oca", "running"), ("scnc", "running"), ("full", "running"), ("full", "final")],
)
def test_every_variant_trains(mode, exchange):
    net = MREN(scale=2, scacb=mode, num_feat=13, num_block=1, scacb_exchange=exchange)
    net(torch.full((2, 3, 5, 6), 0.5)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_feat": 5}, "num_feat of at least 6, got num_feat=5"),
        ({"scacb": "off"}, "got scacb=off; allowed: full, scnc, osa, oca"),
        ({"scacb_exchange": "all"}, "got scacb_exchange=all; allowed: running, final"),
        ({"dracb_message": "none"}, "got dracb_message=none; allowed: raw, fused"),
        ({"communication_weight": -0.1}, "got communication_weight=-0.1; allowed: 0 to 1"),
        ({"communication_weight": 1.1}, "got communication_weight=1.1; allowed: 0 to 1"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MREN(scale=2, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scacb": "osa", "scacb_exchange": "final"}, "scacb=osa .* got scacb_exchange=final"),
        ({"scacb": "oca", "scacb_exchange": "final"}, "scacb=oca .* got scacb_exchange=final"),
        ({"scacb": "scnc", "scacb_exchange": "final"}, "scacb=scnc .* got scacb_exchange=final"),
        ({"communication_weight": 0, "dracb_message": "fused"}, "got dracb_message=fused; allowed: raw, or"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MREN(scale=2, **settings)
