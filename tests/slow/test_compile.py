"""Every network of conf/model through inductor: minutes in all, so not in the default suite."""

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
# The published widths: compilation takes a time per layer, and one of each kind shows whether it is right.
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


# One of each kind: batch and layer norms with the DRFs, convolutions only, attention, a tail at output size.
@pytest.mark.parametrize("model", ["osffnet", "imdn", "efrdn", "mren"])
def test_inductor_gives_the_same_gradients(model: str) -> None:
    net = build(model, num_block=1)
    lr = torch.rand(2, 3, 24, 24)
    eager = gradients(net, net, lr)
    for name, compiled in gradients(net, torch.compile(net), lr).items():
        # In units of the largest entry: the size of a gradient differs from one network to the next.
        atol = 1e-3 * eager[name].abs().max().item()
        torch.testing.assert_close(compiled, eager[name], rtol=1e-2, atol=max(atol, 1e-6), msg=name)
