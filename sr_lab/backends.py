"""Networks on the CPU by another engine than torch: onnxruntime or OpenVINO (extras ``onnx``, ``openvino``).

Both read one ONNX graph of the folded network, whose height and width are open. Making it takes from five
seconds to a minute, so that it is kept on the disk; that it computes the network is checked with each use.
"""

import copy
import hashlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.layers.folding import TOLERANCE, for_inference

Backend: TypeAlias = Literal["eager", "onnxruntime", "openvino", "auto"]
BACKENDS: tuple[str, ...] = get_args(Backend)

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_NEEDS = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
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
        cache_dir: Folder for ONNX graphs.
        on_gpu: Whether the network will run on a GPU.
        told: Given a sentence for each engine that is installed and that ``auto`` passes over.

    Returns:
        What `for_inference` gives, or an `Engine`.

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
        return Engine(merged, backend, cache_dir=cache_dir)
    if backend == "auto" and not on_gpu:
        for name in (name for name in ("openvino", "onnxruntime") if not missing(name)):
            try:
                return Engine(merged, name, cache_dir=cache_dir)
            except ConfigError as error:
                told(str(error))
    return merged


class Engine(nn.Module):
    """What a network computes, without gradients, on the CPU, in float32, with as many threads as torch has.

    Args:
        network: The network in the form that it runs in.
        backend: ``onnxruntime`` or ``openvino``.
        cache_dir: Folder for ONNX graphs.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)`` in float32, equal to the network's to 1e-5 of
        the largest value; where torch itself rounds further (EFRDN), to four times its distance from exact.

    Raises:
        ConfigError: A package is missing, weights are not float32, the network does not export, or what is
            exported is not the network at every size.
    """

    def __init__(self, network: nn.Module, backend: str, *, cache_dir: Path) -> None:
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
        if graph.is_file() and self._loads(graph):
            return
        if graph not in _MADE or not graph.is_file():
            files.write(graph, self._exported())
            _MADE.add(graph)
            if self._loads(graph):
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
                graph = torch.onnx.export(program, dynamo=True, verbose=False)
            assert graph is not None
            model = graph.model_proto
            for node in model.graph.node:
                if node.op_type == "Reshape":  # a length of zero (no rest behind whole segments) is a length
                    kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
                    del node.attribute[:]
                    node.attribute.extend([*kept, onnx.helper.make_attribute("allowzero", 1)])
            return cast(bytes, model.SerializeToString())
        except Exception as error:  # whatever torch has not learnt to export
            raise self._refused("it does not export to ONNX") from error
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
            self._run: Callable[[Tensor], Tensor] = _STARTS[self.backend](graph, self.threads)
            for size in ((24, 32), (37, 41), (49, 24)):  # whole windows, halves, odd sizes
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


def _fingerprint(network: nn.Module) -> str:
    """Which graph it is: of these modules, these weights and these versions of what makes graphs."""
    digest = hashlib.sha256()
    for name in ("torch", "onnx", "onnxscript"):
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    digest.update(f"{type(network).__module__} {network}\n".encode())
    for key, value in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


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


def _openvino(graph: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import openvino

    # On processors with bfloat16 the default would be that.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(graph, "CPU", settings)

    def run(lr: Tensor) -> Tensor:
        return torch.from_numpy(model(lr.numpy(), share_inputs=True, share_outputs=False)[0])

    return run


_STARTS = {"onnxruntime": _onnxruntime, "openvino": _openvino}
