"""Networks on the CPU by another engine than torch: onnxruntime or OpenVINO (extras ``onnx``, ``openvino``).

Both read one ONNX graph of the folded network, whose height and width are open. Making it takes from five
seconds to a minute, so that it is kept on the disk; that it computes the network is checked with each use, at
three sizes. A graph made by someone else could be right at these alone: ``cache_dir`` is one's own.
"""

import copy
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.layers.folding import TOLERANCE, for_inference

BackendName: TypeAlias = Literal["eager", "onnxruntime", "openvino", "auto"]
BACKENDS: tuple[str, ...] = get_args(BackendName)

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_NEEDS = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
_FORMAT = 1  # part of every name of a graph: raise it when networks are exported otherwise
_MADE: set[Path] = set()  # graphs that this process has exported: doing it again would give the same
_SIDE = 48  # LR pixels of the image that a network is followed on


def missing(backend: str) -> list[str]:
    """Packages that a backend needs and that are not there."""
    return [name for name in _NEEDS[backend] if importlib.util.find_spec(name) is None]


def run_by(
    network: nn.Module,
    backend: str,
    *,
    cache_dir: Path,
    on_gpu: bool = False,
    told: Callable[[str], object] = lambda _: None,
) -> nn.Module:
    """A network in the form that it runs in: folded, and given to another engine if so asked for.

    Args:
        network: Any network for images, whose weights are final.
        backend: ``eager`` (torch), ``onnxruntime``, ``openvino``, or ``auto``: the first of openvino,
            onnxruntime and eager that is installed and runs the network; on a GPU eager.
        cache_dir: Folder for ONNX graphs, of one's own: what lies there is run, if nobody else can write it.
        on_gpu: Whether the network will run on a GPU.
        told: Given a sentence for each engine that is installed and that ``auto`` passes over, and for each
            graph that is there and not used.

    Returns:
        What `for_inference` gives, or an `BackendNetwork`.

    Raises:
        ConfigError: There is no such backend, it is not installed, it would have to run on a GPU, or it does
            not run this network.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend: got {backend!r}; allowed: {', '.join(BACKENDS)}")
    merged = for_inference(network)
    if backend in _NEEDS:
        if on_gpu:
            raise ConfigError(
                f"backend: {backend} computes on the CPU, got a GPU; add trainer=cpu, or take backend=eager"
            )
        return BackendNetwork(merged, backend, cache_dir=cache_dir, told=told)
    if backend == "auto" and not on_gpu:
        for name in (name for name in ("openvino", "onnxruntime") if not missing(name)):
            try:
                return BackendNetwork(merged, name, cache_dir=cache_dir, told=told)
            except ConfigError as error:
                told(str(error))
    return merged


class BackendNetwork(nn.Module):
    """What a network computes, without gradients, on the CPU, in float32, with as many threads as torch has.

    Args:
        network: The network in the form that it runs in.
        backend: ``onnxruntime`` or ``openvino``.
        cache_dir: Folder for ONNX graphs.
        told: Given a sentence where a graph that is there is not used.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)`` in float32, equal to the network's to 1e-5 of
        the largest value; where torch itself rounds further (EFRDN), to four times its distance from exact.

    Raises:
        ConfigError: A package is missing, weights are not float32, the network does not export, or what is
            exported is not the network at every size.
    """

    def __init__(
        self,
        network: nn.Module,
        backend: str,
        *,
        cache_dir: Path,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__()
        if lacking := missing(backend):
            raise ConfigError(
                f"backend: {backend} needs {', '.join(lacking)}, not installed here; "
                f"pip install 'sr_lab[{_EXTRAS[backend]}]', or take backend=eager"
            )
        types = {weight.dtype for weight in network.parameters()}
        if types - {torch.float32}:
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise ConfigError(
                f"backend: {backend} computes in float32, got weights in {names}; "
                "take network.float(), or backend=eager"
            )
        self.backend = backend
        self.colour = getattr(network, "colour", "rgb")
        self.scale = getattr(network, "scale", None)
        self.threads = torch.get_num_threads()
        self._network = [network]  # in a list: no part of this module
        graph = cache_dir / "onnx" / f"{_fingerprint(network)}.onnx"
        graph.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _only_ours(graph.parent):
            told(
                f"backend: others may write in '{graph.parent}', so the graph is made anew and not kept; "
                "chmod 700 the folder, or take a cache_dir of your own"
            )
            with tempfile.TemporaryDirectory() as folder:
                if self._makes(Path(folder) / graph.name):
                    return
        else:
            if graph.is_file() and not _only_ours(graph):
                told(f"backend: others may have written '{graph}', so it is made anew")
                graph.unlink(missing_ok=True)
            if graph.is_file() and self._loads(graph):
                return
            if (graph not in _MADE or not graph.is_file()) and self._makes(graph):
                return
        raise self._refused("its graph gives another image than torch does at some sizes")

    def __str__(self) -> str:
        version = importlib.metadata.version(self.backend)
        return f"{self.backend} {version} on the CPU, {self.threads} thread{'s' * (self.threads != 1)}"

    @property
    def network(self) -> nn.Module:
        """The torch network that it computes."""
        return self._network[0]

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge images one by one: a batch saves nothing on a CPU."""
        images = lr.detach().to("cpu", torch.float32).contiguous()
        sr = [self._run(image) for image in torch.split(images, 1)]
        return (sr[0] if len(sr) == 1 else torch.cat(sr)).to(lr.device)

    def _makes(self, graph: Path) -> bool:
        """Export the network to a file, and put that graph in its place, if it computes the network."""
        files.write(graph, self._exported())
        graph.chmod(0o600)
        _MADE.add(graph)
        return self._loads(graph)

    def _exported(self) -> bytes:
        """The graph of the network, in ONNX."""
        import onnx

        network = copy.deepcopy(self.network).cpu().eval().requires_grad_(False)
        lr = _image(network, (_SIDE + 1, _SIDE + 7))  # no multiple of a window or stride
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # of torch's exporter, about itself
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                dynamic = torch.export.Dim.DYNAMIC
                program = torch.export.export(network, (lr,), dynamic_shapes=({2: dynamic, 3: dynamic},))
                # From opset 19 on onnxruntime averages naively, which took IMFM three times as long; before
                # 20 there is no GELU, of which OSFFNet is made.
                operations = {node.target for node in program.graph.nodes}
                opset = 18 if torch.ops.aten.avg_pool2d.default in operations else None
                graph = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
            assert graph is not None
            model = graph.model_proto
            for node in model.graph.node:
                if node.op_type == "Reshape":  # a length of zero (no rest behind whole segments) is a length
                    kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
                    del node.attribute[:]
                    node.attribute.extend([*kept, onnx.helper.make_attribute("allowzero", 1)])
            return cast(bytes, model.SerializeToString())
        except Exception as error:  # whatever torch has not learnt to export
            raise self._refused(f"it does not export to ONNX ({_reason(error)})") from error
        finally:
            logging.disable(level)

    def _refused(self, why: str) -> ConfigError:
        name = type(self.network).__name__
        return ConfigError(f"backend: {self.backend} does not run {name}: {why}; take backend=eager")

    @torch.no_grad()
    def _loads(self, graph: Path) -> bool:
        """Put a graph in its place, if it computes the network."""
        network = self.network.eval()
        exact = copy.deepcopy(network).double()
        try:
            self._run = _STARTS[self.backend](graph, self.threads)
            # Whole windows, halves, odd sizes; the one that comes again may be computed otherwise.
            for size in ((24, 32), (37, 41), (49, 24), (49, 24)):
                lr = _image(network, size)
                if not self._equals(self._run(lr), network(lr), exact(lr.double())):
                    return False
        except Exception:  # of the engine: a damaged file, a graph that fails at this size
            return False
        return True

    @staticmethod
    def _equals(sr: Tensor, eager: Tensor, exact: Tensor) -> bool:
        """Equal to torch, or as near to exact arithmetic: deep networks round further than the tolerance."""
        if sr.shape != eager.shape:
            return False
        tolerance = TOLERANCE * eager.abs().max().clamp_min(1)
        rounding = (eager - exact).abs().max()
        return bool((sr - eager).abs().max() <= tolerance or (sr - exact).abs().max() <= 4 * rounding)


def _image(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """A random LR image of at least the smallest size that the network takes."""
    smallest = int(getattr(network, "min_size", 1))
    channels = 1 if getattr(network, "colour", "rgb") == "y" else 3
    shape = (1, channels, *(max(side, smallest) for side in size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _reason(error: BaseException) -> str:
    """What was wrong in the beginning, in a line: torch packs it into pages about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return textwrap.shorten(said, 160, placeholder=" ...") or type(error).__name__


def _fingerprint(network: nn.Module) -> str:
    """Which graph it is: of this network, and these versions of what makes graphs."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnx", "onnxscript"))
    return fingerprint(network, str(_FORMAT), *versions)[:32]


def fingerprint(network: nn.Module, *more: str) -> str:
    """SHA-256 of a network, of its modules and weights, and of what else a result depends on."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in more).encode())
    digest.update(f"{type(network).__module__} {network}\n".encode())
    for key, value in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _only_ours(path: Path) -> bool:
    """Whether it belongs to this user, and nobody else may write it."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _onnxruntime(graph: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is told by an exception
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(lr: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: lr.numpy()})[0])

    return run


class _OpenVINO:
    """A graph at any size, and compiled again for a size that comes twice in a row, as that of tiles does.

    Of fixed size it is some 15 % faster and takes two thirds of the memory; compiling takes half a second.
    """

    def __init__(self, graph: Path, threads: int) -> None:
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(graph)
        # On processors with bfloat16 the default would be that.
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._any_size = self._core.compile_model(self._model, "CPU", self._settings)
        self._fixed, self._fixed_size, self._last_size = self._any_size, torch.Size(), torch.Size()

    def __call__(self, lr: Tensor) -> Tensor:
        if lr.shape == self._last_size != self._fixed_size:
            self._fixed = self._any_size  # one at a time: each holds the memory that it has computed in
            self._any_size.release_memory()
            model = self._model.clone()
            model.reshape(list(lr.shape))
            self._fixed, self._fixed_size = self._core.compile_model(model, "CPU", self._settings), lr.shape
        self._last_size = lr.shape
        runs = self._fixed if lr.shape == self._fixed_size else self._any_size
        return torch.from_numpy(runs(lr.numpy(), share_inputs=True, share_outputs=False)[0])


_STARTS: Mapping[str, Callable[[Path, int], Callable[[Tensor], Tensor]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _OpenVINO,
}
