"""Graphs for other runtimes give torch's images at any size."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import ConfigError
from sr_lab.inference import backends, graph
from sr_lab.inference.exports import Images, as_onnx, as_pt2
from sr_lab.ops.resize import imresize
from sr_lab.protocol import PROTOCOLS
from tests.inference.test_backends import OddOnly, PlusMean, Unexportable

SIZES = ((1, 24, 24), (3, 17, 60), (2, 49, 55), (1, 64, 33))
RANDOM = Images(None, PROTOCOLS["rgb_uint8"])


class Step(nn.Module):
    """One function as a network without weights."""

    colour, scale = "rgb", 1

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, lr):
        return self.function(lr)


def pooled(x, halvings):
    return F.adaptive_max_pool2d(x, (x.shape[-2] >> halvings, x.shape[-1] >> halvings))


STEPS = {
    "pooling to half": lambda x: pooled(x, 1),
    "pooling to an eighth": lambda x: pooled(x, 3),
    "nearest-neighbour upsampling": lambda x: F.interpolate(pooled(x, 2), size=x.shape[-2:], mode="nearest"),
    "imresize": lambda x: imresize(x, numerator=2),
}
TOGETHER = "all"  # an export takes seconds; if this graph differs, the slow tests show which operation does
STEPS[TOGETHER] = lambda x: (
    F.interpolate(pooled(x, 3), size=x.shape[-2:], mode="nearest") + pooled(imresize(x, numerator=2), 1)
)


@pytest.mark.parametrize(
    "name", [TOGETHER, *(pytest.param(name, marks=pytest.mark.slow) for name in STEPS if name != TOGETHER)]
)
def test_operations_that_torch_does_not_export_give_torchs_images(name):
    network = Step(STEPS[name])
    program = graph.exported_program(network)
    content = graph.onnx_model(network).SerializeToString()
    runs = {backend: backends.start(backend, content, 1) for backend in ("onnxruntime", "openvino")}
    runs["torch.export"] = program.module()
    for batch, height, width in SIZES:
        lr = torch.rand(batch, 3, height, width)
        for made_by, run in runs.items():
            sr = run(lr)
            assert sr.shape == network(lr).shape, made_by
            assert (sr - network(lr)).abs().max() < 1e-6, made_by


@pytest.fixture(scope="module")
def exported():
    """A network in training mode, its weights before the export, and its graph."""
    network = PlusMean().train()
    return network, copy.deepcopy(network.state_dict()), graph.onnx_model(network)


def test_a_graph_for_one_size_has_constant_shapes(exported):
    assert graph.is_static(graph.onnx_model(Step(STEPS["nearest-neighbour upsampling"]), size=(41, 30)))
    assert not graph.is_static(exported[-1])


def test_integers_fit_into_32_bits():
    model = graph.onnx_model(Step(lambda x: x[..., 1:, 2:] + 1), open_batch=False)
    whole = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 7]
    assert whole
    assert max(np.abs(values).max() for values in whole) < 2**31


def test_a_graph_that_gives_another_image_is_refused():
    with pytest.raises(
        ConfigError, match=r"onnx: OddOnly does not export \(the graph differs by .*size=180x320"
    ):
        as_onnx(OddOnly().eval(), RANDOM, {}, size=None, dtype="float32")


@pytest.mark.slow  # 20 s
def test_shifted_windows_give_torchs_images_for_any_number_and_size_of_images():
    torch.manual_seed(0)
    network = Entry("swinir_light", 2).build(num_feat=4, num_block=1, num_layer=2).eval()
    runs = backends.start("onnxruntime", graph.onnx_model(network).SerializeToString(), 1)
    for batch, height, width in (*SIZES, (1, 1, 1), (2, 3, 40)):  # 1 or 3 pixels are mirrored repeatedly
        lr = torch.rand(batch, 3, height, width)
        assert (runs(lr) - network(lr)).abs().max() < 1e-5


class RoundsUp(PlusMean):
    """Inverts the columns of the image after the first third, whose width is rounded up."""

    def forward(self, lr):
        sr = super().forward(lr)
        start = -(-sr.shape[-1] // 3)
        return torch.cat((sr[..., :start], 1 - sr[..., start:]), dim=-1)


def test_a_graph_rounds_lengths_as_torch_does():
    network = RoundsUp().eval()
    runs = backends.start("onnxruntime", graph.onnx_model(network, open_batch=False).SerializeToString(), 1)
    for width in (9, 10, 11):
        lr = torch.rand(1, 3, 8, width)
        assert (runs(lr) - network(lr)).abs().max() < 1e-5


class Amplifies(PlusMean):
    """Amplifies rounding errors, as BSRN does on noise."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        sr = super().forward(lr)
        return sr + 1e4 * ((sr + 1e3) - 1e3 - sr.mul(1.7).div(1.7))


def test_a_graph_that_is_as_exact_as_torch_is_accepted():
    exported = as_onnx(Amplifies().eval(), RANDOM, {}, size=None, dtype="float32")
    assert "float32 is no more exact" in exported.facts[1]


class Drawn:
    """Random images as a test set."""

    name = "drawn"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        hr = torch.randint(
            256, (3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
        )
        return {"name": "noise", "hr": hr, "lr": hr[:, ::2, ::2].float() / 255, "grey": False}


@pytest.mark.parametrize(("size", "is_measured"), [((7, 9), False), ((8, 9), True), ((20, 31), True)])
def test_images_that_are_cut_too_small_to_measure_are_left_out(size, is_measured):
    images = Images(Drawn(), PROTOCOLS["rgb_uint8"])
    exported = as_onnx(PlusMean().eval(), images, {}, size=size, dtype="float32")
    assert ("dB on drawn" in exported.facts[1]) == is_measured


@pytest.mark.parametrize("size", [None, (24, 24)])
def test_a_network_that_torch_cannot_export_is_refused_with_the_reason(size):
    for kind, refused in (
        ("onnx", lambda net: as_onnx(net, RANDOM, {}, size=size, dtype="float32")),
        ("pt2", lambda net: as_pt2(net, RANDOM, size=size)),
    ):
        with pytest.raises(ConfigError, match=rf"{kind}: Unexportable .*data-dependent") as error:
            refused(Unexportable().eval())
        assert ("size=180x320" in str(error.value)) == (size is None)


def test_the_reason_names_the_operation_that_stands_in_the_way():
    network = Step(lambda x: F.fractional_max_pool2d(x, 2, output_size=(5, 5)))
    with pytest.raises(ConfigError, match=r"fractional_max_pool2d"):
        as_onnx(network, RANDOM, {}, size=(24, 24), dtype="float32")


def test_an_export_leaves_the_network_unchanged(exported):
    network, before, _ = exported
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_model_is_valid_onnx(exported):
    onnx.checker.check_model(exported[-1], full_check=True)


class Grouped(nn.Module):
    """Normalises groups of channels; its graph reshapes to a shape with a literal zero, as FDIWN's does."""

    colour, scale = "rgb", 1

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(1, 3)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.norm(lr)


@pytest.mark.parametrize("size", [None, (9, 11)])
def test_a_literal_zero_in_a_shape_keeps_the_length(size):
    network = Grouped().eval()
    model = graph.onnx_model(network, size=size)
    lr = torch.rand(1, 3, 9, 11)
    (sr,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"lr": lr.numpy()})
    assert np.abs(sr - network(lr).detach().numpy()).max() < 1e-5
