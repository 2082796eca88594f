import gzip
import io
import os
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import scipy.io
import torch
from torch import nn

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights, take_over
from sr_lab.config.untrusted import stored_network
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.layers.image import DIV2K_MEAN, without_mean_shift
from sr_lab.models.imdn import IMDN
from sr_lab.run_folder import checkpoint_file
from tests.tiny import TinyNet, sr_module, trainer

RECORD = {
    "model": {"_target_": "somewhere.Net"},
    "upsampler": {"name": "native", "factory": None},
    "strategy": {"name": "none", "apply": None},
    "scale": 2,
}


def equal(state: dict[str, torch.Tensor], network: nn.Module) -> bool:
    own = network.state_dict()
    return set(state) == set(own) and all(torch.equal(state[name], own[name]) for name in own)


def ours(path: Path, network: nn.Module) -> Path:
    """Write a Lightning checkpoint as sr_lab saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    module = sr_module(network=network, record=RECORD)
    light = trainer(path.parent)
    light.strategy.connect(module)
    light.save_checkpoint(path)
    return path


def test_the_best_checkpoint_of_a_run_folder_is_used(tmp_path):
    for name in ("best", "last"):
        ours(tmp_path / "checkpoints" / f"{name}.ckpt", TinyNet())
    assert checkpoint_file(str(tmp_path)) == tmp_path / "checkpoints" / "best.ckpt"


def test_the_last_checkpoint_of_an_unfinished_run_folder_is_used(tmp_path):
    ours(tmp_path / "checkpoints" / "last.ckpt", TinyNet())
    assert checkpoint_file(str(tmp_path)) == tmp_path / "checkpoints" / "last.ckpt"


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.pth").touch()
    assert checkpoint_file("~/a.pth") == tmp_path / "a.pth"


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"contains no checkpoints/best.ckpt or last.ckpt; give a run"):
        checkpoint_file(str(tmp_path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file '.*nowhere.pth'; give a checkpoint file"):
        open_checkpoint(str(tmp_path / "nowhere.pth"))


def test_a_lightning_checkpoint_gives_the_weights_and_the_record(tmp_path):
    network = TinyNet()
    opened = open_checkpoint(str(ours(tmp_path / "a.ckpt", network)))
    assert equal(opened.state, network)
    assert opened.record == RECORD


def test_safetensors_files_open(tmp_path):
    network = TinyNet()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
    opened = open_checkpoint(str(tmp_path / "a.safetensors"))
    assert equal(opened.state, network)
    assert opened.record is None


# Keys that chaiNNer-org/spandrel recognises (libs/spandrel/spandrel/__helpers/canonicalize.py), and others.
WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
MORE_WRAPPERS = ("net_g", "netG", "generator", "generator_ema", "network", "ema")


@pytest.mark.parametrize("wrapper", WRAPPERS + MORE_WRAPPERS)
def test_a_state_dict_is_found_inside_its_authors_wrapper(tmp_path, wrapper):
    network = TinyNet()
    torch.save({wrapper: network.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    assert equal(open_checkpoint(str(tmp_path / "a.pth")).state, network)


def test_averaged_weights_are_preferred_and_named(tmp_path):
    averaged, raw = TinyNet(), TinyNet()
    torch.save({"params": raw.state_dict(), "params_ema": averaged.state_dict()}, tmp_path / "a.pth")
    said: list[str] = []
    assert equal(open_checkpoint(str(tmp_path / "a.pth"), note=said.append).state, averaged)
    assert "params_ema is used, not params" in " ".join(said)


@pytest.mark.parametrize(
    "wrap", [lambda s: {"G": s}, lambda s: {"gen": {"ours": s}}, lambda s: {"model_g": s}]
)
def test_the_only_weights_in_a_file_are_found_under_any_name(tmp_path, wrap):
    network, said = TinyNet(), []
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    settings = {"model": {"name": "tiny", "width": 3}, "optimizer": optimizer, "epoch": 3}
    torch.save(settings | wrap(network.state_dict()), tmp_path / "a.pth")
    assert equal(open_checkpoint(str(tmp_path / "a.pth"), note=said.append).state, network)
    assert said == []


def test_two_sets_of_weights_under_unknown_names_are_named(tmp_path):
    content = {"first": TinyNet().state_dict(), "second": TinyNet().state_dict()}
    with pytest.raises(CheckpointError, match=r"several sets of weights \(first, second\); save one"):
        opened(tmp_path, content)


def test_the_prefix_of_data_parallel_training_is_dropped(tmp_path):
    network = TinyNet()
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "a.pth")
    assert equal(open_checkpoint(str(tmp_path / "a.pth")).state, network)


def official(network: IMDN) -> dict[str, torch.Tensor]:
    """The weights of an IMDN with one block under its authors' names; this mapping is written by hand."""
    names = {
        "head.": "fea_conv.",
        "body.0.conv1.": "IMDB1.c1.",
        "body.0.conv2.": "IMDB1.c2.",
        "body.0.conv3.": "IMDB1.c3.",
        "body.0.conv4.": "IMDB1.c4.",
        "body.0.cca.excite.": "IMDB1.cca.conv_du.",
        "body.0.fusion.": "IMDB1.c5.",
        "fusion.0.": "c.0.",
        "fusion.2.": "LR_conv.",
        "tail.": "upsampler.",
    }
    state = {}
    for name, value in network.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = value
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "params"])
def test_an_official_checkpoint_loads_into_our_network(tmp_path, wrapper, prefix):
    theirs, network = (IMDN(scale=2, num_feat=16, num_block=1) for _ in range(2))
    state = {f"{prefix}{name}": value for name, value in official(theirs).items()}
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "IMDN.pth")
    load_weights(network, open_checkpoint(str(tmp_path / "IMDN.pth")))
    assert equal(theirs.state_dict(), network)


def opened(tmp_path: Path, state: dict[str, torch.Tensor]):
    torch.save(state, tmp_path / "a.pth")
    return open_checkpoint(str(tmp_path / "a.pth"))


def test_a_missing_weight_is_named(tmp_path):
    checkpoint = opened(tmp_path, {"head.weight": TinyNet().head.weight.data})
    with pytest.raises(CheckpointError, match=r"does not fit TinyNet: 1 missing \(head\.bias\); set model"):
        load_weights(TinyNet(), checkpoint)


def test_an_extra_weight_is_named(tmp_path):
    checkpoint = opened(tmp_path, TinyNet().state_dict() | {"more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"does not fit TinyNet: 1 unexpected \(more\)"):
        load_weights(TinyNet(), checkpoint)


def test_a_weight_with_a_different_shape_is_named_with_both_shapes(tmp_path):
    checkpoint = opened(tmp_path, TinyNet(scale=3).state_dict())
    with pytest.raises(CheckpointError, match=r"of another shape \(head.weight \(27, 3, 3, 3\) for \(12"):
        load_weights(TinyNet(), checkpoint)


def test_the_first_three_of_many_problems_are_named(tmp_path):
    checkpoint = opened(tmp_path, TinyNet().state_dict() | {f"more{i}": torch.ones(1) for i in range(4)})
    with pytest.raises(CheckpointError, match=r"4 unexpected \(more0, more1, more2, \.\.\.\)"):
        load_weights(TinyNet(), checkpoint)


def test_a_network_is_untouched_when_its_checkpoint_does_not_fit(tmp_path):
    network = TinyNet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint = opened(tmp_path, {"head.weight": torch.zeros_like(network.head.weight)})
    with pytest.raises(CheckpointError):
        load_weights(network, checkpoint)
    assert equal(before, network)


class Attack:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("suffix", ["pth", "ckpt", "pt"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, suffix):
    torch.save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / f"a.{suffix}")
    with pytest.raises(CheckpointError, match=r"is refused, since opening it would run code"):
        open_checkpoint(str(tmp_path / f"a.{suffix}"))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(TinyNet(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="refused"):
        open_checkpoint(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(TinyNet().state_dict(), path)
    else:
        torch.save(TinyNet().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"a.{suffix}' is (damaged \(|cut off)") as caught:
        open_checkpoint(str(path))
    assert "\n" not in str(caught.value)


def archive(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr(name, b"x")
    return content.getvalue()


FOREIGN = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is a text file, not a checkpoint"),
    "image": (b"\x89PNG\r\n\x1a\n", "is an image"),
    "page": (b"\n<!DOCTYPE html><html>", "is a web page, .*download"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer, .*download"),
    "gzip": (gzip.compress(b"x"), "gzip; unpack"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "tar archive; unpack"),
    "npz": (archive("weight.npy"), "NumPy archive"),
    "zip": (archive("model.pth"), "zip archive without"),
    "npy": (b"\x93NUMPY\x01\x00", "NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "caffemodel with a name of ten letters": (b"\n\x0aSRCNN_9-5-\x12\x04data", "Caffe model"),
    "caffemodel": (b"\x0a\x06FSRCNN\x12\x04data\xa2\x06\x05", "Caffe model"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_each_kind_of_file_that_is_not_a_checkpoint_is_named(tmp_path, kind):
    content, says = FOREIGN[kind]
    for name in ("a.pth", "a.ckpt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=says) as caught:
            open_checkpoint(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def saved_as(folder: Path, form: str) -> Path:
    state, path = TinyNet().state_dict(), folder / f"a.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_trailing_bytes_are_detected(tmp_path, form):
    path = saved_as(tmp_path, form)
    path.write_bytes(path.read_bytes() + bytes(200))
    with pytest.raises(CheckpointError, match=r"bytes after its end|is damaged"):
        open_checkpoint(str(path))


def test_the_content_of_a_file_and_not_its_name_determines_its_format(tmp_path):
    safe = saved_as(tmp_path, "safetensors").rename(tmp_path / "b.pth")
    assert set(open_checkpoint(str(safe)).state) == set(TinyNet().state_dict())
    for form, says in (("zip", "is a PyTorch file, not safetensors"), ("legacy", "is a pickle, not")):
        named = saved_as(tmp_path, form).rename(tmp_path / f"{form}.safetensors")
        with pytest.raises(CheckpointError, match=says):
            open_checkpoint(str(named))


def test_safetensors_files_with_a_header_of_any_length_open(tmp_path):
    """The first byte is part of the header's length and may equal the first byte of another format."""
    path = tmp_path / "a.safetensors"
    for length in range(256):
        safetensors.torch.save_file({"w": torch.ones(3)}, path, metadata={"a": "b" * length})
        assert open_checkpoint(str(path)).state["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(1)])
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no state dict of weights"):
        open_checkpoint(str(tmp_path / "a.pth"))


def test_a_file_with_our_record_but_without_weights_is_refused(tmp_path):
    torch.save({"sr_lab": RECORD}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError):
        open_checkpoint(str(tmp_path / "a.ckpt"))


def test_weights_are_copied_where_name_and_shape_match(tmp_path):
    other, network = (IMDN(scale=scale, num_feat=16, num_block=1) for scale in (2, 3))
    left = take_over(network, opened(tmp_path, other.state_dict()))
    assert left == ["tail.0.weight", "tail.0.bias"]
    assert torch.equal(network.head.weight, other.head.weight)


def test_official_weights_are_copied_too(tmp_path):
    other, network = (IMDN(scale=scale, num_feat=16, num_block=1) for scale in (2, 3))
    assert len(take_over(network, opened(tmp_path, official(other)))) == 2
    assert torch.equal(network.head.weight, other.head.weight)


def test_weights_that_match_nothing_in_the_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"init_ckpt: no weight of '.*' fits TinyNet"):
        take_over(TinyNet(), opened(tmp_path, {"other": torch.ones(1)}))


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "netG.", *(f"{name}." for name in WRAPPERS))


@pytest.mark.parametrize(
    "prefix",
    [*PREFIXES, "netG.module.", "net_g.", "generator.", "params_ema.module.", "G.", "module.sr.net."],
)
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": {"state_dict": s}}, lambda s: {"params_ema": s}]
)
def test_nested_wrappers_and_prefixes_are_removed(tmp_path, prefix, wrap):
    net = IMDN(scale=2, num_feat=16, num_block=1)
    state = {prefix + name: value for name, value in official(net).items()}
    checkpoint = opened(tmp_path, wrap(state))
    load_weights(IMDN(scale=2, num_feat=16, num_block=1), checkpoint)


def test_safetensors_files_with_a_prefix_in_their_names_open_too(tmp_path):
    net = TinyNet()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    assert equal(open_checkpoint(str(tmp_path / "a.safetensors")).state, net)


def test_a_name_without_the_prefix_of_the_others_is_kept(tmp_path):
    """torch's AveragedModel stores such a name."""
    state = {f"module.{name}": value for name, value in TinyNet().state_dict().items()}
    assert set(opened(tmp_path, state | {"n_averaged": torch.ones(1)}).state) == {
        *TinyNet().state_dict(),
        "n_averaged",
    }


def test_a_prefix_is_kept_if_dropping_it_would_make_two_names_equal(tmp_path):
    names = {"module.a", "module.b", "module.c", "a"}
    assert set(opened(tmp_path, dict.fromkeys(names, torch.ones(1))).state) == names


def test_two_names_that_are_equal_as_text_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="two weights with the same name"):
        opened(tmp_path, {1: torch.ones(1), "1": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_reported_and_converted_to_float32(tmp_path, dtype):
    said = []
    torch.save({name: value.to(dtype) for name, value in TinyNet().state_dict().items()}, tmp_path / "a.pth")
    network = TinyNet()
    load_weights(network, open_checkpoint(str(tmp_path / "a.pth"), note=said.append))
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert len(said) == 1
    assert f"2 of its 2 weights in half precision ({str(dtype)[6:]})" in said[0]
    torch.save(TinyNet().state_dict(), tmp_path / "b.pth")
    open_checkpoint(str(tmp_path / "b.pth"), note=said.append)
    assert len(said) == 1


def test_the_message_about_a_matlab_file_with_another_layout_names_its_content(tmp_path):
    scipy.io.savemat(tmp_path / "srcnn.mat", {"weights_conv1": [[1.0]]})
    with pytest.raises(CheckpointError, match="no struct 'model' of cell arrays, got weights_conv1"):
        open_checkpoint(str(tmp_path / "srcnn.mat"))


def test_a_mean_shift_in_half_precision_is_recognised(tmp_path):
    """The frozen shift is recognised despite the rounding."""
    state = {"sub_mean.bias": (-255 * torch.tensor(DIV2K_MEAN)).half(), "head.weight": torch.ones(1).half()}
    assert set(without_mean_shift(state, gain=255)) == {"head.weight"}


def test_the_message_about_weights_that_fit_no_network_says_what_the_nearest_network_lacks(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "edsr", "imdn", "osffnet"])
    state = IMDN(scale=2).state_dict()
    del state["head.bias"]
    with pytest.raises(CheckpointError, match=r"IMDN: 1 missing \(head.bias\).*nearest is model=imdn"):
        catalogue.recognised(opened(tmp_path, state), None, key="ckpt", note=print)


def test_weights_with_unknown_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "model_options", lambda: ["bicubic", "imdn"])
    checkpoint = opened(tmp_path, {"unheard.of": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"fits no network .*\(unheard.of"):
        catalogue.recognised(checkpoint, None, key="ckpt", note=print)


@pytest.mark.parametrize("record", [{**RECORD, "strategy": "none"}, {"model": RECORD["model"], "scale": 2}])
def test_an_incomplete_record_is_refused(tmp_path, record):
    with pytest.raises(ConfigError, match="has no complete description of its network; give its state dict"):
        stored_network(record, "a.ckpt")
