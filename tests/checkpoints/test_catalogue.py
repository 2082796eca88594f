import functools
import shutil

import pytest
import safetensors.torch
import torch

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.opening import open_configured, open_network
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.checkpoints.weights import Likeness, forms_of, likeness, load_weights
from sr_lab.config import networks
from sr_lab.config.networks import model_node, model_options
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.files import conf_dir
from sr_lab.ops.renaming import official_state
from tests.composing import compose as composed
from tests.papers.meta import unfilled


@pytest.fixture
def only_a_few(monkeypatch):
    """A search builds every network in the catalogue; four networks are enough for these tests."""
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "imdn", "mren", "osffnet"])


def stored(folder, network):
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    return open_checkpoint(str(folder / "weights.safetensors"))


def test_the_options_include_networks_from_conf_model():
    assert {"imdn", "osffnet", "bicubic"} <= set(model_options())


# Networks that differ at one scale differ at the others.
@pytest.mark.parametrize("scale", [4, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (2, 3))])
def test_no_two_networks_have_equal_weight_names_and_shapes(scale):
    """Otherwise a checkpoint would fit both networks and be refused unless ``model=`` is given."""
    options = {}
    for option in model_options():
        shapes = tuple(catalogue._on_meta(Entry(option, scale))[1][0].items())
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
    with unfilled():
        net = Entry("imdn", 3).build()
    like = likeness(net, forms_of(net), stored(tmp_path, Entry("imdn", 3).build()))
    assert like == Likeness(True, 1, 1, len(net.state_dict()))
    assert all(parameter.is_meta for parameter in net.parameters())


def test_the_message_about_weights_of_another_scale_names_the_shapes_that_differ(tmp_path):
    checkpoint = stored(tmp_path, Entry("imdn", 2).build())
    with pytest.raises(CheckpointError, match=r"2 of another shape \(tail.0.weight \(12, 64, 3, 3\) for"):
        load_weights(Entry("imdn", 4).build(), checkpoint)


def official(folder, option, scale, name="weights.pth"):
    """Save fresh weights of a network under the names in its authors' code."""
    network = Entry(option, scale).build()
    own = network.state_dict()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    # VDSR's official names imply MATLAB's axis order.
    torch.save(own if option == "vdsr" else official_state(network) or own, folder / name)
    return folder / name


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        catalogue.recognised(open_checkpoint(str(path)), None, key="ckpt", note=print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("option", "scale"), [("imdn", 4), ("edsr", 4), ("pan", 4), ("fmen_ntire", 3)])
def test_the_nearest_network_has_the_scale_of_the_weights(tmp_path, monkeypatch, option, scale):
    """The names alone do not determine the scale, as they are the same at every scale."""
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "edsr", "fmen_ntire", "imdn", "pan"])
    state = torch.load(official(tmp_path, option, scale))
    torch.save(dict(list(state.items())[2:]), tmp_path / "a.pth")
    assert f"the nearest is model={option} scale={scale}; no network fits" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_extra_weight_is_named_without_advice_on_model_and_scale(tmp_path, monkeypatch, prefix):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "imdn"])
    state = {prefix + name: value for name, value in torch.load(official(tmp_path, "imdn", 4)).items()}
    torch.save(state | {"step_counter": torch.ones(1)}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert "does not fit IMDN: 1 unexpected (step_counter); remove the unexpected" in said
    assert "set model and scale" not in said


def test_an_unknown_network_resembles_no_network_in_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "fsrcnn", "imdn"])
    state = {f"layers.{i}.weight": torch.ones(1) for i in range(778)}
    torch.save(state | {"tail.0.weight": torch.ones(1), "tail.0.bias": torch.ones(1)}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert "resembles none of ours: no network has more than 2 of its 780 names (layers.0.weight" in said
    assert "nearest" not in said


@pytest.mark.parametrize("option", ["pan", "vdsr", "fsrcnn_original"])
@pytest.mark.parametrize("name", ["net_x2.pth", "X2/model/best.pth"])
def test_the_name_gives_the_scale_if_the_weights_fit_several_scales(tmp_path, monkeypatch, option, name):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", option])
    said = []
    network = open_network(str(official(tmp_path, option, 2, name)), None, said.append)
    assert network.scale == 2
    assert len(said) == 1
    assert said[0].startswith(
        f"scale=2 is from the name '{'net_x2' if name[0] == 'n' else 'X2'}'; the weights fit x3"
    )


def test_a_scale_that_contradicts_the_name_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "pan"])
    said = []
    assert open_network(str(official(tmp_path, "pan", 2, "pan_x3.pth")), 2, said.append).scale == 2
    assert said == ["scale=2 is from the command line; the name 'pan_x3' says x3"]


def test_the_scale_of_the_weights_overrides_the_scale_in_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "imdn_rtc"])
    said = []
    assert open_network(str(official(tmp_path, "imdn_rtc", 4, "net_x2.pth")), None, said.append).scale == 4
    assert said == ["scale=4 is from the weights; the name 'net_x2' says x2"]
    assert open_network(str(official(tmp_path, "imdn_rtc", 4, "net_x4.pth")), None, said.append).scale == 4
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "given", "scale", "says"),
    [
        ("net_x3.pth", [], 3, "scale=3 is from the name 'net_x3'; the weights fit x2 and x4 as well"),
        ("net.pth", [], 4, "scale=4 is the default, since the name gives no scale; the weights fit x2"),
        ("net_x2_x3.pth", [], 4, "scale=4 is the default, since the name 'net_x2_x3' says x2 and x3; the"),
        ("net_x3_from_x2.pth", [], 3, "scale=3 is from the name 'net_x3_from_x2'; the weights fit x2 and x4"),
        ("net_x3.pth", ["scale=2"], 2, "scale=2 is from the command line; the name 'net_x3' says x3"),
        ("net.pth", ["scale=2"], 2, ""),
    ],
)
def test_the_name_of_the_file_also_gives_the_scale_of_a_named_network(tmp_path, name, given, scale, says):
    overrides = [
        "task=evaluate",
        "model=fsrcnn_original",
        f"ckpt={official(tmp_path, 'fsrcnn_original', 2, name)}",
    ]
    said = []
    config, network = open_configured(composed(*overrides, *given), overrides + given, said.append)
    assert config.scale == network.scale == scale
    assert said[0].startswith(says) if says else not said


def test_a_named_network_gets_the_scale_of_its_weights(tmp_path):
    overrides = ["task=evaluate", "model=imdn_rtc", f"ckpt={official(tmp_path, 'imdn_rtc', 3, 'net.pth')}"]
    assert open_configured(composed(*overrides), overrides, print)[1].scale == 3


BROKEN = {
    "package": "_target_: not_installed.Net\nscale: ${scale}\n",
    "foreign class": "_target_: torch.nn.Linear\nin_features: 3\nout_features: 3\n",
    "resolver": "_target_: sr_lab.models.imdn.IMDN\nscale: ${oc.env:HOME}\n",
    "key": "_target_: sr_lab.models.imdn.IMDN\nscale: ${nowhere}\n",
    "yaml": "_target_: [sr_lab\n",
    "empty": "",
    "other scales": "_target_: sr_lab.models.pan.PAN\nscale: 7\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_option_that_cannot_be_built_is_skipped(tmp_path, monkeypatch, kind):
    (tmp_path / "model").mkdir()
    shutil.copy(conf_dir() / "model" / "imdn_rtc.yaml", tmp_path / "model")
    (tmp_path / "model" / "a_mine.yaml").write_text(BROKEN[kind])
    monkeypatch.setattr(networks, "conf_dir", lambda: tmp_path)
    monkeypatch.setattr(catalogue, "_on_meta", functools.cache(catalogue._on_meta.__wrapped__))
    assert catalogue.fitting(open_checkpoint(str(official(tmp_path, "imdn_rtc", 3)))) == [
        Entry("imdn_rtc", 3)
    ]
    torch.save({"unheard.of": torch.ones(1)}, tmp_path / "a.pth")
    assert "model=a_mine was skipped: " in refusal(tmp_path / "a.pth")


def test_an_option_with_a_resolver_that_hydra_would_refuse_is_not_resolved(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(BROKEN["resolver"])
    monkeypatch.setattr(networks, "conf_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match="is not allowed in a file"):
        model_node("mine", 2)


@pytest.mark.parametrize("option", ["edsr", "carn", "rdn", "shufflemixer_tiny"])
def test_an_x4_file_with_a_stepwise_tail_does_not_fit_x2(tmp_path, option):
    """Two of its convolutions correspond to a single one in the x2 tail."""
    state = torch.load(official(tmp_path, option, 4))
    for scale, fits in ((2, False), (4, True)):
        with unfilled():
            network = Entry(option, scale).build()
        assert likeness(network, forms_of(network), Checkpoint(tmp_path / "a", state, None)).fits == fits
    with pytest.raises(CheckpointError, match=r"2 missing .* unexpected"):
        load_weights(Entry(option, 2).build(), open_checkpoint(str(tmp_path / "weights.pth")))
