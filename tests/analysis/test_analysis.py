"""Spectra, residuals, attention, attribution and errors of hand-made networks whose answers are known."""

import itertools
import math

import pytest
import torch
from torch import nn

from sr_lab.analysis import attribution, features, pixel_errors, spectrum, stages
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.networks import model_options
from sr_lab.errors import ConfigError
from sr_lab.layers.attention import ESA, SA
from sr_lab.layers.network import min_size_of, num_image_ch
from sr_lab.strategies import cwss
from tests.models.test_models import one_of_each_class


class Gain(nn.Module):
    """Multiplies by a constant, in place."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return x.mul_(self.gain)


class Blocks(nn.Module):
    """A network of the given blocks; its output is as large as its input."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1, bias=False)
        self.head.weight.data.copy_(torch.eye(3)[..., None, None])
        self.body = nn.ModuleList(blocks)
        self.tail = nn.Identity()

    def forward(self, x):
        x = self.head(x)
        for block in self.body:
            x = block(x)
        return self.tail(x)


def box(size: int) -> nn.Conv2d:
    """Each channel's mean over a square."""
    conv = nn.Conv2d(3, 3, size, padding=size // 2, groups=3, bias=False)
    nn.init.constant_(conv.weight, 1 / size**2)
    return conv


@pytest.fixture
def lr():
    return torch.rand(1, 3, 24, 31, generator=torch.Generator().manual_seed(0))


def test_white_noise_has_its_variance_at_every_frequency():
    noise = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(0)) * 3 + 5
    found = spectrum.psd(noise, bins=8)
    torch.testing.assert_close(found.power, torch.full((8,), 9.0, dtype=torch.float64), rtol=0.12, atol=0)
    assert found.frequency[[0, -1]].tolist() == [1 / 32, 15 / 32]
    assert found.high == pytest.approx(10 * math.log10(9), abs=0.2)
    # Of the disc of frequencies up to 0.5, three quarters are in the ring above 0.25.
    assert found.share == pytest.approx(0.75, abs=0.02)
    assert spectrum.psd(noise * 100, bins=8).share == pytest.approx(found.share)


@pytest.mark.parametrize("period", [4, 8, 16])
def test_a_wave_is_found_at_its_frequency(period):
    wave = torch.cos(2 * math.pi * torch.arange(64) / period).expand(1, 1, 48, 64)
    found = spectrum.psd(wave)
    assert found.frequency[found.power.argmax()] == pytest.approx(1 / period, abs=1 / 48)


def test_a_ramp_has_no_detail_from_the_jump_between_its_borders():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    found = spectrum.psd(ramp)
    assert found.high < 10 * math.log10(float(found.power[0])) - 60


def test_the_block_that_blurs_lacks_high_frequencies(lr):
    found = stages.stages(Blocks(Gain(2), box(3), Gain(1.5)), lr)
    assert [stage.name for stage in found] == ["head", "1", "2", "3"]
    assert spectrum.lacking(found) == ["2"]


def test_the_residual_is_what_a_block_adds_even_if_it_works_in_place(lr):
    found = stages.stages(Blocks(Gain(1.25), Gain(0.5)), lr)
    torch.testing.assert_close(found[1].residual, 0.25 * lr)
    torch.testing.assert_close(found[2].residual, -0.625 * lr)
    torch.testing.assert_close(found[2].input, 1.25 * lr)


def test_a_block_with_other_channels_has_no_residual(lr):
    assert stages.stages(Blocks(nn.Conv2d(3, 5, 1)), lr)[1].residual is None


def test_a_block_that_runs_twice_appears_twice(lr):
    block = Gain(2)
    found = stages.stages(Blocks(block, block), lr)
    assert [stage.name for stage in found] == ["head", "1", "1 (run 2)"]
    torch.testing.assert_close(found[2].residual, 2 * lr)


def test_looking_leaves_the_network_as_it_was(lr):
    network = Blocks(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())).train()
    network.body[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stages.stages(network, lr)
    assert [module.training for module in network.body] == [False, True]
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_a_body_is_refused(lr):
    with pytest.raises(ConfigError, match="analyze: Identity has no body of blocks"):
        stages.stages(nn.Identity(), lr)


def test_the_input_that_cwss_scales_is_the_input_of_the_block(lr):
    network = Entry("edsr", 2).build(num_feat=4, num_block=2)
    plain = stages.stages(network, lr)
    scaled = stages.stages(cwss.apply(network, init=0.5), lr)
    torch.testing.assert_close(scaled[1].input, 0.5 * plain[1].input)


@pytest.mark.parametrize("option", one_of_each_class(model_options()))
def test_every_network_can_be_looked_into(option):
    network = Entry(option, 2).build()
    if option in ("bicubic", "srcnn", "srcnn_955"):
        with pytest.raises(ConfigError, match=r"analyze: .* has no body of blocks"):
            stages.stages(network, torch.rand(1, 1, 16, 16))
        return
    side = max(16, min_size_of(network))
    found = stages.stages(network, torch.rand(1, num_image_ch(network), side, side))
    blocks = {stage.module for stage in found} - {"head"}
    assert blocks == {str(number + 1) for number in range(len(network.body))}


def test_the_attention_is_the_factor_of_each_pixel(lr):
    network = Blocks(SA())
    (found,) = features.attention(network, lr)
    factor = network.body[0](lr) / lr
    torch.testing.assert_close(found.map, factor[0, 0], rtol=1e-4, atol=1e-5)
    assert (found.name, found.kind) == ("body.0", "SA")


def test_attention_of_one_kind_can_be_chosen(lr):
    network = Blocks(SA(), nn.Conv2d(3, 16, 1), ESA(16, form="rfdn"))
    assert [each.kind for each in features.attention(network, lr, only=["ESA"])] == ["ESA"]
    with pytest.raises(ConfigError, match="analyze: Blocks has none of CCA; it has ESA, SA"):
        features.attention(network, lr, only=["CCA"])
    with pytest.raises(ConfigError, match="it has no attention of these kinds"):
        features.attention(Blocks(nn.Identity()), lr)


def test_the_strongest_channel_has_the_largest_variance():
    maps = torch.zeros(1, 4, 8, 8)
    maps[0, 2, :4], maps[0, 1] = 3.0, 100.0  # channel 1 is strong, but constant
    assert [number for number, _ in features.strongest(maps, 1)] == [2]


def test_a_pixel_of_a_network_without_context_depends_on_itself_alone(lr):
    found = attribution.receptive_field(Blocks(nn.Conv2d(3, 3, 1)), lr)
    assert found.map.nonzero().tolist() == [[12, 15]]
    assert attribution.side_of(found.map) == 1
    assert found.diffusion_index == pytest.approx(100 / (24 * 31))


@pytest.mark.parametrize("size", [3, 5, 9])
def test_the_receptive_field_of_a_box_is_the_box(lr, size):
    found = attribution.receptive_field(Blocks(box(size)), lr)
    assert attribution.side_of(found.map, 0.999) == size
    assert int((found.map > 0.999).sum()) == size**2


def test_two_boxes_reach_as_far_as_both(lr):
    found = attribution.receptive_field(Blocks(box(3), box(5)), lr)
    assert attribution.side_of(found.map, 0.9999) == 7


def test_the_local_attribution_stays_in_what_the_window_can_see(lr):
    found = attribution.local_attribution(Blocks(box(5)), lr, (10, 8, 4, 4), steps=10)
    seen = torch.zeros(24, 31, dtype=torch.bool)
    seen[8 - 2 : 8 + 4 + 2, 10 - 2 : 10 + 4 + 2] = True
    assert not found.map[~seen].any()
    assert found.map.max() == 1
    wider = attribution.local_attribution(Blocks(box(9)), lr, (10, 8, 4, 4), steps=10)
    assert wider.diffusion_index > found.diffusion_index


def test_the_path_of_the_attribution_adds_up_to_the_difference_of_the_edges(lr):
    """Completeness of integrated gradients: the contributions sum to what the detector gains on the path."""
    network = Blocks(nn.Identity()).double()
    image = lr.double()
    path = [attribution._blurred(image, 1.2 * (1 - step / 400)) for step in range(401)]
    total = torch.zeros((), dtype=torch.float64)
    for before, after in itertools.pairwise(path):
        point = after.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(attribution._edges(network(point)), point)
        total += (gradient * (after - before)).sum()
    gained = attribution._edges(path[-1]) - attribution._edges(path[0])
    assert float(total) == pytest.approx(float(gained), rel=0.01)


def test_a_window_outside_of_the_result_is_refused(lr):
    with pytest.raises(ConfigError, match="the window 30,0,4,4 extends beyond the result of 31x24 pixels"):
        attribution.local_attribution(Blocks(box(3)), lr, (30, 0, 4, 4), steps=2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1, 1], 0.0), ([0, 0, 0, 1], 0.75), ([1, 3], 0.25), ([0, 0], 0.0)],
)
def test_the_gini_coefficient_is_the_textbooks(values, expected):
    assert attribution.gini(torch.tensor(values, dtype=torch.float64)) == pytest.approx(expected)


def test_errors_at_an_edge_are_told_from_those_elsewhere():
    hr = torch.zeros(20, 20)
    hr[:, 10:] = 200
    sr = hr.clone()
    sr[:, 9:11] += 6  # the two columns at the edge
    found = pixel_errors.errors(sr, hr)
    assert (found.edges, found.flat) == (36, 0)
    assert found.map.max() == 6


def test_a_flat_image_has_no_edges():
    assert not pixel_errors.edges(torch.full((8, 8), 7.0)).any()


def test_the_mean_of_errors_counts_images_of_any_size_alike():
    small, large = torch.randn(24, 40), 3 * torch.randn(90, 70)
    found = pixel_errors.mean(
        [pixel_errors.errors(image, torch.zeros_like(image)) for image in (small, large)]
    )
    each = [pixel_errors.errors(image, torch.zeros_like(image)) for image in (small, large)]
    assert found.flat == pytest.approx((each[0].flat + each[1].flat) / 2)
    assert float(found.spectrum.power.mean()) == pytest.approx((1 + 9) / 2, rel=0.2)
    assert len(found.spectrum.frequency) == 64


def test_the_wins_are_sorted_by_their_gain():
    assert pixel_errors.wins({"a": 30.0, "b": 31.0, "c": 1.0}, {"a": 29.0, "b": 32.0}) == [
        ("a", 1.0),
        ("b", -1.0),
    ]
