"""FSRCNN (Dong et al., ECCV 2016): its two forms, one of which is a host in Table 2 of Du et al."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.models.fsrcnn import FSRCNN
from sr_lab.ops.complexity import num_params
from sr_lab.ops.renaming import official_names
from sr_lab.strategies import cwss, ggas


def test_ggas_gates_the_mapping_convolutions_with_twelve_channels():
    net = ggas.apply(FSRCNN(scale=4))
    assert net.strategy["ggas"].gab.pointwise.out_channels == 12
    assert num_params(fold(net)) - num_params(FSRCNN(scale=4)) == 756


def test_fsrcnn_refuses_cwss():
    with pytest.raises(ConfigError, match="FSRCNN has no residual unit"):
        cwss.apply(FSRCNN(scale=4))


@pytest.mark.parametrize("num_block", [1, 4])
def test_official_layers_map_to_head_body_and_expansion_at_any_depth(num_block):
    net = FSRCNN(scale=3, num_block=num_block, form="original")
    layers = [net.head[1], *net.body, net.expand]
    official = {
        f"mid_part.{2 * k + part}.{name}": torch.full_like(weight, k)
        for k, layer in enumerate(layers)
        for part in (0, 1)
        for name, weight in layer[part].named_parameters()
    }
    official |= {f"first_part.{name}": weight for name, weight in net.head[0].named_parameters()}
    official |= {f"last_part.{name}": weight for name, weight in net.tail.named_parameters()}
    net.load_state_dict(official_names(net)[0].to_ours(official, net), strict=True)
    assert [layer[0].bias[0].item() for layer in layers] == list(range(num_block + 2))


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="got form=rgb; allowed: lr_space, original"):
        FSRCNN(scale=2, form="rgb")
