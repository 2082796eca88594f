"""CARN and CARN-M (Ahn et al., ECCV 2018): the authors' multi-scale file, tied units and printed sizes."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.models.carn import CARN, OFFICIAL_NAMES
from sr_lab.ops.complexity import multi_adds, num_params
from tests.papers.meta import on_meta


@pytest.mark.parametrize("level", ["up", "up4"], ids=["one scale", "all scales"])
def test_every_weight_has_a_name_in_the_authors_code(level):
    cascade = [f"c{k}.body.0" for k in (1, 2, 3)]
    units = [f"b{k}.body.{layer}" for k in (1, 2, 3) for layer in (0, 2)]
    layers = ["entry", "exit", *cascade]
    layers += [f"b{k}.{name}" for k in (1, 2, 3) for name in units + cascade]
    layers += [f"upsample.{level}.body.{layer}" for layer in (0, 3)]
    layers += ["upsample.up2.body.0"] if level == "up4" else []
    state = {f"{layer}.{kind}": torch.zeros(()) for layer in layers for kind in ("weight", "bias")}
    net, table = CARN(scale=4), OFFICIAL_NAMES[level == "up4"]
    assert table.to_ours(state, net).keys() == net.state_dict().keys()


# The paper prints 1592 K for CARN. For CARN-M it prints 412 K, whereas the authors' file has 415 K.
@pytest.mark.parametrize(
    ("settings", "number"),
    [({}, 1_591_963), ({"groups": 4, "recursive": True}, 414_811)],
    ids=["CARN", "CARN-M"],
)
def test_the_authors_count_the_tails_of_three_scales(settings, number):
    nets = {scale: on_meta(CARN, scale=scale, **settings) for scale in (2, 3, 4)}
    steps = {scale: num_params(net.tail) - num_params(net.tail[-1]) for scale, net in nets.items()}
    trunk = num_params(nets[2]) - steps[2]
    assert trunk + sum(steps.values()) + 24 == number  # 24 parameters of the two frozen mean shifts


@pytest.mark.parametrize(
    ("settings", "printed"),
    [({}, (222.8, 90.9)), ({"groups": 4, "recursive": True}, (91.2, 32.5))],
    ids=["CARN", "CARN-M"],
)
def test_multiply_adds_equal_the_printed_figures(settings, printed):
    counted = [multi_adds(on_meta(CARN, scale=r, **settings), scale=r, rule="conv") / 1e9 for r in (2, 4)]
    assert counted == pytest.approx(printed, abs=0.05)


def test_a_recursive_block_uses_one_unit_three_times():
    net = CARN(scale=2, num_feat=16, num_block=2, recursive=True)
    calls = []
    for unit in net.residual_units:
        unit.register_forward_hook(lambda *_: calls.append(1))
    net(torch.rand(1, 3, 7, 9))
    assert (len(net.residual_units), len(calls)) == (2, 6)


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="num_feat=64 channels into groups=5"):
        CARN(scale=2, groups=5)
