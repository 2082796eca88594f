"""onnxruntime and OpenVINO give the same images as torch, or a one-sentence error."""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import sr_lab
from sr_lab import files
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.identity import identity
from sr_lab.errors import ConfigError
from sr_lab.inference import backends
from sr_lab.inference.backends import run_by
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.network import min_size_of, num_image_ch
from sr_lab.layers.transformer import EMHA
from sr_lab.tasks import evaluate, upscale
from tests.composing import compose

BACKENDS = ("onnxruntime", "openvino")
SIZES = ((24, 24), (17, 60), (64, 33))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """A cache folder for the graphs of networks that several tests run."""
    return tmp_path_factory.mktemp("cache")


pytestmark = pytest.mark.usefixtures("exports")

TAKES_LONG = {"fdiwn"}  # torch's exporter needs more than ten minutes for its dynamic sizes


class PlusMean(nn.Module):
    """Pads the image to multiples of four, convolves it and adds the mean of the image."""

    colour = "rgb"
    scale = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, lr):
        height, width = lr.shape[-2:]
        padded = F.pad(lr, (0, -width % 4, 0, -height % 4), mode="replicate")
        sr = F.pixel_shuffle(self.conv(padded), 2)[..., : 2 * height, : 2 * width]
        return sr + lr.mean((2, 3), keepdim=True)


class Attends(PlusMean):
    """Attends within four segments of the image's pixels; remaining pixels form a fifth, shorter segment."""

    def __init__(self):
        super().__init__()
        self.attention = EMHA(12, num_head=2, num_segment=4, reduction=2)

    def forward(self, lr):
        feat = self.conv(lr)
        tokens = self.attention(feat.flatten(2).transpose(1, 2))
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, feat.shape[2:]), 2)


class OddOnly(PlusMean):
    """Flips the output if the width is a multiple of eight, which a graph cannot express."""

    def forward(self, lr):
        sr = super().forward(lr)
        return sr.flip(1) if lr.shape[-1] % 8 == 0 else sr


class Unexportable(PlusMean):
    """Branches on the pixel values, so it cannot be exported."""

    def forward(self, lr):
        return super().forward(lr if lr.mean() > 0.1 else 1 - lr)


@torch.no_grad()
def difference(network, backend, size, batch=1):
    lr = torch.rand(batch, num_image_ch(network), *(max(side, min_size_of(network)) for side in size))
    sr = network(lr)
    return ((sr - backend(lr)).abs().max() / max(1, sr.abs().max())).item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_gives_the_same_images_as_torch(backend, cache_dir):
    network = PlusMean().eval()
    runs = run_by(network, backend, cache_dir=cache_dir)
    assert str(runs).startswith(backend)
    assert all(difference(network, runs, size) < 1e-5 for size in SIZES)
    assert difference(network, runs, (9, 7), batch=3) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_stays_unchanged_after_the_next_call(backend, cache_dir):
    runs = run_by(PlusMean().eval(), backend, cache_dir=cache_dir)
    first = runs(torch.zeros(1, 3, 8, 8))
    before = first.clone()
    runs(torch.ones(1, 3, 8, 8))
    assert torch.equal(first, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_repeated_size_gives_the_same_image_as_torch(backend, cache_dir):
    """OpenVINO compiles the network for a size the second time it sees it."""
    network = PlusMean().eval()
    runs = run_by(network, backend, cache_dir=cache_dir)
    tile, last = (24, 20), (24, 15)  # each row of tiles ends with a narrower tile
    for size in (tile, tile, tile, last, tile, tile, last, last, tile):
        assert difference(network, runs, size) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(24, 24), (25, 27), (37, 41), (9, 7)])  # a fifth segment or none
def test_segments_of_every_length_give_the_same_image_as_torch(backend, size, cache_dir):
    """OpenVINO cannot compile an empty last segment for one size, so the graph for any size is run then."""
    network = Attends().eval()
    runs = run_by(network, backend, cache_dir=cache_dir)
    assert all(difference(network, runs, size) < 1e-5 for _ in range(3))


def test_openvino_compiles_for_one_size_at_a_time(cache_dir):
    runs = run_by(PlusMean().eval(), "openvino", cache_dir=cache_dir)
    forms = []
    for size in (20, 20, 30, 20, 30, 30):
        runs(torch.zeros(1, 3, size, size))
        forms.append((runs._run._fixed_size[-1], runs._run._fixed))
    assert [size for size, _ in forms[1:]] == [20, 20, 20, 20, 30]
    assert forms[1][1] is forms[4][1] is not forms[5][1]


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the stack of signal handlers")
def test_openvino_moves_the_stack_of_signal_handlers_once(cache_dir):
    """If every graph moved the stack, freeing a graph would make the next signal crash the process."""
    places, kept = [], []
    for _ in range(3):
        kept.append(run_by(PlusMean().eval(), "openvino", cache_dir=cache_dir))
        kept[-1](torch.rand(1, 3, 20, 30))
        stack = _Stack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
        places.append(stack.place)
    assert len(set(places)) == 1


def test_tiles_of_a_backend_equal_the_whole_image(cache_dir):
    torch.manual_seed(0)  # fixes the weights, so that all tests share a graph
    network = Entry("ecbsr_m4c16", 2).build().eval()
    tiled = Tiled(run_by(network, "openvino", cache_dir=cache_dir), tile=40, like=network)
    assert len(tiled.pieces(61, 70)) > 1
    assert difference(network, tiled, (61, 70)) < 1e-5


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_backend_gives_the_same_images_as_eager(kind, monkeypatch, cache_dir):
    """The network upscales luma; the images also have chroma."""
    monkeypatch.setenv("SR_LAB_CACHE", str(cache_dir))
    models = []
    for backend in ("eager", "onnxruntime"):
        torch.manual_seed(0)  # fixes the weights
        models.append(sr_lab.load("ecbsr_m4c16", scale=2, backend=backend))
    drawn = torch.rand(3, 40, 31)
    image = drawn if kind == "tensor" else drawn.permute(1, 2, 0).numpy()
    expected, sr = (np.asarray(sr_lab.upscale(image, model, tile=30)) for model in models)
    assert np.abs(sr - expected).max() < 1e-5


def test_a_graph_is_exported_once(tmp_path, exports):
    network = PlusMean().eval()
    run_by(network, "onnxruntime", cache_dir=tmp_path)
    run_by(network, "openvino", cache_dir=tmp_path)
    assert len(exports) == 1
    network.conv.bias.data.add_(1)  # another network
    run_by(network, "openvino", cache_dir=tmp_path)
    assert len(exports) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_does_not_match_the_network_is_exported_again(backend, cache_dir, tmp_path, exports):
    network = PlusMean().eval()
    run_by(network, backend, cache_dir=cache_dir)
    graph = (cache_dir / "onnx" / f"{backends._fingerprint(network)}.onnx").read_bytes()
    network.conv.bias.data.add_(1)
    stale = graph if backend == "onnxruntime" else graph[:300]  # other weights, or a truncated file
    path = tmp_path / "onnx" / f"{backends._fingerprint(network)}.onnx"
    files.write(path, stale)
    exports.clear()
    assert difference(network, run_by(network, backend, cache_dir=tmp_path), (20, 30)) < 1e-5
    assert exports == ["PlusMean"]
    assert path.read_bytes() != stale


@pytest.mark.parametrize("place", ["onnx", "onnx/graph"])
def test_a_graph_that_other_users_may_have_written_is_exported_again(
    cache_dir, tmp_path, monkeypatch, exports, place
):
    network = PlusMean().eval()
    run_by(network, "onnxruntime", cache_dir=cache_dir)
    graph = Path("onnx") / f"{backends._fingerprint(network)}.onnx"
    planted = (cache_dir / graph).read_bytes()  # a valid graph, such as an attacker could plant
    files.write(tmp_path / graph, planted)
    loose = tmp_path / (graph if place == "onnx/graph" else "onnx")
    loose.chmod(loose.stat().st_mode | 0o020)
    used, notes, start = [], [], backends._STARTS["openvino"]
    monkeypatch.setitem(
        backends._STARTS, "openvino", lambda path, threads: used.append(path) or start(path, threads)
    )
    exports.clear()
    runs = run_by(network, "openvino", cache_dir=tmp_path, note=notes.append)
    assert difference(network, runs, (20, 30)) < 1e-5
    assert exports == ["PlusMean"]
    (line,) = notes
    assert line.startswith("backend: other users may ")
    if place == "onnx":
        assert used != [tmp_path / graph]
        assert not used[0].exists()
    else:
        assert (tmp_path / graph).stat().st_mode & 0o777 == 0o600
    assert run_by(network, "openvino", cache_dir=tmp_path, note=notes.append)
    assert len(notes) == (2 if place == "onnx" else 1)


def test_a_graph_of_another_user_is_exported_again(cache_dir, monkeypatch, exports):
    network, notes = PlusMean().eval(), []
    run_by(network, "onnxruntime", cache_dir=cache_dir)
    exports.clear()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    run_by(network, "onnxruntime", cache_dir=cache_dir, note=notes.append)
    assert exports == ["PlusMean"]
    (line,) = notes
    assert "use a cache_dir of your own" in line


def test_a_network_that_cannot_be_exported_is_refused(tmp_path):
    reason = r"Unexportable: .* ONNX \(Could not guard on data-dependent expression [^\n]{5,120}\); .*=eager$"
    with pytest.raises(ConfigError, match=reason):
        run_by(Unexportable().eval(), "openvino", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_graph_that_is_right_only_at_some_sizes_is_refused(tmp_path):
    network = OddOnly().eval()
    for backend in BACKENDS:
        with pytest.raises(ConfigError, match=rf"{backend} does not run OddOnly: .* a different image"):
            run_by(network, backend, cache_dir=tmp_path)


def test_auto_selects_the_first_backend_that_runs_the_network(cache_dir, tmp_path, monkeypatch):
    notes = []
    network = PlusMean().eval()
    assert run_by(network, "auto", cache_dir=cache_dir, note=notes.append).backend == "openvino"
    assert run_by(network, "auto", cache_dir=cache_dir, on_gpu=True) is network
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(backends, "missing", lambda name: [name] if name == "openvino" else [])
    assert run_by(network, "auto", cache_dir=cache_dir, note=notes.append).backend == "onnxruntime"
    assert notes == []
    refused = Unexportable().eval()
    assert run_by(refused, "auto", cache_dir=tmp_path, note=notes.append) is refused
    assert len(notes) == 1


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(backends._NEEDS, "openvino", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package.*pip install 'sr_lab\[openvino\]'"):
        run_by(PlusMean().eval(), "openvino", cache_dir=tmp_path)


def test_half_precision_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"float32, got weights in bfloat16"):
        run_by(PlusMean().bfloat16().eval(), "onnxruntime", cache_dir=tmp_path)


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'tensorrt'; allowed: eager, onnxruntime, openvino, auto"):
        run_by(PlusMean(), "tensorrt", cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="backend: input should be 'eager'"):
        compose("task=evaluate", "model=bicubic", "backend=tensorrt")


def test_a_backend_for_cpus_refuses_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match=r"onnxruntime .* CPU, got a GPU; add trainer=cpu"):
        run_by(PlusMean(), "onnxruntime", cache_dir=tmp_path, on_gpu=True)


def test_the_backend_is_part_of_the_identity_of_an_evaluation():
    values = [identity(compose("task=evaluate", "model=bicubic", *more)) for more in ((), ("backend=auto",))]
    assert "backend" not in values[0]
    assert values[1] == values[0] | {"backend": "auto"}


def ecbsr(folder, cache_dir):
    """Overrides for a small network with saved weights."""
    torch.manual_seed(0)
    ckpt = folder / "weights.pth"
    torch.save(Entry("ecbsr_m4c16", 2).build().state_dict(), ckpt)
    return (
        "model=ecbsr_m4c16",
        "scale=2",
        f"ckpt={ckpt}",
        "trainer=cpu",
        f"paths.cache_dir={cache_dir}",
    )


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers")
def test_an_evaluation_records_which_backend_it_measured(tmp_path, cache_dir):
    metrics = {}
    for backend in ("eager", "auto"):
        words = (*ecbsr(tmp_path, cache_dir), "task=evaluate", "benchmark=sample", f"backend={backend}")
        evaluate.run(compose(*words), tmp_path / backend, words)
        metrics[backend] = json.loads((tmp_path / backend / "metrics.json").read_text())
    assert "backend" not in metrics["eager"]
    assert metrics["auto"]["backend"].startswith("openvino 20")
    key = "test/sample/psnr_y"
    assert metrics["auto"][key] == pytest.approx(metrics["eager"][key], abs=1e-3)


def test_upscale_prints_which_backend_runs(tmp_path, cache_dir, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (19, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    images = {}
    for backend in ("eager", "onnxruntime"):
        output = tmp_path / backend
        paths = (f"input={tmp_path / 'photo.png'}", f"output={output}")
        overrides = ["task=upscale", *ecbsr(tmp_path, cache_dir), *paths, f"backend={backend}"]
        upscale.run(compose(*overrides), output, overrides)
        images[backend] = np.asarray(Image.open(output / "photo_x2.png")).astype(int)
    assert np.abs(images["eager"] - images["onnxruntime"]).max() <= 1
    printed = capsys.readouterr().out
    assert printed.count("backend: ") == 1
    assert "backend: onnxruntime 1." in printed


NETWORKS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/model").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # EFRDN's graph has 2,500 operations
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in TAKES_LONG])
def test_every_network_gives_torchs_images(name, tmp_path):
    network = Entry(name, 4).build().eval()
    for backend in BACKENDS:
        runs = run_by(network, backend, cache_dir=tmp_path)
        # Untrained EFRDN gives values near 100; even torch's relative error is 0.8e-5 there.
        tolerance = 4e-5 if name == "efrdn" else 1e-5
        assert all(difference(network, runs, size) < tolerance for size in (*SIZES, SIZES[-1]))


@pytest.mark.parametrize("task", ["evaluate", "upscale"])
def test_the_help_states_the_order_in_which_auto_tries_the_backends(task):
    page = (Path(__file__).parents[2] / "conf" / "task" / f"{task}.yaml").read_text()
    assert "auto: the first of openvino, onnxruntime and eager that is installed and runs the network" in page
