"""LAPAR (Li et al., NeurIPS 2020): its printed cost, its fixed filters, and how they are applied."""

import pytest
import torch
from torch.nn import functional as F

from sr_lab.layers.image import upscaled
from sr_lab.models.lapar import LAPAR, gaussian_dictionary
from sr_lab.ops.complexity import multi_adds
from sr_lab.ops.renaming import official_names
from tests.papers.meta import on_meta


@pytest.mark.parametrize(("scale", "printed_g"), [(2, 171.0), (3, 114.0), (4, 94.0)])
def test_the_cost_equals_the_printed_cost(scale, printed_g):
    assert multi_adds(on_meta(LAPAR, scale=scale), scale=scale, rule="conv") / 1e9 == pytest.approx(
        printed_g, rel=0.006
    )


def test_the_filters_span_all_symmetric_5x5_kernels():
    filters = gaussian_dictionary()
    assert filters.shape == (72, 1, 5, 5)
    torch.testing.assert_close(filters.flip(2, 3), filters)
    # Point-symmetric 5x5 kernels have 13 dimensions.
    assert torch.linalg.matrix_rank(filters.flatten(1).double(), rtol=1e-4) == 13
    torch.testing.assert_close(filters.sum(dim=(1, 2, 3)), torch.tensor([1.0] * 24 + [0.0] * 48))


def test_mixing_the_filters_first_equals_filtering_the_image_first():
    net = LAPAR(scale=2, num_feat=16, num_block=1).eval()
    lr = torch.rand(2, 3, 7, 9)
    coefficients = []
    net.tail.register_forward_hook(lambda tail, inputs, output: coefficients.append(output))
    with torch.no_grad():
        sr = net(lr)
    padded = F.pad(upscaled(lr, 2), (2, 2, 2, 2), mode="reflect")
    filtered = F.conv2d(padded.reshape(6, 1, 18, 22), net.dictionary).view(2, 3, 72, 14, 18)
    torch.testing.assert_close(sr, (coefficients[0].unsqueeze(1) * filtered).sum(dim=2))


def test_the_filters_are_fixed_but_loaded_from_a_checkpoint():
    net = LAPAR(scale=2, num_feat=16, num_block=1)
    assert "dictionary" not in dict(net.named_parameters())
    assert "dictionary" in net.state_dict()
    state = {"decom_conv.weight": torch.ones(1), "w_conv.rgb_mean": torch.ones(1)}
    renamed = official_names(net)[0].to_ours(state, net)
    assert renamed == {"dictionary": torch.ones(1)}
