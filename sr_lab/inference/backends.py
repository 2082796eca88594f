"""Running networks on the CPU with onnxruntime or OpenVINO (extras ``onnx``, ``openvino``) instead of torch.

Both backends run an ONNX graph of the folded network with dynamic height and width. Exporting takes from five
seconds to a minute, so the graph is stored on disk. Whenever a graph is loaded, its output is compared with
the network's at three sizes. An untrusted graph could be right at these sizes only, so ``cache_dir`` must
belong to the user.
"""

import copy
import functools
import hashlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.inference.graph import onnx_model, random_image, why
from sr_lab.layers.folding import for_inference
from sr_lab.layers.network import colour_of, scale_of
from sr_lab.system.unix import is_only_ours

if TYPE_CHECKING:
    import openvino

BackendName: TypeAlias = Literal["eager", "onnxruntime", "openvino", "auto"]
BACKENDS: tuple[str, ...] = get_args(BackendName)

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_NEEDS = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
_FORMAT = 3  # part of every graph's name: increase it when the export changes
LARGEST_DIFFERENCE = 1e-4  # from torch's values in [0, 1]; for larger values, relative to the maximum
_SIZES = ((24, 32), (37, 41), (49, 24), (49, 24))  # checked: whole windows, halves, odd sides, a repeat


def missing(backend: str) -> list[str]:
    """Packages that a backend needs but that are not installed."""
    return [name for name in _NEEDS[backend] if importlib.util.find_spec(name) is None]


def start(backend: str, graph: Path | bytes, threads: int) -> Callable[[Tensor], Tensor]:
    """Load an ONNX graph, whose input and output are tensors on the CPU.

    Raises:
        ConfigError: Packages are missing.
    """
    if not_installed := missing(backend):
        raise ConfigError(
            f"{backend} needs packages that are not installed: {', '.join(not_installed)}; "
            f"pip install 'sr_lab[{_EXTRAS[backend]}]'"
        )
    return _STARTS[backend](graph, threads)


def run_by(
    network: nn.Module,
    backend: str,
    *,
    cache_dir: Path,
    on_gpu: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> nn.Module:
    """Fold a network for inference, and let a backend run it.

    Args:
        network: Any network for images, with its final weights.
        backend: ``eager`` (torch), ``onnxruntime``, ``openvino``, or ``auto``: the first of openvino,
            onnxruntime and eager that is installed and runs the network; on a GPU, eager.
        cache_dir: The user's folder for ONNX graphs; a graph is used only if nobody else can write to it.
        on_gpu: Whether the network will run on a GPU.
        note: Called with a sentence for each installed backend that ``auto`` cannot use, and for each stored
            graph that is not trusted.

    Returns:
        The result of `for_inference`, or a `BackendNetwork`.

    Raises:
        ConfigError: The backend is unknown, not installed, asked to run on a GPU, or does not run this
            network.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend: got {backend!r}; allowed: {', '.join(BACKENDS)}")
    merged = for_inference(network)
    if backend in _NEEDS:
        if on_gpu:
            raise ConfigError(
                f"backend: {backend} computes on the CPU, got a GPU; add trainer=cpu, or use backend=eager"
            )
        return BackendNetwork(merged, backend, cache_dir=cache_dir, note=note)
    if backend == "auto" and not on_gpu:
        for name in (name for name in ("openvino", "onnxruntime") if not missing(name)):
            try:
                return BackendNetwork(merged, name, cache_dir=cache_dir, note=note)
            except ConfigError as error:
                note(str(error))
    return merged


class BackendNetwork(nn.Module):
    """A network that a backend runs on the CPU in float32, without gradients, with as many threads as torch.

    Args:
        network: The folded network.
        backend: ``onnxruntime`` or ``openvino``.
        cache_dir: Folder for ONNX graphs.
        note: Called with a sentence if a stored graph is not trusted.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)`` in float32. For our networks, sr differs
        from torch's by at most 1e-5 of the largest value (EFRDN: 4e-5); see `equals` for what is accepted.

    Raises:
        ConfigError: A package is missing, weights are not float32, the network does not export, or its graph
            gives a different image at some size.
    """

    def __init__(
        self,
        network: nn.Module,
        backend: str,
        *,
        cache_dir: Path,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__()
        if not_installed := missing(backend):
            raise ConfigError(
                f"backend: {backend} needs packages that are not installed: {', '.join(not_installed)}; "
                f"pip install 'sr_lab[{_EXTRAS[backend]}]', or use backend=eager"
            )
        types = {weight.dtype for weight in network.parameters()}
        if types - {torch.float32}:
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise ConfigError(
                f"backend: {backend} computes in float32, got weights in {names}; "
                "call network.float(), or use backend=eager"
            )
        self.backend = backend
        self.colour = colour_of(network)
        self.scale = scale_of(network)
        self.threads = torch.get_num_threads()
        self._network = [network]  # a network in a list is not a submodule
        graph = cache_dir / "onnx" / f"{_fingerprint(network)}.onnx"
        graph.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_only_ours(graph.parent):
            note(
                f"backend: other users may write to '{graph.parent}', so the graph is exported again and not "
                "kept; chmod 700 the folder, or use a cache_dir of your own"
            )
            with tempfile.TemporaryDirectory() as folder:
                self._export(Path(folder) / graph.name)
            return
        if graph.is_file() and not is_only_ours(graph):
            note(f"backend: other users may have written '{graph}', so the graph is exported again")
            graph.unlink(missing_ok=True)
        if not (graph.is_file() and self._start(graph)):
            self._export(graph)

    def __str__(self) -> str:
        version = importlib.metadata.version(self.backend)
        return f"{self.backend} {version} on the CPU, {self.threads} thread{'s' * (self.threads != 1)}"

    @property
    def network(self) -> nn.Module:
        """The torch network that this backend runs."""
        return self._network[0]

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale images one by one, since a batch saves no time on a CPU."""
        images = lr.detach().to("cpu", torch.float32).contiguous()
        sr = [self._run(image) for image in torch.split(images, 1)]
        return (sr[0] if len(sr) == 1 else torch.cat(sr)).to(lr.device)

    def _export(self, graph: Path) -> None:
        """Export the network to a file, and load the file."""
        files.write(graph, self._graph())
        graph.chmod(0o600)
        if not self._start(graph):
            raise self._refused("its graph gives a different image than torch at some sizes")

    def _graph(self) -> bytes:
        """The network as an ONNX graph."""
        try:
            return cast(bytes, onnx_model(self.network, open_batch=False).SerializeToString())
        except Exception as error:  # torch raises many types of error
            raise self._refused(f"it does not export to ONNX ({why(error)})") from error

    def _refused(self, why: str) -> ConfigError:
        name = type(self.network).__name__
        return ConfigError(f"backend: {self.backend} does not run {name}: {why}; use backend=eager")

    @torch.no_grad()
    def _start(self, graph: Path) -> bool:
        """Load a graph, and return whether it gives the network's output."""
        network = self.network.eval()
        exact = copy.deepcopy(network).double()
        try:
            self._run = _STARTS[self.backend](graph, self.threads)
            images = [random_image(network, size) for size in _SIZES]
            return all(equals(self._run(lr), network(lr), exact(lr.double())) for lr in images)
        except Exception:  # the file is damaged, or the graph fails at this size; the types vary
            return False


def equals(sr: Tensor, eager: Tensor, exact: Tensor) -> bool:
    """Whether an image equals torch's within `LARGEST_DIFFERENCE`, or is about as exact as torch's.

    Rounding errors add up with depth.

    Args:
        sr: The image.
        eager: Torch's image in float32.
        exact: Torch's image in float64.
    """
    if sr.shape != eager.shape:
        return False
    tolerance = LARGEST_DIFFERENCE * eager.abs().max().clamp_min(1)
    rounding = (eager - exact).abs().max()
    return bool((sr - eager).abs().max() <= tolerance or (sr - exact).abs().max() <= 4 * rounding)


def _fingerprint(network: nn.Module) -> str:
    """Name of a graph: a hash of the network and of the versions of the packages that export it."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnx", "onnxscript"))
    return fingerprint(network, str(_FORMAT), *versions)[:32]


def fingerprint(network: nn.Module, *more: str) -> str:
    """SHA-256 of a network's modules and weights, and of anything else that a result depends on."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in more).encode())
    digest.update(f"{type(network).__module__} {network}\n".encode())
    for key, value in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _onnxruntime(graph: Path | bytes, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # no logs: failures raise an exception
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(lr: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: lr.numpy()})[0])

    return run


@functools.cache
def _openvino_core() -> "openvino.Core":
    """One `Core` per process: it sets a signal-handler stack, which dangles once the `Core` is freed."""
    import openvino

    return openvino.Core()


class _OpenVINO:
    """A graph for any size, recompiled for a fixed size when that size comes twice in a row, as with tiles.

    A fixed size is about 15 % faster and takes two thirds of the memory; compiling takes half a second.
    """

    def __init__(self, graph: Path | bytes, threads: int) -> None:
        self._core = _openvino_core()
        self._model = self._core.read_model(graph)
        # By default, OpenVINO would use bfloat16 on processors that support it.
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._any_size = self._core.compile_model(self._model, "CPU", self._settings)
        self._fixed, self._fixed_size, self._last_size = self._any_size, torch.Size(), torch.Size()

    def __call__(self, lr: Tensor) -> Tensor:
        if lr.shape == self._last_size != self._fixed_size:
            self._fixed = self._any_size  # frees the previous fixed graph and its memory
            self._any_size.release_memory()
            self._fixed, self._fixed_size = self._for_size(lr.shape), lr.shape
        self._last_size = lr.shape
        runs = self._fixed if lr.shape == self._fixed_size else self._any_size
        return torch.from_numpy(runs(lr.numpy(), share_inputs=True, share_outputs=False)[0])

    def _for_size(self, size: torch.Size) -> "openvino.CompiledModel":
        model = self._model.clone()
        try:
            model.reshape(list(size))
            return self._core.compile_model(model, "CPU", self._settings)
        except RuntimeError:  # OpenVINO 2026.4, if the last part of a split is empty (ESRT, EFRDN)
            return self._any_size


_STARTS: Mapping[str, Callable[[Path | bytes, int], Callable[[Tensor], Tensor]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _OpenVINO,
}
