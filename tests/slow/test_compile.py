"""Whole networks through inductor: minutes each, so not in the default suite."""

import pytest
import torch

from sr_lab.models.imdn import IMDN
from sr_lab.models.osffnet import OSFFNet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("network", [OSFFNet, IMDN])
def test_inductor_gives_the_same_image(network: type[OSFFNet] | type[IMDN]) -> None:
    torch.manual_seed(0)
    model = network(scale=2).eval()
    lr = torch.rand(1, 3, 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(model)(lr), model(lr), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [OSFFNet, IMDN])
def test_inductor_gives_the_same_gradients(network: type[OSFFNet] | type[IMDN]) -> None:
    torch.manual_seed(0)
    model = network(scale=2)
    lr = torch.rand(2, 3, 24, 24)

    def gradients(forward: torch.nn.Module) -> list[torch.Tensor]:
        model.zero_grad()
        forward(lr).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    eager = gradients(model)
    for ours, theirs in zip(gradients(torch.compile(model)), eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)
