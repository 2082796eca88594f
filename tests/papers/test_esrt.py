"""ESRT (Lu et al., CVPRW 2022): the repeats within its blocks, the second tail and the official names."""

import torch

from sr_lab.models.esrt import ESRT, HPB
from sr_lab.ops.renaming import official_names
from sr_lab.upsamplers.stepwise import StepwiseUpsampler


def test_one_block_refines_the_low_frequencies_five_times():
    block = HPB(16).eval()
    sizes = []
    block.low.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[-2:])))
    with torch.no_grad():
        block(torch.rand(1, 16, 7, 8))
    assert sizes == 5 * [(3, 4)]


def test_the_second_tail_adds_no_negative_value_and_has_no_last_bias():
    net = ESRT(scale=4, num_feat=16).eval()
    assert net.shallow_tail[-1].bias is None
    assert net.tail[-1].bias is not None
    lr = torch.rand(1, 3, 6, 7)
    seen = []
    net.tail.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        assert (net(lr) - seen[0] >= 0).all()


def test_another_tail_keeps_its_bias():
    net = ESRT(scale=2, num_feat=16, upsampler=StepwiseUpsampler)
    assert net.shallow_tail[-1].bias is not None


def test_scale_factors_without_effect_are_dropped_and_the_others_are_kept():
    unit = "body.0.encoder2.decoder_low."
    names = [f"{unit}weight{k}.scale" for k in (1, 2, 3, 4, 5)] + [f"{unit}layer1.weight1.scale"]
    net = ESRT(scale=2, num_feat=16, num_block=2)
    assert list(official_names(net)[0].to_ours(dict.fromkeys(names, torch.ones(1)), net)) == [
        "body.1.low.scale2.scale",
        "body.1.low.scale1.scale",
        "body.1.low.identity_scale.scale",
        "body.1.low.residual_scale.scale",
        "body.1.low.unit1.identity_scale.scale",
    ]


def test_the_index_of_the_last_convolution_depends_on_the_scale():
    names = ["tail.0.0.weight", "tail.1.weight", "up.1.conv.weight"]
    for scale, last in ((2, 2), (3, 2), (4, 4)):
        net = ESRT(scale=scale, num_feat=16, num_block=1)
        renamed = official_names(net)[0].to_ours(dict.fromkeys(names, torch.ones(1)), net)
        assert list(renamed) == ["tail.0.weight", f"tail.{last}.weight", f"shallow_tail.{last}.weight"]
