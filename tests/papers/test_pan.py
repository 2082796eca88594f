"""PAN and A2N (Zhao et al., ECCVW 2020; Chen et al., 2021): the tail they share, and the image skip."""

import pytest
import torch
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.models import a2n, pan
from sr_lab.ops.renaming import official_names
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


@pytest.mark.parametrize("network", [pan.PAN, a2n.A2N])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_output_of_any_tail_is_added_to_the_bilinear_image(network, scale):
    net = network(scale=scale, num_feat=16, num_block=1, upsampler=SubpixelUpsampler)
    torch.nn.init.zeros_(net.tail[0].weight)
    torch.nn.init.zeros_(net.tail[0].bias)
    lr = torch.rand(1, 3, 9, 11)
    expected = F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(lr), expected)


@pytest.mark.parametrize(("scale", "stages"), [(2, 1), (3, 1), (4, 2)])
@pytest.mark.parametrize("network", [pan.PAN, a2n.A2N])
def test_the_official_names_of_the_tail_map_to_its_weights(network, scale, stages):
    names = [f"{name}{k}" for k in range(1, stages + 1) for name in ("upconv", "HRconv")] + ["conv_last"]
    names += [f"att{k}.conv" for k in range(1, stages + 1)]
    state = {f"{name}.{kind}": torch.zeros(1) for name in names for kind in ("weight", "bias")}
    net = network(scale=scale, num_feat=16, num_block=1)
    renamed = official_names(net)[0].to_ours(state, net)
    assert set(renamed) == {f"tail.{name}" for name in net.tail.state_dict()}


def test_the_weights_of_both_branches_in_an_a2b_add_up_to_one():
    block = a2n.A2B(16, plain_kernel_size=1)
    block.attended = block.plain
    x = torch.randn(2, 16, 5, 6)
    torch.testing.assert_close(block(x), block.fusion(block.act(block.plain(block.act(block.entry(x))))) + x)


@pytest.mark.parametrize("scale", [1, 5, 6])
def test_the_tail_refuses_scales_that_its_stages_cannot_produce(scale):
    with pytest.raises(ConfigError, match=f"no steps reach scale={scale}; allowed: 3, or a power of 2"):
        pan.PAN(scale=scale)


@pytest.mark.parametrize(("num_feat", "kernel"), [(2, 3), (16, 2)], ids=["too few channels", "even kernel"])
def test_too_few_channels_and_an_even_kernel_are_refused(num_feat, kernel):
    with pytest.raises(ConfigError, match=f"got num_feat={num_feat}, plain_kernel_size={kernel}; allowed"):
        a2n.A2N(scale=2, num_feat=num_feat, plain_kernel_size=kernel)
