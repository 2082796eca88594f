"""SPAN: the fold, and the second output of its last block, which the fusion uses."""

import torch
from torch.nn import functional as F

from sr_lab.layers.folding import fold
from sr_lab.models.span import OFFICIAL_NAMES, SPAB, SPAN, Conv3XC
from sr_lab.strategies import ggas


def test_a_conv3xc_folds_into_one_convolution_that_is_exact_at_the_border_too():
    block = Conv3XC(6, 5)
    x = torch.randn(2, 6, 4, 5)
    expected = block(x)
    block.fold()
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]


def test_a_block_also_returns_the_features_after_its_first_activation():
    block, x = SPAB(4), torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x)[1], F.silu(block.conv1(x)))


def test_ggas_gates_the_features_of_a_block_but_not_its_second_output():
    net, lr = ggas.apply(SPAN(scale=2, num_feat=8, num_block=2)).eval(), torch.rand(1, 3, 6, 7)
    seen = []
    net.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].chunk(4, dim=1)))
    with torch.no_grad():
        net.strategy["ggas"].gab.pointwise.bias.fill_(-1000)  # closes the gate
        net(lr)
    assert [part.abs().max().item() > 0 for part in seen[0]] == [True, True, False, True]


def test_a_file_with_branches_loads_unfolded_and_a_file_without_branches_loads_folded():
    net = SPAN(scale=4, num_feat=8, num_block=1)
    state = {"conv_1.sk.bias": torch.zeros(1), "conv_1.eval_conv.bias": torch.zeros(1)}
    trained, folded = (list(table.to_ours(state, net)) for table in OFFICIAL_NAMES)
    assert trained == ["head.skip.bias"]
    assert folded[1] == "head.folded.bias"
    assert folded[1] in fold(net).state_dict()
