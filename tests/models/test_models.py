"""What every model of conf/model keeps to. A new yaml is covered without a change here."""

import copy
import inspect
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import nn

from sr_lab.errors import ConfigError
from sr_lab.protocol import PROTOCOLS
from sr_lab.training.lit_module import SRModule

CONF = Path(__file__).parents[2] / "conf"
UPSAMPLERS = sorted(path.stem for path in (CONF / "upsampler").glob("*.yaml"))
SHRUNKEN = {"num_feat": 16, "num_block": 2, "num_group": 2}


def distinct_models():
    """Options that differ only in size are one network when shrunken."""
    found = {}
    for path in sorted((CONF / "model").glob("*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        found.setdefault(str({key: settings[key] for key in sorted(settings.keys() - SHRUNKEN)}), path.stem)
    return list(found.values())


MODELS = distinct_models()

every_model = pytest.mark.parametrize("model", MODELS)


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


def refuses_tails(model):
    """Whether the model says that it has no tail; any other failure is one."""
    try:
        build(model, upsampler="subpixel")
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError) and "allowed: upsampler=native" in str(error.__cause__):
            return True
        raise
    return False


def images(net, *, number=1):
    """An odd, non-square size that the network takes."""
    height = max(net.min_size, 7) | 1
    channels = 1 if net.colour == "y" else 3
    generator = torch.Generator().manual_seed(1)
    return torch.rand(number, channels, height, height + 4, generator=generator)


def assert_same(sr, expected, *, atol):
    """Equal up to ``atol``, in units of the output where random weights take that beyond an image's range."""
    torch.testing.assert_close(sr, expected, atol=atol * max(1, expected.abs().max().item()), rtol=0)


@every_model
def test_constructor_is_keyword_only_and_takes_no_others(model):
    kinds = {parameter.kind for parameter in inspect.signature(model_class(model)).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


# Every upsampler is tried at every scale in test_upsamplers.
@every_model
@pytest.mark.parametrize(
    ("upsampler", "scale"), [*((name, 2) for name in UPSAMPLERS), ("native", 3), ("native", 4)]
)
def test_output_is_scale_times_input(model, upsampler, scale):
    if upsampler != "native" and refuses_tails(model):
        pytest.skip("has no tail")
    net = build(model, scale=scale, upsampler=upsampler).eval()
    lr = images(net, number=2)
    with torch.no_grad():
        sr = net(lr)
    assert sr.shape == (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale)
    assert sr.isfinite().all()


@every_model
def test_smallest_image_passes_and_a_smaller_one_is_refused(model):
    net = build(model).eval()
    channels, size = images(net).shape[1], net.min_size
    with torch.no_grad():
        assert net(torch.rand(1, channels, size, size)).isfinite().all()
    if size > 1:
        with pytest.raises(ConfigError, match=f"at least {size}x{size} pixels, got {size}x{size - 1}"):
            net(torch.rand(1, channels, size, size - 1))


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_mixed_precision_stays_near_float32(model, dtype):
    net = build(model).eval()
    lr = images(net)
    with torch.no_grad():
        expected = net(lr)
        with torch.autocast("cpu", dtype=dtype):
            sr = net(lr)
    assert_same(sr.float(), expected, atol=0.02)


@every_model
def test_compiled_graph_gives_the_same(model):
    net = build(model, num_block=1).eval()  # tracing takes a time per layer
    lr = images(net)
    with torch.no_grad():
        assert_same(torch.compile(net, backend="aot_eager")(lr), net(lr), atol=1e-5)


@every_model
def test_channels_last_gives_the_same(model):
    net = build(model).eval()
    lr = images(net, number=2)
    with torch.no_grad():
        expected = net(lr)
        sr = net.to(memory_format=torch.channels_last)(lr.to(memory_format=torch.channels_last))
    assert_same(sr, expected, atol=1e-5)


@every_model
def test_eval_is_deterministic(model):
    net = build(model).eval()
    lr = images(net)
    with torch.no_grad():
        assert torch.equal(net(lr), net(lr))


@every_model
def test_an_image_does_not_see_its_batch(model):
    net = build(model).eval()
    lr = images(net, number=3)
    with torch.no_grad():
        assert_same(net(lr.flip(0)).flip(0), net(lr), atol=1e-6)


@every_model
def test_every_parameter_gets_a_gradient(model):
    net = build(model)
    lr = images(net, number=2).requires_grad_()
    net(lr).square().mean().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    assert lr.grad.isfinite().all()


@every_model
def test_a_training_step_takes_rgb_patches(model):
    net = build(model)
    size = max(net.min_size, 8)
    batch = {
        "lr": torch.randint(256, (2, 3, size, size), dtype=torch.uint8),
        "hr": torch.randint(256, (2, 3, 2 * size, 2 * size), dtype=torch.uint8),
        "dihedral": torch.tensor([0, 5]),
    }
    module = SRModule(net, scale=2, protocol=PROTOCOLS["rgb_uint8"], loss=nn.L1Loss())
    assert module.training_step(batch, 0).isfinite()


@every_model
def test_a_constant_image_has_finite_gradients(model):
    net = build(model)
    lr = torch.full_like(images(net, number=2), 0.5).requires_grad_()
    net(lr).square().mean().backward()
    gradients = [lr.grad, *(parameter.grad for parameter in net.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_model
def test_weights_survive_a_round_trip(model):
    net, other = build(model).eval(), build(model).eval()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(net.state_dict(), strict=True)
    lr = images(net)
    with torch.no_grad():
        assert torch.equal(other(lr), net(lr))


@every_model
def test_a_copy_after_a_training_step_is_equal(model):
    net = build(model)
    lr = images(net, number=2).requires_grad_()
    net(lr).mean().backward()
    net.eval()
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(net)(lr), net(lr))


@every_model
def test_a_model_with_weights_has_head_body_and_tail(model):
    net = build(model)
    if any(True for _ in net.parameters()):
        assert isinstance(net.head, nn.Module)
        assert isinstance(net.body, nn.ModuleList)
        assert isinstance(net.tail, nn.Module)
