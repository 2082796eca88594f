"""FMEN: the fold with batch norms, the padding of the norms, and the inferred sizes."""

import copy

import pytest
import torch
from torch import nn

from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.models.fmen import FMEN, RRRB, NormConv
from sr_lab.ops.complexity import multi_adds, num_params


def stir(module):
    """Set random statistics and factors, as in a trained network, so that the norms have an effect."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias)
    return module.eval()


@pytest.mark.parametrize(
    "block", [lambda: RRRB(6), lambda: NormConv(6, 3), lambda: NormConv(6, 3, norm_out=True)]
)
def test_a_block_folds_into_one_convolution_that_is_exact_at_the_border_too(block):
    block = stir(block())
    x = torch.randn(2, 6, 4, 5)
    expected = block(x)
    block.fold()
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]
    assert not list(block.buffers())


def test_folding_keeps_the_output_of_the_network():
    net = stir(FMEN(scale=2, num_feat=8, num_block=2))
    lr = torch.rand(1, 3, 7, 9)
    torch.testing.assert_close(fold(copy.deepcopy(net))(lr), net(lr), atol=1e-5, rtol=1e-5)


def test_a_norm_is_padded_by_its_running_statistics_in_training_too():
    block = NormConv(1, 1)
    with torch.no_grad():
        block.norm_in.bias.fill_(3)
        block.conv.weight.zero_()[0, 0, 0, 0] = 1  # shifts down and right: the first row is padding
    x = torch.randn(2, 1, 4, 4) + 10
    out = block.train()(x) - block.conv.bias
    norm = block.norm_in
    # The running statistics already include x.
    border = norm.bias - norm.running_mean / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(out[:, :, 0], border.expand(2, 1, 4))


@pytest.mark.parametrize(
    ("scale", "printed_k", "printed_g"), [(2, 748, 172.0), (3, 757, 77.2), (4, 769, 44.2)]
)
def test_the_inferred_sizes_give_the_printed_counts(scale, printed_k, printed_g):
    net = fold(FMEN(scale=scale).eval())
    assert num_params(net) // 1000 == printed_k
    assert multi_adds(net, scale=scale, rule="conv") / 1e9 == pytest.approx(printed_g, abs=0.05)


def test_a_width_that_leaves_the_squeeze_no_channel_is_refused():
    with pytest.raises(ConfigError, match="num_mid_feat=4 leaves no channel"):
        FMEN(scale=2, num_mid_feat=4)
