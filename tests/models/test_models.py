"""Properties of every model in conf/model; a new yaml file is tested without a change here."""

import copy
import functools
import inspect
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sr_lab.errors import ConfigError
from sr_lab.layers.network import colour_of, min_size_of, multi_adds_rule_of, num_image_ch, scale_of
from sr_lab.protocol import PROTOCOLS
from sr_lab.training.lit_module import SRModule
from sr_lab.upsamplers.deconv import DeconvUpsampler
from tests.operators import Operators

CONF = Path(__file__).parents[2] / "conf"
UPSAMPLERS = sorted({path.stem for path in (CONF / "upsampler").glob("*.yaml")} - {"native"})
SHRUNKEN = {"num_feat": 16, "num_block": 2, "num_group": 2}


def distinct_models():
    """Names of the options; of those that the tests shrink to the same network, only the first."""
    found = {}
    for path in sorted((CONF / "model").glob("*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        found.setdefault(str({key: settings[key] for key in sorted(settings.keys() - SHRUNKEN)}), path.stem)
    return list(found.values())


def one_of_each_class(options):
    """Cases for options of ``model``: the first of each class, and in the slow tests its other forms too."""
    first = {}
    for option in options:
        first.setdefault(OmegaConf.load(CONF / "model" / f"{option}.yaml")._target_, option)
    return [
        option if option in first.values() else pytest.param(option, marks=pytest.mark.slow)
        for option in options
    ]


every_model = pytest.mark.parametrize("model", distinct_models())
# All options of a class are compiled from the same code, and tracing it takes seconds: the four kinds of body
# (residual, dense, windows, convolutions with transformers) are traced always, the others in the slow tests.
CLASSES = {
    OmegaConf.load(CONF / "model" / f"{model}.yaml")._target_.rpartition(".")[2]: model
    for model in distinct_models()
}
TRACED = ("IMDN", "OSFFNet", "SwinIRLight")
every_class = pytest.mark.parametrize(
    "model",
    [
        model if name in TRACED else pytest.param(model, marks=pytest.mark.slow)
        for name, model in CLASSES.items()
    ],
)
SHALLOW = {"num_block": 1, "num_group": 1, "num_transformer": 1, "num_layer": 2, "num_path": 2, "num_unit": 1}


def model_class(model):
    return hydra.utils.get_class(OmegaConf.load(CONF / "model" / f"{model}.yaml")._target_)


def build(model, *, scale=2, upsampler="native", **settings):
    config = OmegaConf.create(
        {
            "scale": scale,
            "upsampler": OmegaConf.load(CONF / "upsampler" / f"{upsampler}.yaml"),
            "model": OmegaConf.load(CONF / "model" / f"{model}.yaml"),
        }
    )
    accepted = inspect.signature(model_class(model)).parameters
    shrunken = {name: value for name, value in (SHRUNKEN | settings).items() if name in accepted}
    torch.manual_seed(0)
    return hydra.utils.instantiate(config.model, **shrunken)


def images(net, *, number=1):
    """Random images of an odd, non-square size that the network accepts."""
    height = max(net.min_size, 7) | 1
    generator = torch.Generator().manual_seed(1)
    return torch.rand(number, num_image_ch(net), height, height + 4, generator=generator)


@functools.cache
def upscaled(model):
    """A network, two LR images and their SR images, computed once; tests copy whatever they modify."""
    net = build(model).eval()
    lr = images(net, number=2)
    with torch.no_grad():
        return net, lr, net(lr)


def assert_same(sr, expected, *, atol):
    """Assert equality up to ``atol``, relative to the largest output where that exceeds 1."""
    torch.testing.assert_close(sr, expected, atol=atol * max(1, expected.abs().max().item()), rtol=0)


@every_model
def test_a_constructor_is_keyword_only_and_refuses_unknown_arguments(model):
    kinds = {parameter.kind for parameter in inspect.signature(model_class(model)).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@every_model
@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_the_output_size_is_the_input_size_times_the_scale(model, scale):
    net, lr, sr = upscaled(model)
    if scale != 2:
        net = build(model, scale=scale).eval()
        sr = net(lr)
    assert net.scale == scale
    assert sr.shape == (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale)
    assert sr.isfinite().all()


# A network with one tail, one with two tails and one for luma; test_upsamplers tests tails at every scale.
@pytest.mark.parametrize("model", ["imdn", "efrdn", "ecbsr"])
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_a_network_accepts_every_tail(model, upsampler):
    net = build(model, upsampler=upsampler).eval()
    lr = images(net, number=2)
    with torch.no_grad():
        assert net(lr).shape == (*lr.shape[:2], lr.shape[2] * 2, lr.shape[3] * 2)


def refusal(model, upsampler):
    """The message of a network that refuses a tail, or an empty string; other errors are raised."""
    try:
        build(model, upsampler=upsampler)
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            return str(error.__cause__)
        raise
    return ""


@every_model
def test_a_tail_other_than_its_own_is_accepted_or_refused_with_a_message(model):
    said = refusal(model, "deconv")
    assert "set upsampler=native" in said or type(build(model, upsampler="deconv").tail) is DeconvUpsampler


@every_model
@torch.no_grad()
def test_the_smallest_allowed_image_passes_and_a_smaller_one_is_refused(model):
    net, lr, _ = upscaled(model)
    size = net.min_size
    assert net(lr[:1, :, :size, :size]).isfinite().all()
    if size > 1:
        with pytest.raises(ConfigError, match=f"at least {size}x{size} pixels, got {size - 1}x{size}"):
            net(lr[:1, :, :size, : size - 1])


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@torch.no_grad()
def test_mixed_precision_stays_close_to_float32(model, dtype):
    net, lr, expected = upscaled(model)
    with torch.autocast("cpu", dtype=dtype):
        sr = net(lr[:1])
    assert_same(sr.float(), expected[:1], atol=0.03)


@every_class
@torch.no_grad()
def test_a_compiled_graph_gives_the_same_output(model):
    net = build(model, **SHALLOW).eval()
    lr = images(net)
    assert_same(torch.compile(net, backend="aot_eager")(lr), net(lr), atol=1e-5)


@every_model
@torch.no_grad()
def test_channels_last_gives_the_same_output(model):
    net, lr, expected = upscaled(model)
    sr = copy.deepcopy(net).to(memory_format=torch.channels_last)(lr.to(memory_format=torch.channels_last))
    assert_same(sr, expected, atol=1e-5)


@every_model
@torch.no_grad()
def test_evaluation_is_deterministic_and_independent_of_the_batch(model):
    net, lr, expected = upscaled(model)
    assert torch.equal(net(lr), expected)
    assert_same(net(lr.flip(0)).flip(0), expected, atol=1e-6)


# Operators that trainer.deterministic=true refuses because their CUDA kernels add in any order. They are from
# the documentation of torch.use_deterministic_algorithms; bilinear interpolation is omitted because it then
# decomposes.
NOT_DETERMINISTIC = {
    *("adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward", "reflection_pad2d_backward"),
    *("grid_sampler_2d_backward", "fractional_max_pool2d_backward", "max_unpool2d", "cumsum", "put_"),
    *("avg_pool3d_backward", "nll_loss2d_forward", "histc", "bincount", "median", "kthvalue"),
}


@every_model
def test_a_step_trains_every_parameter_on_rgb_patches_with_deterministic_kernels_and_can_be_copied(model):
    net = copy.deepcopy(upscaled(model)[0]).train()
    size = max(net.min_size, 8)
    batch = {
        "lr": torch.randint(256, (2, 3, size, size), dtype=torch.uint8),
        "hr": torch.randint(256, (2, 3, 2 * size, 2 * size), dtype=torch.uint8),
        "dihedral": torch.tensor([0, 5]),
    }
    module = SRModule(net, scale=2, protocol=PROTOCOLS["rgb_uint8"], loss=nn.L1Loss())
    with Operators() as operators:
        loss = module.training_step(batch, 0)
        if loss.requires_grad:
            loss.backward()
    assert loss.isfinite()
    assert not operators.counts.keys() & NOT_DETERMINISTIC
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    lr = upscaled(model)[1][:1]
    net.eval()
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(net)(lr), net(lr))


@pytest.mark.slow
@every_model
def test_a_network_keeps_everything_on_its_device(model):
    net = copy.deepcopy(upscaled(model)[0])
    values = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    with FakeTensorMode(), torch.no_grad():  # without it, some operators accept CPU tensors too
        there = {name: torch.empty(v.shape, dtype=v.dtype, device="meta") for name, v in values}
        lr = torch.rand(upscaled(model)[1].shape, device="meta")
        assert torch.func.functional_call(net, there, lr).is_meta


@every_model
def test_a_constant_image_has_finite_gradients(model):
    net = copy.deepcopy(upscaled(model)[0]).train()
    lr = torch.full_like(upscaled(model)[1], 0.5).requires_grad_()
    net(lr).square().mean().backward()
    gradients = [lr.grad, *(parameter.grad for parameter in net.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_model
def test_weights_survive_a_round_trip_through_the_state_dict(model):
    net, lr, expected = upscaled(model)
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(lr), expected)


@every_model
def test_a_model_with_weights_has_a_head_a_body_and_a_tail(model):
    net = upscaled(model)[0]
    if any(True for _ in net.parameters()):
        assert isinstance(net.head, nn.Module)
        assert isinstance(net.body, nn.ModuleList)
        assert isinstance(net.tail, nn.Module)


def test_a_network_without_attributes_counts_as_rgb_and_accepts_any_size():
    net = nn.Conv2d(3, 3, 1)
    assert (colour_of(net), num_image_ch(net), min_size_of(net)) == ("rgb", 3, 1)
    assert (multi_adds_rule_of(net), scale_of(net)) == ("all", None)


def test_a_network_can_declare_its_attributes_without_a_base_class():
    net = nn.Conv2d(1, 1, 1)
    net.colour, net.min_size, net.multi_adds_rule, net.scale = "y", 5, "conv", 4
    assert (colour_of(net), num_image_ch(net), min_size_of(net)) == ("y", 1, 5)
    assert (multi_adds_rule_of(net), scale_of(net)) == ("conv", 4)
