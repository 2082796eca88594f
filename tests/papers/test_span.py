"""SPAN: the fold, and what its last block lends to the fusion."""

import torch
from torch.nn import functional as F

from sr_lab.layers.folding import fold
from sr_lab.models.span import SPAB, SPAN, Conv3XC, from_official


def test_a_conv3xc_folds_into_one_convolution_up_to_its_border():
    block = Conv3XC(6, 5)
    x = torch.randn(2, 6, 4, 5)
    expected = block(x)
    block.fold()
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]


def test_a_block_lends_its_features_behind_the_activation():
    block, x, middles = SPAB(4), torch.randn(1, 4, 5, 5), []
    block(x, middles)
    torch.testing.assert_close(middles, [F.silu(block.conv1(x))])


def test_a_file_with_branches_is_trained_and_one_without_is_folded():
    trained = {"conv_1.sk.bias": torch.zeros(1), "conv_1.eval_conv.bias": torch.zeros(1)}
    folded = {"conv_1.eval_conv.bias": torch.zeros(1)}
    assert list(from_official(trained, scale=4)) == ["head.skip.bias"]
    assert list(from_official(folded, scale=4)) == ["head.folded.bias"]
    assert "head.folded.bias" in fold(SPAN(scale=4, num_feat=8, num_block=1)).state_dict()
