"""GGAS and CWSS (Du et al.): the sizes of IMDN in Table 2, and Eqs. 5 and 6 on every host."""

import pytest
import torch

from sr_lab.layers.folding import fold
from sr_lab.models.efrdn import EFRDN
from sr_lab.models.imdn import IMDN
from sr_lab.models.imdn_osff import IMDNWithOSFF
from sr_lab.models.imfm import IMFM
from sr_lab.models.mren import MREN
from sr_lab.models.osffnet import OSFFNet
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.strategies import cwss, ggas, ggas_cwss
from sr_lab.strategies.ggas import GAB
from tests.conftest import compose

# Class, channels of F_0, residual units: three in a block of OSFFNet; EFRDN's two blocks run twice each.
HOSTS = pytest.mark.parametrize(
    ("host", "num_feat", "units"),
    [(IMDN, 64, 6), (IMDNWithOSFF, 64, 6), (OSFFNet, 64, 24), (EFRDN, 32, 2), (MREN, 60, 6), (IMFM, 40, 7)],
    ids=["imdn", "imdn_osff", "osffnet", "efrdn", "mren", "imfm"],
)


@pytest.mark.parametrize(
    ("build", "printed"),
    [
        (lambda net: net, 715),
        (lambda net: fold(ggas.apply(net)), 722),
        (cwss.apply, 715),
        (lambda net: fold(ggas_cwss.apply(net)), 722),
    ],
    ids=["IMDN", "+ GGAS", "+ CWSS", "+ both"],
)
def test_table_2_prints_whole_thousands_of_the_folded_network(build, printed):
    assert num_params(build(IMDN(scale=4))) // 1000 == printed


def test_ggas_costs_imdn_a_hundredth_of_its_multiply_adds_and_cwss_nothing():
    plain, gated, scaled = IMDN(scale=4), ggas.apply(IMDN(scale=4)), cwss.apply(IMDN(scale=4))
    counts = [multi_adds(net, scale=4, rule="all") for net in (plain, gated, scaled)]
    assert counts[0] == counts[2]
    assert counts[1] - counts[0] == (64**2 + 7**2 * 64) * 320 * 180


def test_an_attention_block_of_64_channels_has_roughly_7_3_thousand_parameters():
    block = GAB(64, kernel_size=7)
    block.fold()
    assert num_params(block) == 7_360


@HOSTS
@pytest.mark.parametrize("kernel_size", [3, 7])
def test_equations_5_and_6_on_every_host(host, num_feat, units, kernel_size):
    plain = num_params(host(scale=4))
    net = ggas.apply(host(scale=4), kernel_size=kernel_size)
    assert num_params(net) - plain == num_feat**2 + (kernel_size**2 + 4) * num_feat
    assert num_params(fold(net)) - plain == num_feat**2 + (kernel_size**2 + 2) * num_feat


@HOSTS
def test_cwss_adds_one_factor_for_each_channel_of_each_residual_unit(host, num_feat, units):
    assert num_params(cwss.apply(host(scale=4))) - num_params(host(scale=4)) == units * num_feat


@HOSTS
def test_both_together_add_the_sum(host, num_feat, units):
    net = fold(ggas_cwss.apply(host(scale=4)))
    assert num_params(net) - num_params(host(scale=4)) == num_feat**2 + 51 * num_feat + units * num_feat


@HOSTS
def test_every_host_runs_with_both_and_every_factor_learns(host, num_feat, units):
    torch.manual_seed(0)
    net = ggas_cwss.apply(host(scale=2, num_block=2))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-12  # else a factor that a batch norm undoes has a small gradient, not none
    net(torch.rand(2, 3, 15, 17)).square().mean().backward()
    reference = next(net.head.parameters()).grad.abs().mean()
    assert all(scale.alpha.grad.abs().mean() > 1e-4 * reference for scale in net.strategy["cwss"].scales)
    assert net.strategy["ggas"].gab.pointwise.weight.grad.abs().sum() > 0


def test_recipe():
    config = compose("experiment=two_strategies/train", "trainer=cpu", "budget=paper")
    assert (config.model["_target_"], config.strategy.name) == ("sr_lab.models.imdn.IMDN", "ggas_cwss")
    assert (config.scale, config.dataset["lr_patch_size"], config.batch_size) == (4, 48, 16)
    assert (config.steps, config.steps_per_epoch, config.schedule.interval) == (1_000_000, 1000, "epoch")
    assert (config.schedule.scheduler["step_size"], config.schedule.scheduler["gamma"]) == (200, 0.5)
    assert config.optimizer["lr"] == 2 * 2e-4  # Sec. 3.2: two times larger
