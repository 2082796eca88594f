"""LatticeNet (Luo et al., ECCV 2020): its coefficients and its printed cost."""

import pytest
import torch

from sr_lab.models.latticenet import LatticeNet
from sr_lab.ops.complexity import multi_adds
from sr_lab.ops.renaming import official_names
from tests.papers.meta import on_meta


@pytest.mark.parametrize(("scale", "printed_g"), [(2, 169.5), (3, 76.3), (4, 43.6)])
def test_the_cost_equals_the_printed_cost(scale, printed_g):
    cost = multi_adds(on_meta(LatticeNet, scale=scale), scale=scale, rule="conv")
    assert cost / 1e9 == pytest.approx(printed_g, rel=0.003)


def test_the_coefficients_use_the_unbiased_standard_deviation():
    coefficients = LatticeNet(scale=2, num_feat=16, num_block=1).body[0].cc_x
    seen = []
    coefficients.of_deviation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 16, 2, 3)
    coefficients(x)
    torch.testing.assert_close(seen[0], torch.std(x, dim=(2, 3), keepdim=True))


def test_the_mean_shifts_in_a_checkpoint_are_loaded():
    state = {"sub_mean.weight": torch.rand(3, 3, 1, 1), "add_mean.bias": torch.rand(3)}
    net = LatticeNet(scale=2, num_feat=16)
    assert official_names(net)[0].to_ours(state, net).keys() == state.keys()
    assert state.keys() < dict(net.named_parameters()).keys()
