"""FDIWN (Gao et al., AAAI 2022): what its three files share, where they differ, and the printed cost."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.models.fdiwn import FDIWN
from sr_lab.ops.complexity import multi_adds
from sr_lab.ops.renaming import official_names
from tests.papers.meta import on_meta

SMALL = {"num_feat": 16, "num_block": 2}


def test_the_printed_cost_excludes_weight_normalised_convolutions():
    net = on_meta(FDIWN, scale=4)
    assert multi_adds(net, scale=4, rule=net.multi_adds_rule) / 1e9 == pytest.approx(28.4, rel=0.005)


def test_the_groups_run_in_the_published_order():
    net = FDIWN(scale=2, num_feat=16)
    turns = []
    for number, group in enumerate(net.body):
        group.register_forward_hook(lambda *_, number=number: turns.append(number))
    net(torch.rand(1, 3, 7, 9))
    assert turns == [0, 0, 1, 2, 1, 2]


@pytest.mark.parametrize(("scale", "shifted"), [(2, False), (3, False), (4, True)])
def test_the_second_path_takes_the_shifted_image_only_at_x4(scale, shifted):
    net = FDIWN(scale=scale, **SMALL)
    seen = []
    net.skip.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lr = torch.rand(1, 3, 7, 9)
    net(lr)
    torch.testing.assert_close(seen[0], net.sub_mean(lr * 255) if shifted else lr * 255)


def test_the_coefficients_are_at_least_one_half():
    with torch.no_grad():
        coefficients = FDIWN(scale=2, **SMALL).body[0].block1.cc_x(torch.randn(2, 16, 5, 6))
    assert coefficients.shape == (2, 16, 1, 1)
    assert 0.5 <= coefficients.min() < coefficients.max() < 1


def test_the_mean_shifts_in_a_checkpoint_are_loaded():
    state = {"Sub_mean.weight": torch.rand(3, 3, 1, 1), "Add_mean.bias": torch.rand(3)}
    net = FDIWN(scale=2, **SMALL)
    renamed = official_names(net)[0].to_ours(state, net)
    assert set(renamed) == {"sub_mean.weight", "add_mean.bias"}
    assert set(renamed) < set(dict(net.named_parameters()))


def test_a_width_that_cannot_be_divided_among_the_units_is_refused():
    with pytest.raises(ConfigError, match="got num_feat=20; allowed: multiples of 8"):
        FDIWN(scale=2, num_feat=20)
