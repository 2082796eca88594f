"""A network in float64 computes in float64 throughout."""

import pytest
import torch
from torch import nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config import targets
from sr_lab.layers.network import num_image_ch
from sr_lab.models.imdn import IMDN
from sr_lab.strategies import cwss, ggas, ggas_cwss
from tests.composing import compose
from tests.models.test_models import SHALLOW, build, distinct_models, one_of_each_class
from tests.operators import Operators
from tests.papers.meta import unfilled


def narrowed(network: nn.Module, *, train: bool) -> list[str]:
    """Operations of a network on the meta device that leave float64, and its output if it is not float64."""
    network = network.double().train(train)
    image = torch.rand(2, num_image_ch(network), 32, 32, dtype=torch.float64, device="meta")
    with Operators() as operators:
        sr = network(image)
    return [*operators.narrowing] + ([str(sr.dtype)] if sr.dtype != torch.float64 else [])


@pytest.mark.parametrize("model", one_of_each_class(distinct_models()))
def test_a_network_in_float64_computes_in_float64_throughout(model):
    with unfilled():
        network = build(model, **SHALLOW)
    assert [narrowed(network, train=train) for train in (False, True)] == [[], []]


@pytest.mark.parametrize("name", ["subpixel", "stepwise", "deconv", "pa", "mwaum", "rbwa"])
def test_a_tail_in_float64_computes_in_float64_throughout(name):
    factory = targets.build("upsampler", compose(f"upsampler={name}").upsampler.factory)
    with unfilled():
        network = IMDN(scale=4, num_feat=16, num_block=1, upsampler=factory)
    assert narrowed(network, train=False) == []


@pytest.mark.parametrize("strategy", [cwss, ggas, ggas_cwss], ids=lambda it: it.__name__.split(".")[-1])
def test_a_strategy_in_float64_computes_in_float64_throughout(strategy):
    with unfilled():
        network = strategy.apply(IMDN(scale=2, num_feat=16, num_block=2))
    assert narrowed(network, train=False) == []


@pytest.mark.parametrize("option", ["imdn_rtc", "pan", "a2f_sd", "fsrcnn_original", "bicubic"])
def test_float64_values_differ_from_float32_values(option):
    """They agree only to within the precision of float32."""
    network = Entry(option, 2).build().eval()
    image = torch.rand(1, num_image_ch(network), 24, 24)
    with torch.no_grad():
        single, double = network(image), network.double()(image.double())
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)
    assert not torch.equal(double, double.float().double())
