"""The renaming tables convert our parameter names to the authors' names and back, for every network."""

import copy
import functools

import pytest
import torch

from sr_lab.checkpoints.catalogue import SCALES, Entry
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config.networks import model_options
from sr_lab.layers.folding import fold
from sr_lab.models.a2n import A2N
from sr_lab.models.imdn import IMDN
from sr_lab.ops.renaming import OfficialNames, official_names, official_state
from sr_lab.strategies import ggas
from tests.models.test_models import build, one_of_each_class
from tests.models.test_official import OFFICIAL
from tests.papers.meta import unfilled

# No names were published for these networks, or only for other forms than the one implemented here.
WITHOUT = {
    *("bicubic", "edsr_shallow", "efrdn", "imdn_osff", "imfm", "memnet", "memnet_original", "mren", "mren_l"),
    *("osffnet", "idn", "rfdn"),
}


every_named = pytest.mark.parametrize("option", one_of_each_class(sorted(set(model_options()) - WITHOUT)))


@functools.cache
def unfolded(option, scale):
    """A network without weight values."""
    with unfilled():
        return Entry(option, scale).build().eval()


@functools.cache
def forms(option, scale):
    """A network without weight values, and its folded copy if the copy has different names."""
    net = unfolded(option, scale)
    folded = fold(copy.deepcopy(net))
    return [net] if folded.state_dict().keys() == net.state_dict().keys() else [net, folded]


# The names at x2 and x3 differ from those at x4 in the tail only.
@pytest.mark.parametrize("scales", [(4,), pytest.param((2, 3), marks=pytest.mark.slow)], ids=str)
@every_named
def test_our_names_convert_to_theirs_and_back(option, scales):
    for net in (form for scale in scales for form in forms(option, scale)):
        state = net.state_dict()
        assert official_state(net) is not None
        for table in official_names(net):
            try:
                theirs = table.to_theirs(state, net)
            except KeyError:  # the table is for another form
                continue
            assert len(theirs) == len(state)
            assert table.to_ours(theirs, net).keys() == state.keys()


@every_named
def test_no_weight_is_lost_when_a_checkpoint_of_another_scale_is_renamed(option):
    """A stepwise tail has more convolutions at x4 than at x2, and no two may get the same name."""
    with unfilled():
        nets = {scale: build(option, scale=scale) for scale in SCALES}
    for scale, other in ((4, 2), (2, 3), (3, 4)):
        for table in official_names(nets[scale]):
            try:
                theirs = table.to_theirs(nets[scale].state_dict(), nets[scale])
            except KeyError:
                continue
            ours = table.to_ours(theirs, nets[other])
            own = nets[other].state_dict().keys()
            assert len(ours) == len(theirs) or not ours.keys() >= own, (scale, other)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        # ofsoundof/NTIRE2022_ESR (044c930), models/team04_rlfn.py
        (
            "rlfn_ntire",
            "fea_conv B1.c1_r B1.c2_r B4.c3_r B4.c5 B2.esa.conv1 B2.esa.conv_f B2.esa.conv2 B2.esa.conv3 "
            "B2.esa.conv4 LR_conv upsampler.0",
        ),
        # The same, models/team03_fmen.py
        (
            "fmen_ntire",
            "head warmup.0 warmup.1.squeeze warmup.1.convs.1.conv2.rep_conv warmup.1.excitate "
            "basic_blocks.0.conv1.rep_conv basic_blocks.3.conv2.rep_conv hfabs.0.squeeze "
            "hfabs.3.convs.0.conv1.rep_conv hfabs.3.excitate lr_conv tail.0",
        ),
    ],
)
def test_a_file_with_the_names_of_ntires_challenge_opens_too(tmp_path, option, names):
    """All names in the challenge's file can be derived from those in the authors' own repository."""
    net, other = (Entry(option, 4).build().eval() for _ in range(2))
    words = {
        "block_": "B",
        "conv_1": "fea_conv",
        "conv_2": "LR_conv",
        "ERBs": "basic_blocks",
        "HFABs": "hfabs",
    }
    if option == "fmen_ntire":
        fold(net)
    theirs = official_state(net)
    for theirs_now, ntires in words.items():
        theirs = {
            ntires + name.removeprefix(theirs_now) if name.startswith(theirs_now) else name: value
            for name, value in theirs.items()
        }
    assert {f"{name}.weight" for name in names.split()} <= theirs.keys()
    load_weights(other, Checkpoint(tmp_path / "a.pth", theirs, None))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())


def test_names_that_would_become_equal_stay_unchanged():
    net = torch.nn.Module()
    table = OfficialNames({"a": "x", "b": "x", "c": "a"})
    assert renamed(table, "b.weight", "c.weight", net=net) == ["x.weight", "a.weight"]
    assert renamed(table, "a.weight", "b.weight", net=net) == ["a.weight", "b.weight"]
    assert renamed(table, "x.weight", "b.weight", net=net) == ["x.weight", "b.weight"]
    # ``a`` keeps its name, so ``c`` must keep its own too.
    assert renamed(table, "a.weight", "b.weight", "c.weight", net=net) == ["a.weight", "b.weight", "c.weight"]
    with pytest.raises(KeyError):
        OfficialNames({"a": "x", "b": "y"}).to_theirs(
            {"x.weight_g": torch.ones(1), "x.parametrizations.weight.original0": torch.ones(1)}, net
        )


@pytest.mark.parametrize("option", sorted(WITHOUT))
def test_a_form_without_published_names_has_no_official_names(option):
    assert all(official_state(net) is None for net in forms(option, 4))


@pytest.mark.parametrize("row", {row.file: row for row in OFFICIAL}.values(), ids=lambda row: row.file)
def test_the_names_in_an_official_file_survive_a_round_trip(weights_dir, row):
    state = open_checkpoint(str(weights_dir / row.file)).state
    with unfilled():
        net = Entry(row.option, row.scale).build()
    own = net.state_dict().keys()
    (table,) = [table for table in official_names(net) if table.to_ours(state, net).keys() == own]
    there_and_back = table.to_theirs(table.to_ours(state, net), net).keys()
    left_out = {name.split(".")[0] for name in state.keys() - there_and_back}
    # CARN-M's file also has the tails of the other scales and two frozen mean shifts.
    assert left_out == ({"upsample", "sub_mean", "add_mean"} if row.option == "carn_m" else set())
    assert there_and_back <= state.keys()


def test_a_network_with_added_parts_has_no_official_names():
    assert official_state(ggas.apply(IMDN(scale=2, num_feat=16, num_block=1))) is None


def test_a_checkpoint_from_before_the_renaming_to_adm_opens(tmp_path):
    net, other = (A2N(scale=2, num_feat=8, num_block=2) for _ in range(2))
    older = {name.replace(".adm.", ".dropout."): value for name, value in net.state_dict().items()}
    load_weights(other, Checkpoint(tmp_path / "old.ckpt", older, None))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())


def renamed(table, *names, net):
    return list(table.to_ours(dict.fromkeys(names, torch.zeros(1)), net))


def test_indices_in_names_are_shifted_multiplied_or_counted():
    net = torch.nn.Module()
    net.body = torch.nn.ModuleList(torch.nn.Conv2d(1, 1, 1) for _ in range(3))
    net.scale = 4
    table = OfficialNames(
        {"B{i+1}.c{2j+3}": "body.{i}.convs.{j}", "up{r}": "tail", "sub.{n}": "fusion", "sub.{i}": "body.{i}"},
        {"n": "body"},
    )
    names = ["B1.c3.weight", "B2.c7.weight", "up4.weight", "sub.3.weight", "sub.2.weight"]
    ours = ["body.0.convs.0.weight", "body.1.convs.2.weight", "tail.weight", "fusion.weight", "body.2.weight"]
    assert renamed(table, *names, net=net) == ours
    assert list(table.to_theirs(dict.fromkeys(ours, torch.zeros(1)), net)) == names
    unknown = ["B0.c3.weight", "B1.c4.weight", "up2.weight", "B1x.weight"]
    assert renamed(table, *unknown, net=net) == unknown


def test_a_nested_table_renames_its_entries_and_drops_those_without_a_counterpart():
    net = torch.nn.Module()
    table = OfficialNames({"a": ("b", {"c": "d", "mask": None}), "e": "e"})
    assert renamed(table, "a.c.weight", "a.mask", "e.weight", net=net) == ["b.d.weight", "e.weight"]
    with pytest.raises(KeyError, match="other"):
        table.to_theirs({"b.other": torch.zeros(1)}, net)


def test_only_prepare_changes_tensors():
    net, weight = torch.nn.Module(), torch.ones(1)
    assert OfficialNames({"a": "b"}).to_ours({"a": weight}, net)["b"] is weight
    twice = OfficialNames(
        {"a": "b"}, prepare=lambda state: {name: 2 * value for name, value in state.items()}
    )
    assert twice.to_ours({"a": weight}, net)["b"] == 2


def test_weight_normalised_convolutions_get_torchs_newer_names():
    net = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 1)))
    table, theirs = OfficialNames({"head": "0"}), ["head.bias", "head.weight_g", "head.weight_v"]
    assert renamed(table, *theirs, net=net) == list(net.state_dict())
    assert list(table.to_theirs(net.state_dict(), net)) == theirs
