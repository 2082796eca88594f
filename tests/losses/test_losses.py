import cmath
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from sr_lab.config import targets
from sr_lab.errors import ConfigError
from sr_lab.losses.charbonnier import CharbonnierLoss
from sr_lab.losses.fft import FFTLoss

CONF = Path(__file__).parents[2] / "conf" / "loss"
LOSSES = sorted(CONF.glob("*.yaml"))


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_every_loss_in_conf_is_a_scalar_and_lowest_for_equal_images(path):
    loss = targets.build("loss", OmegaConf.to_container(OmegaConf.load(path)))
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


def transformed(image: torch.Tensor) -> dict[tuple[int, int], complex]:
    """The Fourier transform of one channel by its definition, for the half that is not a mirror image."""
    height, width = image.shape
    return {
        (k, m): sum(
            float(image[y, x]) * cmath.exp(-2j * math.pi * (k * y / height + m * x / width))
            for y in range(height)
            for x in range(width)
        )
        for k in range(height)
        for m in range(width // 2 + 1)
    }


def test_the_fft_loss_is_the_mean_difference_of_the_real_and_imaginary_parts():
    sr, hr = torch.rand(2, 2, 3, 4, 6, dtype=torch.float64)
    parts = []
    for number in range(2):
        for channel in range(3):
            ours, theirs = transformed(sr[number, channel]), transformed(hr[number, channel])
            parts += [abs((ours[place] - theirs[place]).real) for place in ours]
            parts += [abs((ours[place] - theirs[place]).imag) for place in ours]
    assert FFTLoss()(sr, hr).item() == pytest.approx(sum(parts) / len(parts), rel=1e-5)


def test_the_fft_loss_of_half_precision_images_is_computed_in_float32():
    sr, hr = torch.full((1, 1, 64, 64), 100.0).half(), torch.zeros(1, 1, 64, 64).half()
    assert FFTLoss()(sr, hr).item() == pytest.approx(100 * 64**2 / (2 * 64 * 33))  # a sum beyond fp16


def test_the_loss_of_safmn_is_l1_plus_a_twentieth_of_the_fft_loss():
    sr, hr = torch.rand(2, 1, 3, 8, 8)
    loss = targets.build("loss", OmegaConf.to_container(OmegaConf.load(CONF / "fft.yaml")))
    l1, fft = nn.L1Loss()(sr, hr).item(), FFTLoss()(sr, hr).item()
    assert loss(sr, hr).item() == pytest.approx(l1 + 0.05 * fft)
    assert loss.names == ("l1", "fft")
    assert loss.last.tolist() == pytest.approx([l1, 0.05 * fft])
    assert not loss.last.requires_grad


L1 = {"_target_": "torch.nn.L1Loss"}


@pytest.mark.parametrize(
    ("terms", "place"),
    [
        ({}, r"loss\.terms: has no term"),
        ({"a.b": {"weight": 1, "loss": L1}}, r"loss\.terms: a name must consist of letters.*'a\.b'"),
        ({"a": L1}, r"loss\.terms\.a: must have a weight and a loss"),
        ({"a": {"weight": 1}}, r"loss\.terms\.a: must have a weight and a loss"),
        ({"a": {"loss": L1}}, r"loss\.terms\.a: must have a weight and a loss"),
        ({"a": {"weight": -1, "loss": L1}}, r"loss\.terms\.a\.weight: must be a number above 0, got -1"),
        ({"a": {"weight": True, "loss": L1}}, r"loss\.terms\.a\.weight: must be a number above 0, got True"),
        ({"a": {"weight": 1, "loss": L1, "x": 1}}, r"loss\.terms\.a: must have a weight and a loss"),
    ],
)
def test_a_sum_that_is_not_one_is_refused(terms, place):
    with pytest.raises(ConfigError, match=place):
        targets.build("loss", {"_target_": "sr_lab.losses.weighted.WeightedLoss", "terms": terms})


def test_a_sum_may_contain_a_sum():
    inner = {"_target_": "sr_lab.losses.weighted.WeightedLoss", "terms": {"a": {"weight": 2, "loss": L1}}}
    outer = inner | {"terms": {"b": {"weight": 3.0, "loss": inner}}}
    assert targets.build("loss", outer)(torch.ones(1), torch.zeros(1)).item() == 6
