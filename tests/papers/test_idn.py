"""IDN (Hui et al., CVPR 2018): differences between its code and a port, and Table 2 of Du et al."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.models.idn import IDN, DBlock, Deconvolution
from sr_lab.ops.complexity import num_params
from sr_lab.strategies import cwss, ggas, ggas_cwss
from tests.papers.meta import on_meta


@pytest.mark.parametrize(
    ("build", "printed"),
    [
        (lambda net: net, 600),
        (lambda net: fold(ggas.apply(net)), 607),
        (cwss.apply, 600),
        (lambda net: fold(ggas_cwss.apply(net)), 607),
    ],
    ids=["IDN", "+ GGAS", "+ CWSS", "+ both"],
)
def test_table_2_prints_the_folded_parameters_in_whole_thousands(build, printed):
    assert num_params(build(on_meta(IDN, scale=4))) // 1000 == printed


def test_a_block_keeps_the_first_quarter_of_its_features_and_passes_on_the_rest():
    block = DBlock(16)
    seen = []
    block.above.register_forward_hook(lambda _, inputs, output: seen.append(output))
    block.below.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.compress.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.below.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    x = torch.rand(1, 16, 5, 4)
    block(x)
    above, passed, joined = seen
    assert torch.equal(passed, above[:, 4:])
    assert torch.equal(joined, torch.cat((x, above[:, :4]), dim=1))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_deconvolution_aligns_an_input_pixel_with_its_last_output_pixel(scale):
    tail = Deconvolution(num_feat=1, num_out_ch=1, scale=scale)
    with torch.no_grad():
        tail.deconv.bias.zero_()
        tail.deconv.weight.zero_()[..., 8, 8] = 1
    x = torch.rand(1, 1, 4, 5)
    sr = tail(x)
    assert sr.shape == (1, 1, 4 * scale, 5 * scale)
    assert torch.equal(sr[..., scale - 1 :: scale, scale - 1 :: scale], x)
    assert sr.count_nonzero() == x.numel()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "rgb"}, "got form=rgb; allowed: lr_space, original"),
        ({"num_feat": 40}, "got num_feat=40; allowed: multiples of 16"),
        ({"scale": 10, "form": "original"}, "cannot upscale by scale=10; allowed: 1 to 9"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        IDN(**{"scale": 2} | settings)
