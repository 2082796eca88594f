"""EDSR, the similar RCAN and RDN, and the shallow EDSR with which Du et al. compare attentions."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.image import MeanShift
from sr_lab.models import edsr, rcan, rdn
from sr_lab.models.edsr_shallow import ShallowEDSR
from sr_lab.ops.renaming import official_names


def names(*layers):
    return {f"{layer}.{kind}": torch.ones(()) for layer in layers for kind in ("weight", "bias")}


def with_shifts(state):
    """Add the frozen mean shifts that the authors put around the network."""
    shifts = {name: MeanShift(sign=sign).state_dict() for name, sign in (("sub_mean", -1), ("add_mean", 1))}
    return state | {f"{name}.{key}": value for name, shift in shifts.items() for key, value in shift.items()}


EDSR_PYTORCH = ("head.0", "tail.0.0", "tail.0.2", "tail.1", "body.2")
BASICSR = ("conv_first", "conv_after_body", "upsample.0", "upsample.2", "conv_last")
RCABS = [f"body.{i}.body.{j}.body.{part}" for i in "01" for j in "01" for part in ("0", "2", "3.conv_du.0")]
BASICSR_RCABS = [
    f"body.{i}.residual_group.{j}.rcab.{part}"
    for i in "01"
    for j in "01"
    for part in ("0", "2", "3.attention.1")
]
PORT = [f"rdbs.{i}.{part}" for i in "01" for part in ("layers.0.conv", "layers.1.conv", "lff")]
SMALL = {"scale": 4, "num_feat": 16, "num_block": 2}


@pytest.mark.parametrize(
    ("net", "port", "state"),
    [
        (
            edsr.EDSR(**SMALL),
            0,
            with_shifts(names(*EDSR_PYTORCH, *(f"body.{i}.body.{j}" for i in "01" for j in "02"))),
        ),
        (edsr.EDSR(**SMALL), 1, names(*BASICSR, *(f"body.{i}.conv{j}" for i in "01" for j in "12"))),
        (
            rcan.RCAN(num_group=2, **SMALL),
            0,
            with_shifts(names(*EDSR_PYTORCH, "body.0.body.2", "body.1.body.2", *RCABS))
            | names(*(name.replace("du.0", "du.2") for name in RCABS)),
        ),
        (
            rcan.RCAN(num_group=2, **SMALL),
            1,
            names(*BASICSR, "body.0.conv", "body.1.conv", *BASICSR_RCABS)
            | names(*(name.replace("attention.1", "attention.3") for name in BASICSR_RCABS)),
        ),
        (
            rdn.RDN(num_layer=2, **SMALL),
            0,
            names("sfe1", "sfe2", "gff.0", "gff.1", "upscale.0", "upscale.2", "output", *PORT),
        ),
    ],
    ids=["EDSR", "EDSR of BasicSR", "RCAN", "RCAN of BasicSR", "RDN"],
)
def test_every_weight_has_a_name_in_the_authors_code(net, port, state):
    assert official_names(net)[port].to_ours(state, net).keys() == net.state_dict().keys()


def test_rdn_of_edsr_pytorch_keeps_its_value_range_of_255():
    net = rdn.RDN(scale=2, num_feat=8, num_block=1, num_layer=1)
    layers = (
        "SFENet1",
        "SFENet2",
        "RDBs.0.convs.0.conv.0",
        "RDBs.0.LFF",
        "GFF.0",
        "GFF.1",
        "UPNet.0",
        "UPNet.2",
    )
    state = rdn.OFFICIAL_NAMES[1].to_ours(names(*layers, "UPNet.0", "UPNet.2"), net)
    assert state.keys() == net.state_dict().keys()
    assert state["entry.weight"] == 255 * state["entry.bias"]
    assert state["tail.2.weight"] == state["tail.2.bias"] == 1 / torch.tensor(255.0)
    assert state["tail.0.weight"] == 1


@pytest.mark.parametrize(("share", "modules"), [(True, 1), (False, 3)], ids=["shared", "one per block"])
@pytest.mark.parametrize("attention", ["ca", "cca", "sa", "esa"])
def test_an_attention_weights_every_residual(attention, share, modules):
    net = ShallowEDSR(scale=2, num_feat=16, num_block=3, attention=attention, share_attention=share)
    assert len({block.attention for block in net.body}) == modules
    seen = []
    for module in {block.attention for block in net.body}:
        module.register_forward_hook(lambda *_: seen.append(1))
    net(torch.rand(2, 3, net.min_size + 2, net.min_size)).square().mean().backward()
    assert len(seen) == 3
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share_attention": False}, "share_attention=false"),
        ({"attention": "pa"}, "got attention=pa"),
    ],
)
def test_a_setting_without_effect_and_an_unknown_attention_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ShallowEDSR(scale=4, **settings)
