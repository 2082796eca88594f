"""MemNet (Tai et al., ICCV 2017): its recursion and memory, its two forms, and Table 2 of Du et al."""

import pytest
import torch
from torch import nn

from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.models.memnet import MemNet
from sr_lab.ops.complexity import num_params
from sr_lab.strategies import cwss, ggas, ggas_cwss
from sr_lab.upsamplers.subpixel import SubpixelUpsampler
from tests.papers.meta import on_meta


@pytest.mark.parametrize(
    ("build", "printed"),
    [
        (lambda net: net, 714),
        (lambda net: fold(ggas.apply(net)), 721),
        (cwss.apply, 714),
        (lambda net: fold(ggas_cwss.apply(net)), 721),
    ],
    ids=["MemNet", "+ GGAS", "+ CWSS", "+ both"],
)
def test_table_2_prints_the_folded_parameters_in_whole_thousands(build, printed):
    assert num_params(build(on_meta(MemNet, scale=4))) // 1000 == printed


def test_the_printed_677_thousand_parameters_are_only_the_convolution_weights_of_the_original():
    net = MemNet(scale=2, form="original")
    assert sum(conv.weight.numel() for conv in net.modules() if isinstance(conv, nn.Conv2d)) == 676_992


@pytest.mark.parametrize("form", ["lr_space", "original"])
def test_recursions_share_one_unit_and_have_separate_norms_only_in_the_original(form):
    net = MemNet(scale=2, num_feat=4, num_block=2, num_recursion=3, form=form)
    calls = dict.fromkeys(net.residual_units, 0)
    norms = set()
    for unit in net.residual_units:
        unit.register_forward_hook(lambda unit, *_: calls.update({unit: calls[unit] + 1}))
        for norm in unit.norm1:
            norm.register_forward_hook(lambda norm, *_: norms.add(norm))
    net(torch.rand(1, 1 if form == "original" else 3, 6, 5))
    assert list(calls.values()) == [3, 3]
    assert len(norms) == (6 if form == "original" else 2)


def test_later_blocks_receive_the_features_gated_by_ggas():
    net = ggas.apply(MemNet(scale=2, num_feat=4, num_block=3))
    with torch.no_grad():
        net.strategy["ggas"].gab.pointwise.bias.fill_(-1000)  # closes the gate
    seen = []
    net.body[2].register_forward_pre_hook(lambda block, inputs: seen.extend(inputs[1]))
    net(torch.rand(1, 3, 6, 5))
    assert [memory.abs().max().item() > 0 for memory in seen] == [True, False, False]


def test_the_original_has_no_tail_to_replace():
    with pytest.raises(ConfigError, match="upsampler: the original MemNet has no tail"):
        MemNet(scale=2, form="original", upsampler=SubpixelUpsampler)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "rgb"}, "got form=rgb; allowed: lr_space, original"),
        ({"num_recursion": 0}, "got num_recursion=0"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MemNet(scale=2, **settings)
