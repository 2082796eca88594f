"""LBNet (Gao et al., IJCAI 2022): its official weights, and which weights its parts share."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.layers.transformer import EMHA, ET
from sr_lab.models.lbnet import LBNet
from sr_lab.ops.complexity import multi_adds
from tests.papers.meta import on_meta

TINY = {"num_feat": 18, "num_head": 6, "attention_reduction": 1}


def official(weights_dir: Path) -> LBNet:
    net = LBNet(scale=2).eval()
    load_weights(net, open_checkpoint(str(weights_dir / "LBNet" / "LBNet-X2.pt")))
    return net


def test_the_official_checkpoint_in_half_precision_is_within_one_grey_level(weights_dir):
    net = official(weights_dir)
    lr = torch.from_numpy(np.load(weights_dir / "LBNet" / "io_LBNet_x2.npz")["input"]) / 255
    with torch.no_grad():
        expected = net(lr)
        with torch.autocast("cpu", dtype=torch.float16):
            torch.testing.assert_close(net(lr), expected, atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    ("settings", "printed_g"),
    [({}, {2: 153.2, 3: 68.4, 4: 38.9}), (TINY, {2: 49.0, 3: 22.0, 4: 12.6})],
    ids=["LBNet", "LBNet-T"],
)
def test_the_printed_multi_adds_count_only_the_convolutions(settings, printed_g):
    counted = {
        scale: multi_adds(on_meta(LBNet, scale=scale, **settings), scale=scale, rule="conv") / 1e9
        for scale in printed_g
    }
    assert counted == pytest.approx(printed_g, abs=0.05)


def test_blocks_run_twice_and_each_transformer_runs_three_times():
    net = LBNet(scale=2, num_feat=16).eval()
    calls = []
    for index, block in enumerate(net.body):
        block.register_forward_hook(lambda *_, index=index: calls.append(f"block {index}"))
    for index, transformer in enumerate(net.transformers):
        transformer.mlp.register_forward_hook(lambda *_, index=index: calls.append(f"transformer {index}"))
    with torch.no_grad():
        net(torch.rand(1, 3, 5, 6))
    blocks = ["block 0", "block 1", "block 2"]
    assert calls == 2 * blocks + 3 * ["transformer 0"] + 3 * ["transformer 1"]


def test_mean_shifts_start_at_the_mean_and_are_trained():
    net = LBNet(scale=2, num_feat=16, num_block=1)
    grey = torch.full((1, 3, 4, 4), 255.0)
    torch.testing.assert_close(net.add_mean(net.sub_mean(grey)), grey)
    torch.testing.assert_close(
        net.sub_mean(grey)[0, :, 0, 0], 255 * (1 - torch.tensor([0.4488, 0.4371, 0.4040]))
    )
    assert all(parameter.requires_grad for parameter in net.sub_mean.parameters())


@pytest.mark.parametrize(
    ("num_token", "lengths"), [(32, 16 * (2,)), (37, (*18 * (2,), 1)), (5, 5 * (1,))], ids=str
)
def test_the_segment_length_is_rounded_down_and_the_rest_forms_another_segment(num_token, lengths):
    settings = {"num_head": 2, "num_segment": 16, "reduction": 2}
    attention = EMHA(72, **settings, form="esrt")
    tokens = torch.randn(2, num_token, 72)
    parts = []
    for segment in attention.reduce(tokens).split(lengths, dim=1):
        query, key, value = (
            part.unflatten(-1, (2, 18)).transpose(1, 2) for part in attention.qkv(segment).chunk(3, dim=-1)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / 6, dim=-1)  # 6 is the root of 2 x 18
        parts.append((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), attention.proj(torch.cat(parts, dim=1)))


def test_repeated_layers_share_their_weights():
    once, twice = ET(16), ET(16, num_repeat=2)
    assert once.state_dict().keys() == twice.state_dict().keys()
