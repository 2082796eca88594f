"""``task=export``: files that other programs open, a check of each, and a card."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.inference import exports
from sr_lab.inference.exports import Checked, Images, as_onnx, as_safetensors
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.runs import Run
from sr_lab.tasks import export
from sr_lab.tasks.common import cost
from tests.composing import compose
from tests.security import hostile

FORMATS = "format=[onnx,pt2,safetensors,official]"
SIZES = ((1, 20, 33), (3, 41, 24))


def run(folder, *overrides):
    words = ("task=export", f"output={folder}", f"paths.data_dir={folder}", *overrides)
    export.run(compose(*words), folder, words)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Entry("imdn_rtc", 2).build().eval()


@pytest.fixture(scope="module")
def ckpt(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "best_x2.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def exported(ckpt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    run(folder, f"ckpt={ckpt}", FORMATS)
    return folder


# Opens both graphs where this package cannot be imported.
OUTSIDE = """
import sys
sys.modules["sr_lab"] = None
import numpy, onnxruntime, torch
folder = sys.argv[1]
session = onnxruntime.InferenceSession(f"{folder}/imdn_rtc_x2.onnx")
network = torch.export.load(f"{folder}/imdn_rtc_x2.pt2").module()
for number in range(2):
    lr = numpy.load(f"{folder}/{number}.npy")
    (sr,) = session.run(None, {"lr": lr})
    numpy.savez(f"{folder}/{number}.npz", onnx=sr, pt2=network(torch.from_numpy(lr)).numpy())
"""


def test_the_graphs_run_at_any_size_without_this_package(exported, network):
    images = [torch.rand(batch, 3, height, width) for batch, height, width in SIZES]
    for number, lr in enumerate(images):
        np.save(exported / f"{number}.npy", lr.numpy())
    subprocess.run([sys.executable, "-c", OUTSIDE, str(exported)], check=True, cwd=exported)
    for number, lr in enumerate(images):
        sr = np.load(exported / f"{number}.npz")
        with torch.no_grad():
            expected = network(lr).numpy()
        assert np.abs(sr["pt2"] - expected).max() < 1e-6
        assert np.abs(sr["onnx"] - expected).max() < 1e-5


def test_an_onnx_file_says_what_it_takes_and_gives(exported):
    model = onnx.load(exported / "imdn_rtc_x2.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (
        said.items()
        >= {"model": "imdn_rtc_x2", "scale": "2", "input_range": "0..1", "dtype": "float32"}.items()
    )
    assert said["opset"] == str(model.opset_import[0].version)
    lengths = [
        [length.dim_param or length.dim_value for length in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert lengths == [["batch", 3, "height", "width"], ["batch", 3, "2*height", "2*width"]]


def test_a_safetensors_file_is_opened_without_guessing(exported, network, monkeypatch):
    monkeypatch.setattr("sr_lab.checkpoints.catalogue.recognised", None)  # compares with every network
    opened = sr_lab.load(exported / "imdn_rtc_x2.safetensors")
    lr = torch.rand(1, 3, 12, 15)
    with torch.no_grad():
        assert torch.equal(opened(lr), network(lr))


def test_the_same_network_gives_the_same_safetensors_file(network):
    """The library writes the metadata in a random order."""
    files = {as_safetensors(network, {"scale": 2}).content for _ in range(8)}
    assert len(files) == 1


def test_a_safetensors_file_keeps_the_settings_of_the_network(tmp_path):
    torch.manual_seed(0)
    settings = ("model=imdn_rtc", "scale=3", "model.num_block=1", "upsampler=deconv")
    config = compose("task=export", f"output={tmp_path}", *settings)
    network = sr_lab.checkpoints.opening.build_network(config).eval()
    ckpt = tmp_path / "own.ckpt"
    record = config.model_dump(include={"model", "upsampler", "strategy", "scale"})
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"sr_lab": record, "state_dict": state}, ckpt)
    run(tmp_path, f"ckpt={ckpt}", "format=safetensors")
    (file,) = tmp_path.glob("*.safetensors")
    assert file.name.endswith("_x3_deconv.safetensors")
    lr = torch.rand(1, 3, 12, 15)
    with torch.no_grad():
        assert torch.equal(sr_lab.load(file)(lr), network(lr))


@pytest.mark.parametrize(
    "record",
    [
        "[" * 10_000,
        "{",
        json.dumps({"model": {"_target_": "os.system"}, "scale": 2}),
        json.dumps({"scale": 2}),
    ],
    ids=["deep", "cut off", "foreign class", "incomplete"],
)
def test_a_bad_record_in_a_safetensors_file_is_refused(tmp_path, record):
    header = {
        "__metadata__": {"sr_lab": record},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    (tmp_path / "a.safetensors").write_bytes(hostile.safetensors(header, bytes(4)))
    with pytest.raises((CheckpointError, ConfigError), match=r"a\.safetensors|os\.system"):
        sr_lab.load(tmp_path / "a.safetensors")


def test_an_official_file_has_the_authors_names(exported, network):
    file = exported / "imdn_rtc_x2_official.pth"
    assert "model.0.weight" in torch.load(file, weights_only=True)
    other = Entry("imdn_rtc", 2).build()
    load_weights(other, open_checkpoint(str(file)))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())


def test_the_card_states_digests_checks_and_how_to_load_each_file(exported):
    card = (exported / "imdn_rtc_x2.md").read_text()
    for file in exported.glob("imdn_rtc_x2*"):
        if file.suffix != ".md":
            assert f"`{file.name}` | {file.stat().st_size} | " in card
            assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert re.search(r"onnxruntime: differs by at most \d\.\de-0\d on random images; \d+ ms", card)
    assert card.count("```python") == 4
    assert "Hui et al." in card
    assert "licence: unknown" in card


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_size_that_the_network_does_not_take_is_refused(weights_dir, tmp_path, kind):
    ckpt = weights_dir / "BSRN/net_g_BSRN_x2.pth"
    with pytest.raises(ConfigError, match=r"size: BSRN needs .* at least 15x15 pixels, got 9x20"):
        run(tmp_path, f"ckpt={ckpt}", f"format={kind}", "size=9x20")


def test_an_output_that_is_a_file_is_refused_before_the_export(ckpt):
    with pytest.raises(ConfigError, match=r"output: '.*' is a file; give a folder"):
        run(ckpt, f"ckpt={ckpt}")


def test_the_card_counts_parameters_as_tables_do(tmp_path):
    network = Entry("ecbsr_m4c16", 2).build()
    torch.save(network.state_dict(), tmp_path / "ecbsr_x2.pth")
    run(tmp_path, f"ckpt={tmp_path / 'ecbsr_x2.pth'}", "format=safetensors")
    counted = cost(network, 2)
    card = (tmp_path / "ecbsr_m4c16_x2.md").read_text()
    assert f"* parameters: {counted['num_params']}, and {counted['num_params_training']} in training" in card


def test_the_card_of_a_run_states_its_training_without_the_cache():
    dataset = {"_target_": "sr_lab.datasets.folder.FolderDataset", "hr_dir": "data/DIV2K", "cache_dir": "/me"}
    loss = {"_target_": "sr_lab.losses.l1.L1", "of": {"_target_": "torch.nn.L1Loss", "reduction": "mean"}}
    settings = {"steps": 9, "seed": 0, "ema_decay": None, "dataset": dataset, "loss": loss}
    run_of = Run(Path("run"), settings=settings)
    assert export._training(run_of) == [
        *("* steps: 9", "* seed: 0", "* loss: L1(of=L1Loss(reduction=mean))"),
        r"* dataset: FolderDataset(hr\_dir=data/DIV2K)",
    ]


def test_an_official_checkpoint_keeps_its_licence_and_figures(tmp_path, weights_dir):
    run(tmp_path, f"ckpt={weights_dir / 'IMDN/IMDN_RTC_x2.pth'}", "format=safetensors")
    card = (tmp_path / "imdn_rtc_x2.md").read_text()
    assert "github" in card
    assert "licence: none stated" in card
    assert "37.31 / 0.9583" in card


@pytest.fixture(scope="module")
def fixed(ckpt, tmp_path_factory):
    """A graph for one size, in half precision."""
    folder = tmp_path_factory.mktemp("fixed")
    run(folder, f"ckpt={ckpt}", "size=24x40", "dtype=float16")
    return folder


def test_a_graph_for_one_size_computes_no_shapes(fixed):
    model = onnx.load(fixed / "imdn_rtc_x2.onnx")
    lengths = [length.dim_value for length in model.graph.input[0].type.tensor_type.shape.dim]
    assert lengths == [1, 3, 24, 40]
    assert not {node.op_type for node in model.graph.node} & {"Shape", "If", "Loop", "NonZero"}
    assert "shapes are constant" in (fixed / "imdn_rtc_x2.md").read_text()


def test_a_half_precision_graph_is_measured(fixed):
    model = onnx.load(fixed / "imdn_rtc_x2.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    card = (fixed / "imdn_rtc_x2.md").read_text()
    (found,) = re.findall(r"onnxruntime: differs by at most (\S+) on", card)
    assert 1e-6 < float(found) < 2e-2


class Overflows(nn.Module):
    """Its intermediate values exceed the range of half precision, as PAN's do for noise."""

    scale = 2

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, lr):
        large = self.conv(lr) * self.factor / self.factor
        return F.interpolate(large, scale_factor=2, mode="nearest")


def test_a_half_precision_graph_that_overflows_says_so(tmp_path, capsys):
    images = Images(None, PROTOCOLS["rgb_uint8"])
    network = Overflows(1e6).eval()
    facts = as_onnx(network, images, {}, size=(24, 24), dtype="float16").facts
    assert facts[1].startswith("onnxruntime: differs by any amount (it overflows) on random images; ")
    assert "it overflows" not in as_onnx(network, images, {}, size=(24, 24), dtype="float32").facts[1]


@pytest.mark.parametrize("values", [[math.nan, 1.0], [1.0, math.nan]])
def test_a_value_that_is_not_a_number_is_never_ignored(values):
    checked = Checked({"Set5": values[0], "random images": values[1]}, False, None, (24, 24), 1.0, 1.0)
    with pytest.raises(ConfigError, match="it overflows"):
        exports._refuse_other_images("onnx", nn.Identity(), checked, None)


def test_no_file_is_overwritten_unless_asked(ckpt, tmp_path):
    words = (f"ckpt={ckpt}", "format=safetensors")
    for name in ("imdn_rtc_x2.safetensors", "imdn_rtc_x2.md"):
        (tmp_path / name).write_text("another's")
        with pytest.raises(ConfigError, match=rf"{name}' exists; add overwrite=true"):
            run(tmp_path, *words)
        assert (tmp_path / name).read_text() == "another's"
        (tmp_path / name).unlink()
    run(tmp_path, *words)
    run(tmp_path, *words, "overwrite=true")


def test_a_format_that_fails_does_not_stop_the_others(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "model=bicubic", "scale=2", "format=[official,safetensors]")
    assert "failed: format: official: Bicubic" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bicubic_x2.md", "bicubic_x2.safetensors"]
    with pytest.raises(ConfigError, match="Bicubic in this form has no published names"):
        run(tmp_path / "none", "model=bicubic", "scale=2", "format=official")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dtype=float16", "format=pt2"), "dtype: is only for an ONNX graph, got format=pt2"),
        (
            ("size=40x24", "format=[safetensors,official]"),
            "size: is only for a graph, got format=safetensors,official",
        ),
        (("size=24",), "size: must be height x width in LR pixels, got 24; write size=180x320"),
        (("size=0x24",), "size: must be height x width"),
        (("format=caffe",), "format"),
    ],
)
def test_a_wrong_setting_is_refused(ckpt, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, f"ckpt={ckpt}", *words)
    assert not list(tmp_path.iterdir())
