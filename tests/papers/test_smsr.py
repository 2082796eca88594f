"""SMSR (Wang et al., CVPR 2021): dense and sparse evaluation are equal, and training draws random masks."""

import pytest
import torch
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.models.smsr import SMB, SMSR
from sr_lab.ops.complexity import multi_adds, num_params
from tests.papers.meta import on_meta

SMALL = {"scale": 2, "num_feat": 16, "num_block": 2}


@pytest.mark.parametrize(
    ("scale", "printed_k", "printed_g"), [(2, 985, 351.5), (3, 993, 156.8), (4, 1006, 89.1)]
)
def test_the_printed_size_excludes_the_channel_masks_and_the_printed_cost_is_dense(
    scale, printed_k, printed_g
):
    net = on_meta(SMSR, scale=scale)
    masks = sum(block.smb.channel_logits.numel() for block in net.body)
    assert round((num_params(net) - masks) / 1e3) == printed_k
    assert multi_adds(net, scale=scale, rule="conv") / 1e9 == pytest.approx(printed_g, rel=0.002)


def test_evaluation_equals_a_computation_with_kernels_split_by_channel():
    smb = SMB(16, tau=1.0).eval()
    with torch.no_grad():
        smb.channel_logits.normal_()
        is_sparse = smb.channel_logits[0, :, :, 1] > smb.channel_logits[0, :, :, 0]  # (C, layers)
        x, positions = torch.randn(1, 16, 6, 7), (torch.rand(1, 1, 6, 7) > 0.5).float()
        feat, from_sparse, stages = x, 0, []
        for k, conv in enumerate(smb.convs):
            if k > 0:
                sparse_in = is_sparse[:, k - 1]
                from_sparse = positions * F.conv2d(feat[:, sparse_in], conv.weight[:, sparse_in], padding=1)
                feat = F.conv2d(feat[:, ~sparse_in], conv.weight[:, ~sparse_in], padding=1)
            else:
                feat = conv(feat)
            feat = feat + from_sparse
            feat[:, is_sparse[:, k]] *= positions
            feat = feat.relu()
            stages.append(feat)
        torch.testing.assert_close(smb(x, positions), smb.collect(torch.cat(stages, dim=1)))


def test_training_draws_its_masks_from_torchs_global_generator():
    net, lr = SMSR(**SMALL), torch.rand(1, 3, 8, 8)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(net(lr))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_forward_pass_leaves_no_state_behind():
    net = SMSR(**SMALL)
    before = set(net.state_dict()), [set(vars(part)) for part in net.modules()]
    net(torch.rand(1, 3, 8, 8)).mean().backward()
    assert before == (set(net.state_dict()), [set(vars(part)) for part in net.modules()])


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="got tau=0"):
        SMSR(tau=0, **SMALL)
