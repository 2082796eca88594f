"""Fresh weights have the standard deviations of the authors' code, computed here from that code's formulas.

FSRCNN: github.com/yjn870/FSRCNN-pytorch, models.py (ec7c8bb), ``_initialize_weights``.
IDN: github.com/Zheng222/IDN-Caffe, train/IDN_x2.prototxt (84c9001), ``msra`` with ``variance_norm: 2``.
MemNet: github.com/tyshiwo/MemNet, MemNet_M6R6_80C64_train.prototxt (10b18e9), ``msra``.
VDSR: github.com/huangzehao/caffe-vdsr, Train/VDSR_net.prototxt (1af8c34), ``msra``.
Caffe's filler draws with deviation sqrt(2 / n); n is the number of weights divided by ``num`` (fan in) or
by ``channels`` (fan out), or the mean of both (include/caffe/filler.hpp).
"""

from math import sqrt

import pytest
import torch
from torch import nn

from sr_lab.checkpoints.catalogue import Entry


def msra(weight, norm):
    """Deviation of Caffe's ``msra`` for a blob (num, channels, height, width)."""
    fan_in, fan_out = weight.numel() / weight.shape[0], weight.numel() / weight.shape[1]
    return sqrt(2 / {"fan_in": fan_in, "fan_out": fan_out, "average": (fan_in + fan_out) / 2}[norm])


def port_of_fsrcnn(name, weight):
    """``sqrt(2 / (out_channels * weight[0][0].numel()))``, and 0.001 for the last part."""
    return 0.001 if name.startswith("tail") else sqrt(2 / (weight.shape[0] * weight[0][0].numel()))


AUTHORS = {
    "fsrcnn_original": port_of_fsrcnn,
    "idn_original": lambda _, weight: msra(weight, "average"),
    "memnet": lambda _, weight: msra(weight, "fan_in"),
    "memnet_original": lambda _, weight: msra(weight, "fan_in"),
    "vdsr": lambda _, weight: msra(weight, "fan_in"),
}


@pytest.mark.parametrize("option", AUTHORS)
def test_each_layer_starts_with_the_deviation_of_the_authors_code(option):
    network = Entry(option, 2).build()
    ratios = {}  # for each kind of layer: its weights divided by the authors' deviation
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weight = module.weight.detach()
            kind = (name.split(".")[0], tuple(weight.shape), type(module))
            ratios.setdefault(kind, []).append((weight / AUTHORS[option](name, weight)).flatten())
            assert module.bias is None or not module.bias.any()
    for kind, values in ratios.items():
        drawn = torch.cat(values)
        deviation = drawn.square().mean().sqrt().item()
        # The deviation of n normal values has a standard error of 1 / sqrt(2 n).
        assert deviation == pytest.approx(1, abs=5 / sqrt(2 * len(drawn))), kind


def test_prelu_and_batch_norm_layers_start_as_in_caffe():
    """PReLU's slope is 0.25, and the norms' Scale layers have factor 1 and offset 0."""
    slopes = [m.weight for m in Entry("fsrcnn_original", 2).build().modules() if isinstance(m, nn.PReLU)]
    assert len(slopes) == 7
    assert all((slope == 0.25).all() for slope in slopes)
    norms = [m for m in Entry("memnet", 2).build().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize("option", ["fsrcnn", "idn", "imdn"])
def test_other_forms_start_with_torchs_default(option):
    head = Entry(option, 2).build().head
    conv = next(module for module in head.modules() if isinstance(module, nn.Conv2d))
    bound = 1 / sqrt(conv.weight[0].numel())  # uniform, as torch draws it
    assert bound * 0.95 < conv.weight.abs().max() <= bound
