"""The model card next to exported files: Markdown that says what a network is, and how to load it."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from sr_lab.inference.exports import Exported, Format
from sr_lab.layers.folding import for_inference
from sr_lab.layers.network import colour_of, min_size_of
from sr_lab.ops.complexity import num_params

# These code blocks contain only names that we chose, and no text from an untrusted file.
_LOADING: Mapping[Format, str] = {
    "onnx": """import numpy, onnxruntime

session = onnxruntime.InferenceSession("{file}")
(sr,) = session.run(None, {{"lr": lr}})  # numpy.{dtype}, (N, {channels}, H, W)""",
    "pt2": """import torch

network = torch.export.load("{file}").module()
sr = network(lr)  # torch.float32, (N, {channels}, H, W)""",
    "safetensors": """import sr_lab

network = sr_lab.load("{file}")
sr_lab.upscale("photo.png", network).save("large.png")""",
    "official": """import torch

state = torch.load("{file}", weights_only=True)
network.load_state_dict(state)  # the network of its authors' code""",
}
_COLOUR = {
    "rgb": "RGB, 3 channels",
    "y": "luma in the studio range (16..235 of 255), 1 channel",
    "any": "any number of channels, each upscaled on its own; the graph takes 3",
}


def image_facts(network: nn.Module, size: tuple[int, int] | None) -> dict[str, str]:
    """What a caller must know about the network's images; also the metadata of an ONNX file."""
    shape = f"1 image of {size[1]}x{size[0]} (width x height)" if size else "any number, height and width"
    return {
        "input_range": "0..1",
        "output_range": "0..1, not clipped",
        "layout": "NCHW",
        "colour": _COLOUR[colour_of(network)],
        "size": f"{shape}; at least {min_size_of(network)} pixels a side" if not size else shape,
    }


def _parameters(network: nn.Module) -> str:
    """Parameters of the folded network, as in tables, and of the trained form if it has more."""
    folded, trained = (num_params(form) for form in (for_inference(network), network))
    return f"{folded}" if folded == trained else f"{folded}, and {trained} in training"


def model_card(
    name: str,
    network: nn.Module,
    scale: int,
    exported: Mapping[Format, tuple[Path, Exported]],
    sections: Mapping[str, Sequence[str]],
    *,
    size: tuple[int, int] | None,
    dtype: str,
) -> str:
    """The card.

    Args:
        name: Name of the files.
        network: The network.
        scale: Upscaling factor.
        exported: The files.
        sections: Further sections, each with its lines of Markdown: origin, training, measured values.
        size: Height and width of the LR image, if the graphs have fixed sizes.
        dtype: Type of the ONNX graph.
    """
    documented = (sys.modules[type(network).__module__].__doc__ or "").strip().split("\n\n")[0]
    lines = [f"# {name}", "", f"{type(network).__name__}, x{scale}: {' '.join(documented.split())}", ""]
    lines += [f"* parameters: {_parameters(network)}"]
    lines += [f"* {key.replace('_', ' ')}: {value}" for key, value in image_facts(network, size).items()]
    lines += ["", "## Files", "", "| file | bytes | SHA-256 |", "|---|---|---|"]
    for path, file in exported.values():
        digest = hashlib.sha256(file.content).hexdigest()
        lines.append(f"| `{path.name}` | {len(file.content)} | `{digest}` |")
    for kind, (path, file) in exported.items():
        lines += ["", f"### {path.name}", "", *(f"* {fact}" for fact in file.facts), "", "```python"]
        channels = 1 if colour_of(network) == "y" else 3
        lines += [_LOADING[kind].format(file=path.name, dtype=dtype, channels=channels), "```"]
    for title, said in sections.items():
        lines += ["", f"## {title}", "", *said]
    return "\n".join(lines) + "\n"
