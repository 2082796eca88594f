"""Compile every network in conf/model with inductor, which takes too long for the default suite."""

import inspect
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from sr_lab.layers.network import num_image_ch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
# Widths stay as published. Compilation takes time for each layer, and one layer of each kind is enough.
SHALLOW = {"num_block": 2, "num_transformer": 1, "num_path": 3}


def build(model: str, **settings: int) -> nn.Module:
    config = OmegaConf.load(CONF / "model" / f"{model}.yaml")
    accepted = inspect.signature(hydra.utils.get_class(config._target_)).parameters
    shallow = {name: value for name, value in (SHALLOW | settings).items() if name in accepted}
    torch.manual_seed(0)
    net: nn.Module = hydra.utils.instantiate(config, scale=2, upsampler=None, **shallow)
    return net


def gradients(net: nn.Module, forward: nn.Module, lr: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    forward(lr).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("model", MODELS)
def test_inductor_gives_the_same_image(model: str) -> None:
    net = build(model).eval()
    lr = torch.rand(1, num_image_ch(net), 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(net)(lr), net(lr), rtol=1e-4, atol=1e-5)


# One network each with batch and layer norms, convolutions only, attention, and a tail at output size.
@pytest.mark.parametrize("model", ["osffnet", "imdn", "efrdn", "mren"])
def test_inductor_gives_the_same_gradients(model: str) -> None:
    net = build(model, num_block=1)
    lr = torch.rand(2, 3, 24, 24)
    eager = gradients(net, net, lr)
    for name, compiled in gradients(net, torch.compile(net), lr).items():
        # Relative to the largest entry, because the size of gradients differs between networks.
        atol = 1e-3 * eager[name].abs().max().item()
        torch.testing.assert_close(compiled, eager[name], rtol=1e-2, atol=max(atol, 1e-6), msg=name)
