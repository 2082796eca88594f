"""A network in the formats that other programs open; each file is checked to give the network's images."""

import copy
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn

from sr_lab.checkpoints.authors_names import official_weights
from sr_lab.datasets.benchmark import MeasuredSet
from sr_lab.errors import ConfigError
from sr_lab.inference import backends, graph
from sr_lab.layers.folding import for_inference
from sr_lab.layers.network import colour_of, min_size_of
from sr_lab.ops.metrics import SSIM_WINDOW
from sr_lab.protocol import Protocol
from sr_lab.system.devices import exact_float32

Format: TypeAlias = Literal["onnx", "pt2", "safetensors", "official"]
DType: TypeAlias = Literal["float32", "float16"]
SUFFIXES: Mapping[Format, str] = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
    "official": "_official.pth",
}
_LARGEST_PSNR_DIFFERENCE = 0.001  # dB
_RANDOM = "random images"
_ROUNDS = 3  # of each timing; the fastest counts

Runs: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Checked:
    """How an exported graph compares with torch's network.

    Args:
        differences: Images -> largest difference of a value, relative to the largest value above 1;
            infinite or NaN if the graph gives such values.
        is_equal: Whether the differences are at most `LARGEST_DIFFERENCE`, or at most four times torch's own
            rounding errors.
        psnr_difference: Largest difference of an image's PSNR in dB, ``None`` without ground truth.
        size: Height and width of the LR image that was timed.
        seconds: Time of the graph for this image on the CPU.
        eager_seconds: Time of torch's folded network for the same image.
    """

    differences: Mapping[str, float]
    is_equal: bool
    psnr_difference: float | None
    size: tuple[int, int]
    seconds: float
    eager_seconds: float

    @property
    def difference(self) -> float:
        """The largest of the differences."""
        return _largest(self.differences.values())

    def __str__(self) -> str:
        psnr = "" if self.psnr_difference is None else f" and {self.psnr_difference:.1e} dB"
        said = []
        for images, difference in self.differences.items():
            by = f"at most {difference:.1e}" if math.isfinite(difference) else "any amount (it overflows)"
            said.append(f"by {by}{psnr} on {images}")
            psnr = ""  # only the test set has a PSNR, and it is the first
        height, width = self.size
        if self.is_equal and self.difference > backends.LARGEST_DIFFERENCE:
            said[-1] += " (float32 is no more exact for this network)"
        return (
            f"differs {', '.join(said)}; {1e3 * self.seconds:.0f} ms for {width}x{height} LR pixels on a CPU "
            f"({torch.get_num_threads()} threads), torch {1e3 * self.eager_seconds:.0f} ms"
        )


@dataclass(frozen=True)
class Exported:
    """One file.

    Args:
        content: The bytes to write.
        facts: Lines about the file for the model card.
    """

    content: bytes
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Images on which graphs are compared with torch.

    Args:
        found: A test set, ``None`` for random images.
        protocol: How the test set is measured.
    """

    found: MeasuredSet | None
    protocol: Protocol


def as_onnx(
    network: nn.Module,
    images: Images,
    metadata: Mapping[str, str],
    *,
    size: tuple[int, int] | None,
    dtype: DType,
) -> Exported:
    """The folded network as an ONNX file, checked in onnxruntime, and in OpenVINO if that is installed.

    Args:
        network: Any network for images, with its final weights.
        images: What to compare on.
        metadata: Further entries for the file's ``metadata_props``.
        size: Fixed height and width of the LR image; ``None`` for any batch and size.
        dtype: Type of the weights, of the input and of the output.

    Raises:
        ConfigError: A package is missing, the network does not export, or the graph gives a different image.
    """
    import onnx

    merged = for_inference(network) if any(True for _ in network.parameters()) else network
    stored = copy.deepcopy(merged).half() if dtype == "float16" else merged
    try:
        model = graph.onnx_model(stored, size=size)
    except Exception as error:  # torch raises many types of error
        raise _refused("onnx", network, graph.why(error), size) from error
    opset = graph.opset_of(model)
    onnx.helper.set_model_props(model, {**metadata, "dtype": dtype, "opset": str(opset)})
    content = model.SerializeToString()
    try:
        runs = backends.start("onnxruntime", content, torch.get_num_threads())
        checked = _check(network, merged, _in(runs, dtype), images, size=size)
    except ConfigError:
        raise
    except Exception as error:
        raise _refused("onnx", network, f"onnxruntime: {graph.why(error)}", size) from error
    if dtype == "float32":
        _refuse_other_images("onnx", network, checked, size)
    shapes = "are constant" if graph.is_static(model) else "depend on the image"
    facts = (
        f"ONNX opset {opset}, {dtype}; shapes {shapes}; integers fit into 32 bits",
        f"onnxruntime: {checked}",
        *_in_openvino(network, merged, content, images, size=size, dtype=dtype),
    )
    return Exported(content, facts)


def _in_openvino(
    network: nn.Module,
    merged: nn.Module,
    content: bytes,
    images: Images,
    *,
    size: tuple[int, int] | None,
    dtype: str,
) -> list[str]:
    """The check of a graph in OpenVINO, if that is installed."""
    if backends.missing("openvino"):
        return []
    try:
        runs = backends.start("openvino", content, torch.get_num_threads())
        return [f"OpenVINO: {_check(network, merged, _in(runs, dtype), images, size=size)}"]
    except Exception as error:  # the types vary; other runtimes may run the file
        return [f"OpenVINO does not run it: {graph.why(error)}"]


def _in(runs: Runs, dtype: str) -> Runs:
    """A graph that takes and returns float32, whatever type it computes in."""
    return (lambda lr: runs(lr.half()).float()) if dtype == "float16" else runs


def as_pt2(network: nn.Module, images: Images, *, size: tuple[int, int] | None) -> Exported:
    """The folded network as a program of ``torch.export``, which torch opens without this package.

    Raises:
        ConfigError: The network does not export, or the program gives a different image.
    """
    merged = for_inference(network) if any(True for _ in network.parameters()) else network
    try:
        program = graph.exported_program(merged, size=size)
        checked = _check(network, merged, program.module(), images, size=size)
        written = io.BytesIO()
        torch.export.save(program, written)
    except Exception as error:
        raise _refused("pt2", network, graph.why(error), size) from error
    _refuse_other_images("pt2", network, checked, size)
    return Exported(written.getvalue(), (f"torch {torch.__version__}: {checked}",))


def as_safetensors(network: nn.Module, record: Mapping[str, object]) -> Exported:
    """The weights under our names, with the record from which `sr_lab.load` builds the network.

    Args:
        network: The network.
        record: `StoredNetwork` as plain values.
    """
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    written = safetensors.torch.save(state, {"format": "pt", "sr_lab": json.dumps(record, sort_keys=True)})
    facts = (f"{len(state)} weights under sr_lab's names, and the network's settings",)
    return Exported(_in_order(written), facts)


def _in_order(content: bytes) -> bytes:
    """A safetensors file with sorted metadata, so that the same network gives the same file."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def as_official(network: nn.Module) -> Exported:
    """The weights under the names, and in the value range, of the authors' code, as a PyTorch state dict.

    Raises:
        ConfigError: The authors have no names for this form of the network.
    """
    state = official_weights(network)
    if state is None:
        raise ConfigError(
            f"format: official: {type(network).__name__} in this form has no published names (its authors "
            "published no code, or not with this tail, strategy or folding); use format=safetensors"
        )
    written = io.BytesIO()
    torch.save({name: value.detach().cpu().clone() for name, value in state.items()}, written)
    return Exported(written.getvalue(), (f"{len(state)} weights under the names of the authors' code",))


def _refused(name: Format, network: nn.Module, why: str, size: tuple[int, int] | None) -> ConfigError:
    instead = "try a fixed size (size=180x320), or " if size is None else ""
    return ConfigError(
        f"format: {name}: {type(network).__name__} does not export ({why}); {instead}leave {name} out"
    )


def _refuse_other_images(
    name: Format, network: nn.Module, checked: Checked, size: tuple[int, int] | None
) -> None:
    psnr = checked.psnr_difference or 0.0
    if not (checked.is_equal and psnr <= _LARGEST_PSNR_DIFFERENCE):
        raise _refused(name, network, f"the graph {checked}", size)


@torch.no_grad()
def _check(
    network: nn.Module, merged: nn.Module, runs: Runs, images: Images, *, size: tuple[int, int] | None
) -> Checked:
    """Compare a graph with torch on a test set, and on random images of other sizes.

    Args:
        network: The network as it was loaded.
        merged: The folded network, which is timed.
        runs: The graph.
        images: The images to upscale.
        size: The size that the graph takes, if it is fixed.
    """
    differences: dict[str, list[float]] = {}
    is_equal = True

    def compared(name: str, lr: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal is_equal
        sr, own = network(lr), runs(lr)
        differences.setdefault(name, []).append(difference := _difference(own, sr))
        if is_equal and not difference <= backends.LARGEST_DIFFERENCE:  # or NaN
            is_equal = backends.equals(own, sr, copy.deepcopy(network).double()(lr.double()))
        return own, sr

    psnrs, timed = [], graph.random_image(network, size or (64, 96))
    with exact_float32():
        if images.found is not None:
            for lr, hr, grey in _cut(images.found, network, images.protocol, size):
                own, sr = compared(images.found.name, lr)
                scale = hr.shape[-1] // lr.shape[-1]
                first, second = (
                    images.protocol.measure(image, hr, scale, grey=grey)[0].item() for image in (own, sr)
                )
                psnrs.append(abs(first - second))
                timed = lr
        sizes: Sequence[tuple[int, int]] = [size] if size else [(24, 32), (37, 41), (49, 24)]
        for number, each in enumerate(sizes):
            compared(_RANDOM, graph.random_image(network, each, batch=1 if size else 1 + number % 2))
        height, width = timed.shape[-2:]
        return Checked(
            {name: _largest(values) for name, values in differences.items()},
            is_equal,
            _largest(psnrs) if psnrs else None,
            (height, width),
            _seconds(runs, timed),
            _seconds(merged, timed),
        )


def _cut(
    found: MeasuredSet, network: nn.Module, protocol: Protocol, size: tuple[int, int] | None
) -> Sequence[tuple[Tensor, Tensor, bool]]:
    """Input and ground truth of each image, cut to the size if it is fixed, and whether the image is grey.

    Images that are too small for the network, or to be measured, are left out.
    """
    cut = []
    for index in range(len(found)):
        image = found[index]
        lr = protocol.network_input(image["lr"][None], colour_of(network), grey=image["grey"]).float()
        hr = image["hr"][None]
        height, width = size or lr.shape[-2:]
        scale = hr.shape[-1] // lr.shape[-1]
        measured = scale * min(height, width) - 2 * protocol.crop_border(scale)
        is_inside = height <= lr.shape[-2] and width <= lr.shape[-1]
        if is_inside and min(height, width) >= min_size_of(network) and measured >= SSIM_WINDOW:
            cut.append((lr[..., :height, :width], hr[..., : scale * height, : scale * width], image["grey"]))
    return cut


def _largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if any is NaN, which `max` might miss."""
    return torch.tensor(list(values), dtype=torch.float64).max().item()


def _difference(sr: Tensor, eager: Tensor) -> float:
    if sr.shape != eager.shape:
        raise ConfigError(f"it gives an image of {tuple(sr.shape)}, and torch one of {tuple(eager.shape)}")
    return float((sr - eager).abs().max() / eager.abs().max().clamp_min(1))


def _seconds(runs: Runs, lr: Tensor) -> float:
    times = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        runs(lr)
        times.append(time.perf_counter() - begun)
    return min(times)
