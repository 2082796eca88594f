"""A network as a graph that other programs run: torch's exported program, and ONNX.

The network must be in its final form (`sr_lab.layers.folding.for_inference`).
"""

import contextlib
import copy
import logging
import operator
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sr_lab.layers.network import min_size_of, num_image_ch, scale_of

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "lr", "sr"  # names in an ONNX graph
_AXES = {0: "batch", 2: "height", 3: "width"}
_SIDES = (49, 55)  # LR pixels of the image used for the export: no multiples of a window or stride
_LARGEST = 2**31 - 1  # the largest integer that every runtime accepts
_NODE = re.compile(r"%\w+[^\n]*call_function\[target=torch\.ops\.(aten\.\w+)")


def random_image(network: nn.Module, size: tuple[int, int], *, batch: int = 1) -> Tensor:
    """A random LR image ``(batch, C, H, W)``, at least as large as the network needs."""
    shape = (batch, num_image_ch(network), *(max(side, min_size_of(network)) for side in size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def exported_program(
    network: nn.Module, *, size: tuple[int, int] | None = None, open_batch: bool = True
) -> torch.export.ExportedProgram:
    """The network as torch's graph, which ``torch.export.save`` writes.

    Args:
        network: A network for images in float32 or float16.
        size: Fixed height and width, for one image; with ``None``, both are dynamic.
        open_batch: Whether the number of images is dynamic too, if the size is.

    Raises:
        Exception: torch cannot export the network; there are many types.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    batch = 2 if open_batch and size is None else 1  # torch would treat a batch of one as a constant
    lr = random_image(network, size or _SIDES, batch=batch)
    lr = lr.to(next((weight.dtype for weight in network.parameters()), lr.dtype))
    open_axes = {axis: torch.export.Dim.DYNAMIC for axis in _AXES if axis or open_batch}
    with _quietly(), torch.no_grad(), _OpenSizes():
        return torch.export.export(network, (lr,), dynamic_shapes=None if size else (open_axes,))


class _OpenSizes(TorchFunctionMode):
    """Replaces operations that torch exports for one image size only, or cannot export to ONNX at all."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, or what replaces it."""
        if func is F.adaptive_max_pool2d:
            return _adaptive_max_pool2d(*args)
        if func is F.interpolate and kwargs and kwargs.get("mode") == "nearest" and kwargs.get("size"):
            return _nearest(args[0], kwargs["size"])
        return func(*args, **(kwargs or {}))


def _adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    """``F.adaptive_max_pool2d``: cells differ in length and may overlap, so their pixels are gathered."""
    for axis, cells in zip((2, 3), size, strict=True):
        side = x.shape[axis]
        cell = torch.arange(cells, device=x.device)
        first, last = cell * side // cells, ((cell + 1) * side - 1) // cells
        step = torch.arange((side + cells - 1) // cells + 1, device=x.device)  # ONNX rounds towards zero
        pixels = torch.minimum(first[:, None] + step, last[:, None])
        gathered = x.index_select(axis, pixels.flatten())
        x = torch.unflatten(gathered, axis, (cells, step.shape[0])).amax(axis + 1)
    return x


def _nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour ``F.interpolate`` to a given size; ONNX leaves its rounding to the runtime."""
    for axis, length in zip((2, 3), size, strict=True):
        places = torch.arange(length, device=x.device).float() * (x.shape[axis] / length)
        x = x.index_select(axis, places.floor().long())
    return x


def onnx_model(
    network: nn.Module, *, size: tuple[int, int] | None = None, open_batch: bool = True
) -> "onnx.ModelProto":
    """The network as an ONNX model with the input ``lr`` and the output ``sr``; see `exported_program`."""
    program = exported_program(network, size=size, open_batch=open_batch)
    # From opset 19 on, onnxruntime pools slowly (IMFM takes three times as long); GELU, which OSFFNet
    # contains, needs opset 20.
    operations = {node.target for node in program.graph.nodes}
    opset = 18 if torch.ops.aten.avg_pool2d.default in operations else None
    with _quietly(), torch.no_grad():
        graph = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=_translations(),
        )
    assert graph is not None
    model = graph.model_proto
    _tidy(model, scale_of(network))
    return model


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operations of our networks that torch's exporter cannot convert for a dynamic height and width."""
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18  # its types do not allow untyped arguments

    def remainder(self: Any, other: Any) -> Any:
        """``index % length``, where the length may depend on the image."""
        return op.Mod(self, op.CastLike(other, self))

    def floor_divide(self: Any, other: Any) -> Any:
        """``length // 4`` rounds down; ONNX rounds towards zero, which differs for ``-length // 4``."""
        divisor = op.CastLike(other, self)
        return op.Div(op.Sub(self, op.Mod(self, divisor)), divisor)

    def right_shift(self: Any, other: int) -> Any:
        """``length >> 3``."""
        return op.Div(self, op.Constant(value_int=1 << other))

    def upsample_bicubic2d_aa(
        self: Any, output_size: Any, align_corners: bool, scales_h: Any = None, scales_w: Any = None
    ) -> Any:
        """Bicubic resizing in float32, since no runtime has a cubic kernel in float64."""
        size = op.Concat(op.Shape(self, start=0, end=2), op.Cast(output_size, to=TensorProto.INT64), axis=0)
        larger = op.Resize(
            op.Cast(self, to=TensorProto.FLOAT),
            None,
            None,
            size,
            mode="cubic",
            coordinate_transformation_mode="half_pixel",
            cubic_coeff_a=-0.5,
            antialias=1,
            exclude_outside=1,
        )
        return op.CastLike(larger, self)

    aten = torch.ops.aten
    return {
        aten._upsample_bicubic2d_aa.default: upsample_bicubic2d_aa,
        aten.remainder.Scalar: remainder,
        operator.floordiv: floor_divide,
        operator.rshift: right_shift,
    }


def _tidy(model: "onnx.ModelProto", scale: int | None) -> None:
    """Adapt a model to runtimes other than the one that torch's exporter targets, and name its axes."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    # A computed length may be zero, e.g. of a split's last part; a literal zero keeps the input's length.
    copying = {t.name for t in graph.initializer if not numpy_helper.to_array(t).all()}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] not in copying:
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("allowzero", 1)])
    for tensor in graph.initializer:  # torch writes 2**63 - 1 for the end of a slice
        if tensor.data_type == onnx.TensorProto.INT64:
            values = numpy_helper.to_array(tensor)
            if values.size and abs(values).max() > _LARGEST:
                tensor.CopyFrom(numpy_helper.from_array(values.clip(-_LARGEST, _LARGEST), tensor.name))
    del graph.value_info[:]  # shapes inside the graph, under the exporter's names of the axes
    for value, factor in ((graph.input[0], 1), (graph.output[0], scale or 1)):
        for axis, name in _AXES.items():
            length = value.type.tensor_type.shape.dim[axis]
            if not length.HasField("dim_value"):
                length.dim_param = name if axis == 0 or factor == 1 else f"{factor}*{name}"


def is_static(model: "onnx.ModelProto") -> bool:
    """Whether no shape in a model depends on the image; NPUs, and TensorRT without profiles, need this."""
    computed = {"Shape", "Size", "NonZero", "If", "Loop", "Scan", "Range", "Unique"}
    lengths = (
        length
        for value in (*model.graph.input, *model.graph.output)
        for length in value.type.tensor_type.shape.dim
    )
    return all(length.HasField("dim_value") for length in lengths) and not any(
        node.op_type in computed for node in model.graph.node
    )


def opset_of(model: "onnx.ModelProto") -> int:
    """The version of ONNX's operations that a model uses."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def why(error: BaseException) -> str:
    """The first cause of a failed export in one line, without the pages of text that torch adds.

    Names the operation that failed, if torch names it.
    """
    operation = ""
    while True:
        found = _NODE.search(str(error))
        operation = found[1] if found else operation
        if error.__cause__ is None:
            break
        error = error.__cause__
    said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    said = textwrap.shorten(said, 160, placeholder=" ...") or type(error).__name__
    return f"{operation}: {said}" if operation and operation not in said else said


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence torch's exporter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
