from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from sr_lab.losses.charbonnier import CharbonnierLoss

LOSSES = sorted((Path(__file__).parents[1] / "conf" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_every_loss_in_conf_is_a_scalar_and_lowest_for_equal_images(path):
    loss = hydra.utils.instantiate(OmegaConf.load(path))
    hr = torch.rand(2, 3, 8, 8)
    sr = (hr + 0.1).requires_grad_()
    value = loss(sr, hr)
    value.backward()
    assert value.shape == ()
    assert value > loss(hr, hr)
    assert sr.grad.isfinite().all()


def test_charbonnier_loss_of_known_differences_is_exact():
    sr, hr = torch.tensor([[[[0.0, 0.3]]]]), torch.tensor([[[[0.4, 0.3]]]])
    assert CharbonnierLoss(eps=0.3)(sr, hr).item() == pytest.approx((0.5 + 0.3) / 2)


def test_charbonnier_loss_is_smooth_at_zero():
    sr = torch.zeros(1, 1, 2, 2, requires_grad=True)
    CharbonnierLoss()(sr, torch.zeros(1, 1, 2, 2)).backward()
    assert torch.equal(sr.grad, torch.zeros_like(sr))


def test_charbonnier_loss_keeps_its_eps_in_half_precision():
    sr = torch.zeros(1, 1, 2, 2, dtype=torch.float16)
    assert CharbonnierLoss(eps=1e-4)(sr, sr).item() == pytest.approx(1e-4)
