"""Folding of RepRFN."""

import torch

from sr_lab.models.reprfn import RepBlock


def test_a_repblock_folds_into_one_convolution_that_is_exact_at_the_border_too():
    block = RepBlock(6)
    for edge in (block.sobel_x, block.sobel_y, block.laplacian):
        torch.nn.init.normal_(edge.strength)
        torch.nn.init.normal_(edge.bias)
    x = torch.randn(2, 6, 4, 5)
    expected = block(x)
    block.fold()
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in block.named_parameters()] == ["folded.weight", "folded.bias"]
