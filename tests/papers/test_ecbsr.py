"""ECBSR: the fold, and a layer name with two meanings in the authors' files."""

import copy

import pytest
import torch

from sr_lab.layers.folding import fold
from sr_lab.models.ecbsr import ECB, ECBSR, OFFICIAL_NAMES


@pytest.mark.parametrize("identity", [False, True])
def test_an_ecb_folds_into_one_convolution_that_is_exact_at_the_border_too(identity):
    block = ECB(6, 6, identity=identity)
    for edge in (block.sobel_x, block.sobel_y, block.laplacian):
        torch.nn.init.normal_(edge.strength)
        torch.nn.init.normal_(edge.bias)
    x = torch.randn(2, 6, 4, 5)
    expected = block(x)
    block.fold()
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]
    block.fold()  # folding twice changes nothing
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]


def test_the_network_folds_into_a_plain_chain():
    net = ECBSR(scale=2, num_feat=8, num_block=2).eval()
    lr = torch.rand(1, 1, 7, 9)
    torch.testing.assert_close(fold(copy.deepcopy(net))(lr), net(lr), atol=1e-5, rtol=0)


def test_the_3x3_convolution_in_a_file_is_a_branch_or_the_folded_convolution():
    net = ECBSR(scale=2, num_feat=8, num_block=1)
    state = {f"backbone.{stage}.conv3x3.weight": torch.zeros(1) for stage in range(3)}
    trained, folded = (list(table.to_ours(state, net)) for table in OFFICIAL_NAMES)
    assert trained == ["head.0.conv.weight", "body.0.0.conv.weight", "tail.0.conv.weight"]
    assert folded == ["head.0.folded.weight", "body.0.0.folded.weight", "tail.0.folded.weight"]
