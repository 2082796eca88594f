import pytest
import safetensors.torch
import torch

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import fit, forms_of, load_weights
from sr_lab.config.compose import model_options
from sr_lab.errors import CheckpointError, ConfigError


@pytest.fixture
def only_a_few(monkeypatch):
    """A search builds every network in the catalogue; four are enough to test it."""
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "imdn", "mren", "osffnet"])


def stored(folder, network):
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    return open_checkpoint(str(folder / "weights.safetensors"))


def test_the_options_include_networks_from_conf_model():
    assert {"imdn", "osffnet", "bicubic"} <= set(model_options())


def shapes_of_all():
    """The names and shapes of the weights for every network and scale."""
    found = {}
    for option in model_options():
        for scale in catalogue.SCALES:
            with torch.device("meta"):
                state = Entry(option, scale).build().state_dict()
            found[option, scale] = tuple((name, tuple(value.shape)) for name, value in state.items())
    return found


def test_no_two_networks_have_equal_weight_names_and_shapes():
    """Otherwise a checkpoint would fit both networks and be refused unless ``model=`` is given."""
    options = {}
    for (option, _), shapes in shapes_of_all().items():
        options.setdefault(shapes, set()).add(option)
    assert [names for shapes, names in options.items() if shapes and len(names) > 1] == []


@pytest.mark.usefixtures("only_a_few")
def test_weights_identify_their_network(tmp_path):
    assert catalogue.fitting(stored(tmp_path, Entry("mren", 2).build())) == [Entry("mren", 2)]


@pytest.mark.usefixtures("only_a_few")
def test_weights_of_an_unknown_network_match_no_option(tmp_path):
    assert catalogue.fitting(stored(tmp_path, torch.nn.Conv2d(3, 3, 3))) == []


def test_an_unknown_option_is_refused_and_the_nearest_option_is_named():
    with pytest.raises(
        ConfigError, match=r"there is no option 'osfnet'; allowed: .*; did you mean 'osffnet'\?"
    ):
        Entry("osfnet", 4).build()


def test_a_search_for_a_network_allocates_no_weights(tmp_path):
    with torch.device("meta"):
        net = Entry("imdn", 3).build()
    assert fit(net, forms_of(net), stored(tmp_path, Entry("imdn", 3).build())) == (True, 1)
    assert all(parameter.is_meta for parameter in net.parameters())


def test_the_message_on_weights_of_another_scale_names_the_shapes_that_differ(tmp_path):
    checkpoint = stored(tmp_path, Entry("imdn", 2).build())
    with pytest.raises(CheckpointError, match=r"2 of another shape \(tail.0.weight \(12, 64, 3, 3\) for"):
        load_weights(Entry("imdn", 4).build(), checkpoint)
