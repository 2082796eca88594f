import functools

import pytest
import torch
from torch import Tensor, nn

from sr_lab.models.efrdn import EFRDN
from sr_lab.models.imfm import IMFM
from sr_lab.models.mren import MREN
from sr_lab.models.osffnet import OSFFNet
from sr_lab.ops.roofline import Operator, Peaks, Traffic, traffic


class Small(nn.Module):
    """A 3x3 convolution with bias from 3 to 5 channels, then x + relu(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.conv(lr)
        return x + x.relu().view(1, 5, -1).view(x.shape)


def multi_adds_of(counted: Traffic) -> int:
    return sum(operator.flops for operator in counted.operators) // 2


def test_operators_are_counted_with_the_values_they_read_and_write():
    counted = traffic(Small(), (1, 3, 4, 6))
    assert [operator.name for operator in counted.operators] == ["convolution", "relu", "add"]
    pixels = 24
    weights = 5 * 3 * 9 + 5
    assert [operator.values for operator in counted.operators] == [
        3 * pixels + weights + 5 * pixels,
        2 * 5 * pixels,
        3 * 5 * pixels,
    ]
    assert multi_adds_of(counted) == 3 * 5 * 9 * pixels


def test_after_fusion_only_operators_that_multiply_and_add_remain():
    assert [operator.name for operator in traffic(Small(), (1, 3, 4, 6)).fused.operators] == ["convolution"]


def test_an_operator_takes_as_long_as_the_slower_of_computing_and_moving_data():
    peaks = Peaks(flops=100, bytes=10)
    assert Operator("conv", flops=1000, values=5).seconds(peaks, 4) == 10  # moving the data takes 2 s
    assert Operator("add", flops=0, values=50).seconds(peaks, 4) == 20
    both = Traffic([Operator("conv", 1000, 5), Operator("add", 0, 50)])
    assert both.seconds(peaks, bytes_per_value=4) == 30


def test_attention_is_one_operator_with_two_products():
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    counted = traffic(Attention(), (1, 2, 10, 8))
    assert multi_adds_of(counted) == 2 * 2 * 10 * 10 * 8
    (operator,) = counted.operators
    assert operator.values == 4 * 2 * 10 * 8 + 2 * 10  # and one sum per row, but not all pairs


def test_counting_traffic_leaves_the_model_unchanged():
    model = Small().train()
    before = model.conv.weight.clone()
    traffic(model, (1, 3, 4, 6))
    assert model.training
    assert model.conv.weight.device.type == "cpu"
    assert torch.equal(model.conv.weight, before)


@functools.cache
def of(model: type[nn.Module]) -> Traffic:
    return traffic(model(scale=4), (1, 3, 36, 64))


# Multiply-adds (G) for a 1280x720 image, scaled up from 36x64, and milliseconds of fused half precision on an
# RTX 4090. They were computed independently of this code when the goals of the project were set.
@pytest.mark.parametrize(
    ("model", "multi_adds", "fused_ms"),
    [(OSFFNet, 29.3, 2.3), (EFRDN, 53.7, 2.5), (MREN, 49.0, 1.7), (IMFM, 46.5, 1.7)],
)
def test_the_four_networks_have_the_costs_that_were_computed_independently(model, multi_adds, fused_ms):
    counted = of(model)
    share = (320 * 180) / (36 * 64)
    without_attention = Traffic([one for one in counted.operators if "attention" not in one.name])
    assert multi_adds_of(without_attention) * share / 1e9 == pytest.approx(multi_adds, abs=0.06)
    card = Peaks(flops=165e12, bytes=1008e9)
    assert counted.fused.seconds(card, bytes_per_value=2) * share * 1000 == pytest.approx(fused_ms, rel=0.15)


# Kernels that eager mode launches; each costs 5 us on a GPU, so more of them is a regression.
@pytest.mark.parametrize(("model", "most"), [(OSFFNet, 585), (EFRDN, 2109), (MREN, 589), (IMFM, 731)])
def test_the_number_of_kernels_does_not_grow(model, most):
    assert len(of(model).operators) <= most
