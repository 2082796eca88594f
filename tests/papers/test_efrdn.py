"""EFRDN (Liu et al., CVIU 2024): the sizes printed in Tables 1 to 5, and the equations."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sr_lab.errors import ConfigError
from sr_lab.layers.transformer import EMHA, ET
from sr_lab.models.efrdn import CC, EFFB, EFRDN, FFLB, GCRB, SelfCalibrated
from sr_lab.ops.complexity import multi_adds, num_params
from tests.papers.meta import on_meta

NO_DENSE = {"cnn_dc": False, "transformer_dc": False}
SMALL = {"scale": 2, "num_feat": 16, "num_block": 2}


@pytest.mark.parametrize(
    ("settings", "printed_k", "half_digit", "params"),
    [
        ({}, 767.9, 0.05, 767_924),
        ({"block": "imdb"}, 637, 0.5, 636_616),
        ({"block": "rfdb"}, 688, 0.5, 688_224),
        ({"fflb": False}, 640, 0.5, 639_860),
        ({"mscc": False}, 750, 0.5, 749_568),
        ({"gcrb": False}, 762.84, 0.005, 762_836),
        ({"cc": False}, 764.0, 0.05, 764_036),
        ({"cnn_dc": False}, 767.9, 0.05, 767_924),
        ({"transformer_dc": False}, 767.9, 0.05, 767_924),
        (NO_DENSE, 767.9, 0.05, 767_924),
        # Rows that differ by more than half a digit: three printed counts are truncated, and the count with
        # a plain 3x3 (765 K) is printed as if the layer were missing. The last row is off by an unexplained
        # 0.13 K.
        ({}, 767, 0.93, 767_924),
        ({"acrb": False}, 761, 0.93, 761_924),
        ({"acrb": "conv"}, 761, 4.43, 765_428),
        ({"effb": False}, 684.5, 0.14, 684_368),
    ],
)
def test_the_parameters_at_x4_equal_the_printed_counts(settings, printed_k, half_digit, params):
    net = on_meta(EFRDN, scale=4, **settings)
    assert num_params(net) == params
    assert num_params(net) / 1e3 == pytest.approx(printed_k, abs=half_digit)


@pytest.mark.parametrize(
    ("settings", "printed_g", "rel", "ours_g"),
    [
        ({}, 27.9, 0.01, 28.07),
        ({"fflb": False}, 17.0, 0.01, 17.06),
        ({"gcrb": False}, 27.45, 0.01, 27.62),
        ({"effb": False}, 18.58, 0.01, 18.56),
        ({"cc": False}, 27.9, 0.01, 28.07),
        (NO_DENSE, 27.9, 0.01, 28.07),
        ({"effb_mode": "two"}, 27.9, 0.01, 27.84),
        # Rows that differ by more than 1 %:
        ({"mscc": False}, 25.8, 0.011, 26.06),
        ({"block": "imdb"}, 9.8, 0.1, 10.77),  # the other rows agree, so 9.8 is probably a misprint of 10.8
        ({"block": "rfdb"}, 13, 0.021, 13.26),  # printed without a decimal
        ({"acrb": False}, 27.0, 0.016, 27.41),
        ({"acrb": "conv"}, 27.0, 0.031, 27.81),  # both printed figures equal those of the row without ACRB
    ],
)
def test_the_multi_adds_at_x4_equal_the_printed_counts(settings, printed_g, rel, ours_g):
    counted = multi_adds(on_meta(EFRDN, scale=4, **settings), scale=4, rule="conv") / 1e9
    assert counted == pytest.approx(printed_g, rel=rel)
    assert counted == pytest.approx(ours_g, abs=0.005)


@pytest.mark.parametrize(("scale", "params"), [(2, 747_116), (3, 755_786)])
def test_the_parameters_at_x2_and_x3_differ_from_those_printed(scale, params):
    assert num_params(on_meta(EFRDN, scale=scale)) == params  # the paper prints 768 K for both scales


@pytest.mark.parametrize(("scale", "printed_g", "ours_g"), [(2, 111.6, 112.30), (3, 49.5, 49.83)])
def test_the_multi_adds_printed_for_x2_and_x3_belong_to_the_x4_network(scale, printed_g, ours_g):
    counted = multi_adds(on_meta(EFRDN, scale=4), scale=scale, rule="conv") / 1e9
    assert counted == pytest.approx(ours_g, abs=0.005)
    assert counted == pytest.approx(printed_g, rel=0.007)


@pytest.mark.parametrize(("scale", "conv_g"), [(2, 107.53), (3, 48.59)])
def test_the_multi_adds_at_x2_and_x3_are_exact(scale, conv_g):
    counted = multi_adds(on_meta(EFRDN, scale=scale), scale=scale, rule="conv")
    assert counted / 1e9 == pytest.approx(conv_g, abs=0.005)


def test_the_full_count_includes_the_linear_layers_and_the_attention():
    linear = 2 * 57_600 * (224_064 - 1152)  # two transformers without their layer norms
    products = 2 * 4 * 2 * 14_400**2 * 72  # two transformers with four segments and two products each
    net = on_meta(EFRDN, scale=4)
    counted = multi_adds(net, scale=4, rule="all")
    assert counted == multi_adds(net, scale=4, rule="conv") + linear + products
    assert counted / 1e9 == pytest.approx(292.6, abs=0.05)


@pytest.mark.parametrize(
    ("block", "params"),
    [
        (lambda: ET(32), 224_064),
        (lambda: FFLB(32), 21_344),
        (lambda: EFFB(32), 13_926),
        (lambda: GCRB(32), 424),
        (lambda: CC(32), 162),
    ],
    ids=["ET", "FFLB", "EFFB", "GCRB", "CC"],
)
def test_the_parts_have_the_specified_parameters(block, params):
    assert num_params(block()) == params


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"effb_mode": "three"}, 770_468),
        ({"effb_mode": "two"}, 767_924),
        ({"parameter_sharing": False}, 767_924 + 2 * 117_834),
        ({"block": "imdb", "parameter_sharing": True}, 636_616 - 2 * 26_090),
        ({"attention_reduction": 2, "mlp_ratio": 0.25}, 695_348),  # ESRT's sizes
    ],
)
def test_other_readings_of_the_paper_have_known_parameter_counts(settings, params):
    assert num_params(on_meta(EFRDN, scale=4, **settings)) == params


def test_two_blocks_run_alternately_and_twice_each():
    net = EFRDN(scale=2, num_feat=16).eval()
    calls = []
    for index, block in enumerate(net.body):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    with torch.no_grad():
        net(torch.rand(1, 3, 15, 16))
    assert calls == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 2), (NO_DENSE, 1), ({"cnn_dc": False}, 1), ({"cnn_dc": False, "cnn_skip": True}, 2)],
    ids=["dense", "chain", "chain, then dense", "chain with the skip of Eq. 3"],
)
def test_dense_connections_carry_the_shallow_features(settings, share):
    net = EFRDN(**SMALL, **settings, rgb_range=1.0).eval()
    for conv in (*net.convs, *net.transformer_convs):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    lr = torch.rand(1, 3, 15, 17)
    with torch.no_grad():
        shallow = net.head(net.image_range(lr))
        sr = net.tail(share * shallow) + net.shallow_tail(shallow)  # Eqs. 3, 7, 8
        expected = sr + net.image_range.mean
        torch.testing.assert_close(net(lr), expected)


def test_the_network_subtracts_the_mean_and_works_in_its_own_range():
    net = EFRDN(**SMALL).eval()
    seen = []
    net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for tail in (net.tail, net.shallow_tail):
        torch.nn.init.zeros_(tail[0].weight)
        torch.nn.init.zeros_(tail[0].bias)
    mean = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)
    lr = torch.rand(1, 3, 15, 15)
    with torch.no_grad():
        torch.testing.assert_close(net(lr), mean.expand(1, 3, 30, 30))
    torch.testing.assert_close(seen[0], 255 * lr - 255 * mean, atol=1e-4, rtol=0)


def test_the_combination_coefficient_is_the_mean_of_two_coefficients():
    coefficient = CC(16)
    x = torch.randn(2, 16, 6, 7)
    mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(coefficient(x), x * (coefficient.mlp(mean) + coefficient.mlp(std)) / 2)


def test_a_lattice_without_coefficients_and_fusion_is_a_sum():
    block = FFLB(16, gcrb=False, effb=False, cc=False)
    x = torch.randn(1, 16, 15, 15)
    first = block.branch1(x)
    second = block.branch2(x + first)
    # U_i + L_i with every coefficient at 1: (u + l + x) + (l + x + u)
    torch.testing.assert_close(block(x), x + 2 * (second + first + x))


def test_the_third_group_block_repeats_the_second_or_is_left_out():
    tied, two = EFFB(16, mode="tied").eval(), EFFB(16, mode="two").eval()
    two.load_state_dict(tied.state_dict())
    x = torch.randn(1, 16, 5, 6)
    assert not torch.allclose(tied(x), two(x))
    # The second block now adds nothing, so repeating it adds nothing either.
    torch.nn.init.zeros_(tied.gcrb2.layers[-2].weight)
    two.load_state_dict(tied.state_dict())
    torch.testing.assert_close(tied(x), two(x))


def test_a_self_calibrated_unit_mixes_its_halves():
    unit = SelfCalibrated(16, nn.Identity())  # a channel attention would also mix the halves
    x = torch.randn(1, 16, 5, 5, requires_grad=True)
    for group in (unit(x) - x).chunk(4, dim=1):  # the groups of the merge convolution
        (gradient,) = torch.autograd.grad(group.sum(), x, retain_graph=True)
        assert gradient[:, :8].abs().sum() > 0
        assert gradient[:, 8:].abs().sum() > 0


def test_the_first_fusion_mixes_two_group_blocks():
    block = EFFB(16).eval()
    fused = []
    block.fusion1.register_forward_hook(lambda _, inputs, output: fused.append(output))
    # Constants replace the GCRBs, because the second would otherwise depend on the first.
    first, second = (torch.randn(1, 16, 5, 5, requires_grad=True) for _ in range(2))
    block.gcrb1.forward = lambda x: first
    block.gcrb2.forward = lambda x: second
    block(torch.zeros(1, 16, 5, 5))
    for group in fused[0].chunk(4, dim=1):
        for gradient in torch.autograd.grad(group.sum(), (first, second), retain_graph=True):
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("num_token", "lengths"), [(12, (3, 3, 3, 3)), (10, (3, 3, 3, 1)), (2, (1, 1))])
def test_attention_stays_within_its_segment(num_token, lengths):
    attention = EMHA(72, num_head=2, num_segment=4, reduction=4)  # 9 channels per head
    tokens = torch.randn(2, num_token, 72)
    parts = []
    for segment in attention.reduce(tokens).split(lengths, dim=1):
        query, key, value = (
            part.unflatten(-1, (2, 9)).transpose(1, 2) for part in attention.qkv(segment).chunk(3, dim=-1)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / 3, dim=-1)  # Eq. 30
        parts.append((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), attention.proj(torch.cat(parts, dim=1)))


def test_the_transformer_sums_overlapping_patches():
    transformer = ET(16)
    for layer in (transformer.attention.proj, transformer.mlp[-1]):
        torch.nn.init.zeros_(layer.weight)
    x = torch.randn(1, 16, 6, 7)
    out = transformer(x)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], 9 * x[..., 1:-1, 1:-1])
    torch.testing.assert_close(out[..., 0, 0], 4 * x[..., 0, 0])


@pytest.mark.parametrize("settings", [{"fflb": False}, {"block": "imdb"}], ids=["no FFLB", "IMDB"])
def test_a_network_without_esa_accepts_any_size(settings):
    net = EFRDN(**SMALL, **settings).eval()
    assert net.min_size == 1
    with torch.no_grad():
        assert net(torch.rand(1, 3, 1, 3)).shape == (1, 3, 2, 6)


@pytest.mark.parametrize(
    "settings",
    [
        {"block": "rfdb"},
        {"acrb": False},
        {"acrb": "conv"},
        {"mscc": False},
        {"gcrb": False},
        {"effb": False},
        {"cc": False},
        {"effb_mode": "two"},
        {"effb_mode": "three"},
        {"parameter_sharing": False},
        {"num_block": 3},
        NO_DENSE,
    ],
    ids=str,
)
def test_every_parameter_of_every_row_gets_a_gradient(settings):
    net = EFRDN(**(SMALL | settings))
    net(torch.rand(1, 3, 15, 16)).square().mean().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("scale", [1, 8])
def test_networks_for_other_scales_can_be_built(scale):
    net = EFRDN(**(SMALL | {"scale": scale})).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 15, 16)).shape == (1, 3, 15 * scale, 16 * scale)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_feat": 20}, "multiple of 8 and at least 16, got 20"),
        ({"num_feat": 8}, "multiple of 8 and at least 16, got 8"),
        ({"num_block": 0}, "got num_block=0"),
        ({"block": "hpb"}, "got block=hpb; allowed: acdm, imdb, rfdb"),
        ({"block": "imdb", "mscc": False}, "block=imdb replaces"),
        ({"acrb": "plain"}, "got acrb=plain; allowed: true, false, conv"),
        ({"effb_mode": "four"}, "got effb_mode=four; allowed: tied, three, two"),
        ({"num_head": 100}, "num_head=100 at attention_reduction=4 leaves no channel"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EFRDN(scale=2, **settings)


@pytest.mark.slow
def test_an_image_of_1280x720_at_x4_fits_in_4_gib():
    script = (
        "import resource, torch; from sr_lab.models.efrdn import EFRDN\n"
        "with torch.no_grad(): EFRDN(scale=4).eval()(torch.rand(1, 3, 180, 320))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 4 * 2**20  # KiB; measured 0.65 GiB on Linux with torch 2.13


@pytest.mark.parametrize("level", [0.0, 1.0, None], ids=["black", "white", "noise"])
def test_the_published_network_stays_finite_in_half_precision(level):
    torch.manual_seed(0)
    net = EFRDN(scale=4).eval()
    lr = torch.rand(1, 3, 18, 18) if level is None else torch.full((1, 3, 18, 18), level)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        assert net(lr).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"effb_mode": "typo", "effb": False}, "got effb_mode=typo; allowed: tied, three, two"),
        ({"effb_mode": "typo", "block": "imdb"}, "got effb_mode=typo; allowed: tied, three, two"),
        ({"cnn_skip": True}, "cnn_dc=true, .* got cnn_skip=true"),
        ({"fflb": False, "gcrb": False}, "fflb=false switches off, got gcrb=False, effb=True, cc=True"),
        ({"fflb": False, "effb": False}, "fflb=false switches off, got gcrb=True, effb=False, cc=True"),
        ({"fflb": False, "cc": False}, "fflb=false switches off, got gcrb=True, effb=True, cc=False"),
        ({"effb_mode": "two", "effb": False}, "effb=False, got effb_mode=two"),
        ({"effb_mode": "three", "fflb": False}, "fflb=False, effb=True, got effb_mode=three"),
        ({"effb_mode": "two", "block": "rfdb"}, "block=rfdb, fflb=True, effb=True, got effb_mode=two"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EFRDN(scale=4, **settings)
