import torch

from sr_lab.ops.renaming import WEIGHT_NORM, rename


def test_rules_apply_in_their_order():
    state = {"B1.c1.weight": torch.ones(1), "B2.c1.weight": torch.zeros(1)}
    rules = ((r"^B(\d+)\.", lambda match: f"body.{int(match[1]) - 1}."), (r"^body\.(\d)\.c", r"body.\1.conv"))
    assert list(rename(state, rules)) == ["body.0.conv1.weight", "body.1.conv1.weight"]


def test_a_rule_without_replacement_drops():
    state = {"sub_mean.weight": torch.ones(1), "head.weight": torch.zeros(1)}
    assert list(rename(state, ((r"^sub_mean\.", None),))) == ["head.weight"]


def test_tensors_stay_the_same():
    state = {"a": torch.ones(1)}
    assert rename(state, ())["a"] is state["a"]


def test_names_of_a_weight_normalised_convolution():
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 1))
    state = {"weight_g": torch.ones(1), "weight_v": torch.ones(1), "bias": torch.ones(1)}
    named = {f"net.{name}": value for name, value in state.items()}
    assert set(rename(named, WEIGHT_NORM)) == {f"net.{name}" for name in conv.state_dict()}
