"""BSRN and BSRN-S (Li et al., CVPRW 2022); in the official BSRN-S, 1x1 convolutions are linear layers."""

import pytest
import torch
from torch import nn

from sr_lab.errors import ConfigError
from sr_lab.models.bsrn import BSRN
from sr_lab.ops.renaming import official_names


def test_linear_layers_over_the_channels_become_1x1_convolutions():
    linear, factors = nn.Linear(16, 16), torch.rand(1, 16)
    state = {"B1.cw": factors, "B1.conv_out.weight": linear.weight, "B1.conv_out.bias": linear.bias}
    net = BSRN(scale=4, num_feat=16, num_block=1, form="bsrn_s")
    block = net.body[0]
    renamed = official_names(net)[0].to_ours(state, net)
    named = {name.removeprefix("body.0."): value for name, value in renamed.items()}
    assert not block.load_state_dict(named, strict=False).unexpected_keys
    x = torch.randn(1, 16, 5, 6)
    expected = linear(x.permute(0, 2, 3, 1) * factors).permute(0, 3, 1, 2)
    torch.testing.assert_close(block.cca(x), expected)


def test_every_official_name_of_bsrn_s_maps_to_a_parameter():
    bsconvs = [
        f"B1.{name}" for name in ("c1_r", "c2_r", "c3_r", "c4", "esa.conv_max", "esa.conv3", "esa.conv3_")
    ]
    plain = [f"B1.{name}" for name in ("c1_d", "c2_d", "c3_d", "c5", "conv_out")]
    plain += [f"B1.esa.{name}" for name in ("conv1", "conv2", "conv_f", "conv4")]
    layers = [f"{name}.{part}" for name in ["fea_conv", "c2", *bsconvs] for part in ("pw", "dw")]
    layers += ["c1", "upsampler.upsampleOneStep.0", *plain]
    names = ["B1.cw"] + [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    net = BSRN(scale=2, num_feat=16, num_block=1, form="bsrn_s")
    renamed = official_names(net)[0].to_ours(dict.fromkeys(names, torch.zeros(1)), net)
    assert renamed.keys() == net.state_dict().keys()


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="got form=tiny; allowed: bsrn, bsrn_s"):
        BSRN(scale=2, form="tiny")
