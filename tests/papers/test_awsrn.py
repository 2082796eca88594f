"""AWSRN (Wang et al., arXiv:1904.02358): the tail with weighted branches."""

import torch
from torch import nn
from torch.nn import functional as F

from sr_lab.layers.weighted import AWMSUpsampler
from sr_lab.models.awsrn import AWSRN


def test_a_fresh_tail_is_the_mean_of_its_branches():
    tail = AWMSUpsampler(num_feat=4, num_out_ch=3, scale=2)
    x = torch.rand(1, 4, 6, 5)
    branches = [F.pixel_shuffle(conv(x), 2) for conv in tail[0].convs]
    assert [conv.kernel_size for conv in tail[0].convs] == [(k, k) for k in (3, 5, 7, 9)]
    torch.testing.assert_close(tail(x), torch.stack(branches).mean(dim=0))


def test_x8_is_upscaled_in_one_step():
    net = AWSRN(scale=8, num_feat=8, num_block=1, num_mid_feat=8)
    assert net(torch.rand(1, 3, 3, 4)).shape == (1, 3, 24, 32)
    assert isinstance(net.tail[-1], nn.PixelShuffle)
