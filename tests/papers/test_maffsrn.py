"""MAFFSRN (Muqeet et al., ECCVW 2020): details of its authors' code that the paper omits."""

import torch
from torch import nn
from torch.nn import functional as F

from sr_lab.models.maffsrn import CEA, FFG, MAFFSRN


def test_a_fusion_sees_the_channels_of_its_two_inputs_alternately():
    group = FFG(4)
    group.blocks = nn.ModuleList(nn.Identity() for _ in range(4))
    seen = []
    group.fusions[0].register_forward_pre_hook(lambda fusion, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 4, 3, 5)
    group(x)
    # With identities as blocks, the first block gives x, and the second, which has a skip, gives 2x.
    torch.testing.assert_close(seen[0], F.channel_shuffle(torch.cat((x, 2 * x), dim=1), 2))


def test_weights_from_a_wide_neighbourhood_are_at_least_one_half():
    attention = CEA(8)
    attention.local[-1] = nn.Hardsigmoid()
    nn.init.zeros_(attention.local[1].weight)
    nn.init.constant_(attention.local[1].bias, 9.0)  # makes the local weights 1
    x = torch.rand(1, 8, 15, 17)
    assert (attention(x) >= 0.5 * x).all()


def test_a_tail_that_outputs_zero_leaves_the_bicubic_image():
    net = MAFFSRN(scale=3, num_feat=8, num_block=1)
    for scale in net.tail[0].scales:
        nn.init.zeros_(scale.scale)
    lr = torch.rand(1, 3, 13, 14)
    torch.testing.assert_close(net(lr), F.interpolate(lr, scale_factor=3, mode="bicubic"))
