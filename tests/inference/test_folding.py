import copy

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.layers.folding import for_inference
from sr_lab.layers.network import num_image_ch
from sr_lab.strategies import ggas


def built(name, **settings):
    torch.manual_seed(0)
    return Entry(name, 2).build(**settings).eval()


MERGED = ["a2f_sd", "ecbsr_m4c16", "efrdn", "fmen_ntire", "memnet", "reprfn", "span"]


def with_norms_in_use(network):
    """Randomise the batch norms, which are the identity in a fresh network."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
    return network


def test_a_folded_network_is_compared_on_the_cpu(monkeypatch):
    """TF32 convolutions of a GPU differ by more than the tolerance."""
    moved = []
    monkeypatch.setattr(nn.Module, "cpu", lambda own: moved.append(own) or own)
    network = with_norms_in_use(built("span"))
    assert len(list(for_inference(network).parameters())) < len(list(network.parameters()))
    assert len(moved) == 2
    assert network not in moved


@pytest.mark.parametrize(("name", "strategy"), [("imdn", ggas.apply), ("efrdn", lambda own: own)])
def test_a_network_trained_by_several_processes_folds_too(name, strategy):
    """Lightning replaces batch norms with synchronised ones, and later with a class of its own."""
    networks = [strategy(built(name, num_feat=16)) for _ in range(2)]
    sync = TorchSyncBatchNorm()
    networks[1] = sync.revert(sync.apply(networks[1]))
    one, other = (len(for_inference(own.eval()).state_dict()) for own in networks)
    assert one == other < len(networks[0].state_dict())


@pytest.mark.parametrize("name", MERGED)
@torch.no_grad()
def test_the_folded_network_gives_the_output_of_the_trained_network(name):
    network = with_norms_in_use(built(name))
    before = copy.deepcopy(network.state_dict())
    runs = for_inference(network)
    lr = torch.rand(1, num_image_ch(network), 30, 37)
    sr = network(lr)  # untrained, so not in [0, 1]
    assert (sr - runs(lr)).abs().max() < 1e-5 * max(1, sr.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    if name != "memnet":  # its norms precede activations and cannot be folded
        assert runs is not network


def test_the_three_kernels_of_an_acrb_become_one():
    runs = for_inference(with_norms_in_use(built("efrdn")))
    shapes = [tuple(module.kernel_size) for module in runs.modules() if isinstance(module, nn.Conv2d)]
    assert (1, 3) not in shapes
    assert (3, 1) not in shapes


def test_strategies_are_folded_too():
    from sr_lab.strategies import ggas

    network = with_norms_in_use(ggas.apply(built("imdn", num_feat=16, num_block=2))).eval()
    runs = for_inference(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in runs.modules())
    lr = torch.rand(1, 3, 20, 21)
    with torch.no_grad():
        assert (network(lr) - runs(lr)).abs().max() < 1e-5


def test_a_network_with_nothing_to_merge_stays_unchanged():
    network = built("imdn", num_feat=16, num_block=2)
    assert for_inference(network) is network


def test_a_merge_that_would_change_the_output_is_not_made():
    network = built("ecbsr_m4c16").bfloat16()  # bfloat16 rounding exceeds the tolerance
    assert for_inference(network) is network


def test_a_network_in_training_mode_stays_in_training_mode():
    network = built("ecbsr_m4c16").train()
    assert not for_inference(network).training
    assert network.training
