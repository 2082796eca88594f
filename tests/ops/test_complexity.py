import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.complexity import activations, multi_adds, num_params, peak_memory

POSITIONS = 640 * 360  # LR at x2


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, lr):
        tokens = F.adaptive_avg_pool2d(self.head(lr), 5).flatten(2).mT  # (N, 25, 4)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 16)

    def forward(self, lr):
        return self.linear(self.norm(self.conv(lr).permute(0, 2, 3, 1)))


@pytest.mark.parametrize(
    ("model", "scale", "rule", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 2, "conv", 3 * 8 * 9 * POSITIONS),
        (nn.Conv2d(3, 8, 3, padding=1), 2, "all", 3 * 8 * 9 * POSITIONS),
        (nn.Conv2d(3, 8, 3, padding=1), 2, "torchinfo", (3 * 8 * 9 + 8) * POSITIONS),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 2, "conv", 6 * 9 * POSITIONS),
        (nn.Conv2d(3, 8, 1), 3, "conv", 3 * 8 * 426 * 240),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), 2, "conv", 3 * 2 * 4 * POSITIONS),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), 2, "torchinfo", (3 * 2 * 4 + 2) * 4 * POSITIONS),
        (ChannelsLast(), 2, "all", (3 * 8 * 9 + 8 * 16) * POSITIONS),
        (ChannelsLast(), 2, "conv", 3 * 8 * 9 * POSITIONS),
        (ChannelsLast(), 2, "torchinfo", (3 * 8 * 9 + 8) * POSITIONS + 2 * 8 + (8 * 16 + 16)),
        (Attention(), 2, "all", 3 * 4 * POSITIONS + 2 * 25 * 25 * 4),
        (Attention(), 2, "conv", 3 * 4 * POSITIONS),
    ],
)
def test_multiply_adds_equal_those_counted_by_hand(model, scale, rule, expected):
    assert multi_adds(model, scale=scale, rule=rule) == expected


def test_a_layer_called_twice_counts_twice_but_is_stored_once():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, conv)
    assert num_params(model) == 3 * 3 * 9 + 3
    for rule in ("all", "conv", "torchinfo"):
        assert multi_adds(model, scale=2, rule=rule) == 2 * multi_adds(conv, scale=2, rule=rule)


def test_a_luma_network_is_counted_on_one_channel():
    model = nn.Conv2d(1, 8, 3, padding=1)
    model.colour = "y"
    assert multi_adds(model, scale=2, rule="conv") == 8 * 9 * POSITIONS


@pytest.mark.parametrize("rule", ["all", "conv", "torchinfo"])
def test_bicubic_costs_nothing(rule):
    model = Bicubic(scale=4)
    assert num_params(model) == 0
    assert multi_adds(model, scale=4, rule=rule) == 0


def test_counting_leaves_the_model_unchanged():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())
    multi_adds(model, scale=2, rule="torchinfo")
    multi_adds(model, scale=2, rule="all")
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Turned(nn.Module):
    """Convolutions with a kernel of one row; between them, the image is transposed in place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, (1, 3), bias=False)

    def forward(self, lr):
        for _ in range(2):
            lr = self.conv(nn.functional.pad(lr, (1, 1))).transpose_(2, 3)
            lr = lr.relu_().relu_().contiguous()
        return self.conv((lr + 1).transpose_(2, 3).contiguous())


@pytest.mark.parametrize("start", ["cpu", "meta"])
def test_an_operator_in_place_is_counted_with_the_shape_that_it_leaves(start):
    net = Turned().to(start).eval()
    positions = 2 * 320 * 180 + 320 * 178
    for _ in range(2):
        assert multi_adds(net, scale=4, rule="conv") == positions * 3 * 3 * 3


class Gated(nn.Module):
    """Uses each operator that the rule ``op_counter`` counts, and one that it does not count."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.plain = nn.Conv2d(6, 4, 1, bias=False)

    def forward(self, lr):
        x = F.gelu(self.plain(F.silu(self.conv(lr))))
        variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(variance + mean + x.amax(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("scale", [2, 4])
def test_op_counter_equals_the_count_by_hand_for_its_own_image_size(scale):
    silu, pools, sigmoid = 3 * 6, 2 * 4, 3 * 4
    expected = (6 * (9 + 1) + 4 * 6 + silu + pools) * 192 * 192 + sigmoid
    assert multi_adds(Gated(), scale=scale, rule="op_counter") == expected


def test_op_counter_counts_a_transposed_convolution_at_its_output_size():
    deconv = nn.ConvTranspose2d(3, 2, 2, stride=2)
    assert multi_adds(deconv, scale=2, rule="op_counter") == 2 * 3 * (4 + 1) * 384 * 384


def test_activations_are_the_outputs_of_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, stride=2))
    assert activations(model, scale=2) == (8 + 4 * 2) * POSITIONS


def test_activations_can_be_counted_for_another_image_size():
    assert activations(nn.Conv2d(3, 5, 1), scale=2, hr_size=(20, 10)) == 5 * 10 * 5


def test_a_model_without_parameters_has_no_activations():
    assert activations(Bicubic(scale=2), scale=2) == 0


class Keeps(nn.Module):
    """Makes intermediate images in one of four ways, which differ in how many are in memory at once."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.unused = nn.Parameter(torch.zeros(10))

    def forward(self, lr):
        grey = lr[:, :1]  # a view
        if self.way == "view":
            return grey
        if self.way == "in place":
            return lr.mul_(2).relu_()
        if self.way == "chain":  # the first result is freed before the third is made
            return ((lr + 1) + 1) + 1
        kept = [lr + 1, lr + 2]
        return torch.cat(kept, dim=1)


@pytest.mark.parametrize(
    ("way", "images"), [("view", 1), ("in place", 1), ("chain", 3), ("two and their sum", 1 + 2 + 2)]
)
def test_peak_memory_equals_the_value_computed_by_hand(way, images):
    image = 3 * POSITIONS * 4  # float32
    assert peak_memory(Keeps(way), scale=2) == images * image + 10 * 4


def test_measuring_peak_memory_runs_no_computation_and_leaves_the_model_unchanged():
    model = nn.Conv2d(3, 8, 3, padding=1)
    before = copy.deepcopy(model.state_dict())
    assert peak_memory(model, scale=2) == (3 + 8) * POSITIONS * 4 + (3 * 8 * 9 + 8) * 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert type(model.weight) is nn.Parameter  # not a fake tensor


def test_attention_does_not_store_the_matrix_of_all_pairs():
    class Attends(nn.Module):
        def forward(self, lr):
            tokens = lr.flatten(2)[..., :4096].mT.contiguous()[:, None]  # (N, heads, 4096, 3)
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    assert peak_memory(Attends(), scale=2) < 4096 * 4096 * 4 / 4
