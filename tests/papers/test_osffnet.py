"""OSFFNet (Wang and Zhang, AAAI 2024): the sizes printed in Tables 1 to 4, and the equations."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.osff import DRF
from sr_lab.models.imdn import IMDN
from sr_lab.models.imdn_osff import IMDNWithOSFF
from sr_lab.models.osffnet import AEFD, OSFFNet
from sr_lab.ops.complexity import multi_adds, num_params
from tests.composing import compose
from tests.papers.meta import on_meta

OFF = {"oisi": False, "sfgc": False, "mfdf": False}
NO_ATTENTION = {"esa": False, "cca": False}


def assert_printed(net, *, scale, rule, params_k, multi_adds_g):
    """Assert the printed size, to within half a unit of the last printed digit."""
    assert num_params(net) / 1e3 == pytest.approx(params_k, abs=0.5)
    assert multi_adds(net, scale=scale, rule=rule) / 1e9 == pytest.approx(multi_adds_g, abs=0.05)


@pytest.mark.parametrize(
    ("scale", "params_k", "multi_adds_g"), [(2, 516, 83.2), (3, 524, 37.8), (4, 537, 22.0)]
)
def test_table_1_is_reproduced(scale, params_k, multi_adds_g):
    net = OSFFNet(scale=scale)
    assert_printed(net, scale=scale, rule="torchinfo", params_k=params_k, multi_adds_g=multi_adds_g)


@pytest.mark.parametrize(
    ("code", "params_k", "multi_adds_g"),
    [
        ("000", 486, 19.4),
        ("100", 488, 19.5),
        ("010", 486, 19.4),
        ("001", 535, 21.9),
        ("110", 488, 19.5),
        ("101", 536, 22.0),
        ("011", 535, 21.9),
        ("111", 537, 22.0),
    ],
)
def test_table_2_is_reproduced(code, params_k, multi_adds_g):
    parts = {name: digit == "1" for name, digit in zip(OFF, code, strict=True)}
    net = OSFFNet(scale=4, **parts)
    assert_printed(net, scale=4, rule="torchinfo", params_k=params_k, multi_adds_g=multi_adds_g)


@pytest.mark.parametrize(
    ("settings", "rule", "params_k", "multi_adds_g"),
    [
        ({}, "conv", 715, 40.9),  # copied from IMDN's paper
        ({"num_feat": 68}, "conv", 805, 46.0),
        ({"num_block": 7}, "torchinfo", 823, 47.2),  # the convolution weights alone give 47.1
    ],
    ids=["w/o", "channel-extended", "depth-extended"],
)
def test_the_rows_of_table_3_without_osff_are_reproduced(settings, rule, params_k, multi_adds_g):
    net = IMDN(scale=4, **settings)
    assert_printed(net, scale=4, rule=rule, params_k=params_k, multi_adds_g=multi_adds_g)


@pytest.mark.parametrize(
    ("scale", "params_k", "multi_adds_g"), [(2, 739, 168.8), (3, 748, 75.8), (4, 760, 43.4)]
)
def test_the_rows_of_table_3_with_osff_are_reproduced(scale, params_k, multi_adds_g):
    net = IMDNWithOSFF(scale=scale)
    assert_printed(net, scale=scale, rule="torchinfo", params_k=params_k, multi_adds_g=multi_adds_g)


@pytest.mark.parametrize(("scale", "params"), [(2, 739_425), (3, 748_080), (4, 760_197)])
def test_the_parameters_of_imdn_with_osff_are_exact_to_the_unit(scale, params):
    assert num_params(on_meta(IMDNWithOSFF, scale=scale)) == params


def test_the_printed_multi_adds_of_imdn_with_osff_include_the_biases():
    net = on_meta(IMDNWithOSFF, scale=4)
    assert multi_adds(net, scale=4, rule="all") / 1e9 == pytest.approx(43.26, abs=0.005)  # printed: 43.4


def test_imdn_with_every_part_of_osff_off_equals_imdn():
    plain, osff = IMDN(scale=2, num_block=3), IMDNWithOSFF(scale=2, num_block=3, **OFF)
    osff.load_state_dict(plain.state_dict(), strict=True)
    lr = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        assert torch.equal(osff(lr), plain(lr))


@pytest.mark.parametrize(("part", "params"), [("oisi", 12_096), ("sfgc", 5), ("mfdf", 32_920)])
def test_each_part_of_osff_can_be_used_alone_on_imdn(part, params):
    alone = on_meta(IMDNWithOSFF, scale=4, **(OFF | {part: True}))
    assert num_params(alone) - num_params(on_meta(IMDN, scale=4)) == params


@pytest.mark.parametrize(
    ("attention", "params_k", "multi_adds_g"),
    [
        (NO_ATTENTION, 499, 20.7),
        ({"cca": False}, 532, 22.0),
        ({"esa": False}, 504, 20.7),
        ({}, 537, 22.0),
    ],
    ids=["w/oAtt", "ESA", "CCA", "OSFFNet"],
)
def test_table_4_is_reproduced(attention, params_k, multi_adds_g):
    net = OSFFNet(scale=4, **attention)
    assert_printed(net, scale=4, rule="torchinfo", params_k=params_k, multi_adds_g=multi_adds_g)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"scale": 2}, 515_731),
        ({"scale": 3}, 524_386),
        ({"scale": 4}, 536_503),
        ({"scale": 4, **OFF}, 486_480),
        ({"scale": 4, **NO_ATTENTION}, 499_351),
    ],
    ids=["x2", "x3", "x4", "000", "w/oAtt"],
)
def test_parameters_are_exact_to_the_unit(settings, params):
    assert num_params(on_meta(OSFFNet, **settings)) == params


def test_the_full_count_includes_the_linear_layers():
    assert multi_adds(on_meta(OSFFNet, scale=4), scale=4, rule="all") / 1e9 == pytest.approx(29.3, abs=0.05)


def test_the_kernel_formula_of_equation_6_does_not_give_the_printed_size():
    net = on_meta(OSFFNet, scale=4, drf_kernels=[2 * (k // 2) + 1 for k in range(1, 9)])
    assert num_params(net) / 1e3 == pytest.approx(541.6, abs=0.05)  # printed: 537


def test_both_readings_of_equation_6_have_the_same_cost():
    product, gate = on_meta(OSFFNet, scale=4), on_meta(OSFFNet, scale=4, drf="gate")
    assert num_params(gate) == num_params(product)
    assert multi_adds(gate, scale=4, rule="all") == multi_adds(product, scale=4, rule="all")


def test_a_lambda_of_zero_switches_sfgc_off():
    plain = OSFFNet(scale=2, num_feat=16, num_block=3, sfgc=False).eval()
    weighed = OSFFNet(scale=2, num_feat=16, num_block=3, lambda_init=0.0).eval()
    assert weighed.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["lambdas"]
    lr = torch.rand(1, 3, 15, 17)
    with torch.no_grad():
        torch.testing.assert_close(weighed(lr), plain(lr))
        torch.nn.init.ones_(weighed.lambdas)
        assert not torch.allclose(weighed(lr), plain(lr))


def test_equation_6_multiplies_by_a_feature_map_or_by_its_weights():
    product, gate = DRF(16, 3, join="product"), DRF(16, 3, join="gate")
    gate.load_state_dict(product.state_dict())
    x = torch.randn(1, 16, 8, 9)
    torch.testing.assert_close(product(x), gate(x) * x)


def test_equation_9_adds_the_normalised_input():
    block = AEFD(16)
    for layer in (block.fusion, block.ffn.mlp[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = 3 + 2 * torch.randn(2, 16, 20, 20)
    torch.testing.assert_close(block(x), block.norm(x))


def test_a_network_without_esa_accepts_any_size():
    net = OSFFNet(scale=2, num_feat=16, num_block=1, esa=False).eval()
    assert net.min_size == 1
    with torch.no_grad():
        assert net(torch.rand(1, 3, 1, 3)).shape == (1, 3, 2, 6)


@pytest.mark.parametrize("scale", [1, 8, 16])
def test_networks_for_other_scales_can_be_built(scale):
    net = OSFFNet(scale=scale, num_feat=16, num_block=1).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 15, 16)).shape == (1, 3, 15 * scale, 16 * scale)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_block": 9}, "num_block=9 stages, got drf_kernels="),
        ({"drf_kernels": (1, 2), "num_block": 2}, r"odd .* got drf_kernels=\(1, 2\)"),
        ({"drf": "sum"}, "got drf=sum; allowed: product, gate"),
        ({"drf": "sum", "mfdf": False}, "with mfdf=false there are no DRFs, got drf=sum"),
        ({"drf": "gate", "mfdf": False}, "with mfdf=false there are no DRFs, got drf=gate"),
        ({"num_copies": 0}, "got num_copies=0; allowed: 1 or more"),
    ],
)
@pytest.mark.parametrize("network", [OSFFNet, IMDNWithOSFF])
def test_unsupported_settings_are_refused(network, settings, message):
    with pytest.raises(ConfigError, match=message):
        network(scale=2, **settings)


@pytest.mark.parametrize("model", ["osffnet", "imdn_osff"])
def test_the_recipe_has_the_settings_of_the_paper(model):
    config = compose("experiment=osffnet/train", "trainer=cpu", "budget=paper", f"model={model}")
    assert config.model["_target_"].startswith(f"sr_lab.models.{model}.")
    assert (config.dataset["lr_patch_size"], config.batch_size, config.steps) == (64, 64, 500_000)
    assert len(config.dataset["hr_dir"]) == 2
    assert (config.learning_rate, config.optimizer["lr"]) == (1e-4, 1e-4)
    assert (config.schedule.scheduler["T_max"], config.schedule.scheduler["eta_min"]) == (500_000, 1e-7)
