"""Weights under the authors' names: our loader and their programs open them."""

import pytest
import torch

from sr_lab.checkpoints.authors_names import official_weights
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.reading import Checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config.networks import model_options
from tests.models.test_models import one_of_each_class
from tests.ops.test_renaming import WITHOUT

LARGE = {"edsr_full", "rcan", "rdn"}


@pytest.mark.parametrize(
    "option",
    [
        *one_of_each_class(sorted(set(model_options()) - WITHOUT - LARGE)),
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(LARGE)),
    ],
)
def test_our_loader_opens_what_was_exported_bit_for_bit(tmp_path, option):
    network, other = (Entry(option, 4).build() for _ in range(2))
    load_weights(other, Checkpoint(tmp_path / "a.pth", official_weights(network), None))
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_an_exported_file_has_every_name_of_the_authors_file(weights_dir):
    published = torch.load(weights_dir / "CARN-M/carn_m.pth", map_location="cpu", weights_only=True)
    exported = official_weights(Entry("carn_m", 2).build())
    tails = ("upsample.up3", "upsample.up4")  # one file for three scales
    expected = {name for name in published if not name.startswith(tails)}
    assert {name.replace("upsample.up.", "upsample.up2.") for name in exported} == expected
    for name in ("sub_mean.shifter.weight", "add_mean.shifter.bias"):
        assert torch.allclose(exported[name], published[name].view_as(exported[name]), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of spandrel
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    "option", ["safmn", "safmn_l", "span", "swinir_light", pytest.param("rcan", marks=pytest.mark.slow)]
)
def test_spandrel_opens_what_was_exported(option, scale):
    spandrel = pytest.importorskip("spandrel", exc_type=ImportError)
    network = Entry(option, scale).build().eval()
    found = spandrel.ModelLoader("cpu").load_from_state_dict(official_weights(network))
    assert found.scale == scale
    lr = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(found.model.eval()(lr), network(lr), atol=1e-4, rtol=0)
