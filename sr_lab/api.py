"""The way in from Python: ``sr_lab.load`` and ``sr_lab.upscale``."""

from pathlib import Path
from typing import TypeVar, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from sr_lab import catalogue, targets
from sr_lab.catalogue import Entry
from sr_lab.checkpoints import Checkpoint, load_weights, open_checkpoint
from sr_lab.config import Node, check_stored_network
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.inference import enlarge

Pixels = TypeVar("Pixels", Image.Image, NDArray[np.generic], Tensor)


def load(path_or_name: str | Path, *, scale: int | None = None) -> nn.Module:
    """A network for images, in evaluation mode on the CPU.

    Args:
        path_or_name: A run folder, a checkpoint of ours, a safetensors file or an author's own checkpoint,
            whose network and scale are found out; or the name of a network (``imdn``), which comes with
            fresh weights.
        scale: Upscaling factor; needed for a name, and for a checkpoint that fits several scales.

    Returns:
        ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``, not clamped; ``colour`` says which channels.

    Raises:
        CheckpointError: The file is missing, unsafe, damaged, or of a network that is not ours.
        ConfigError: A name without scale, or a scale that the checkpoint does not have.
    """
    if str(path_or_name) in catalogue.options():
        if scale is None:
            raise ConfigError(f"load: a network needs its scale, got '{path_or_name}'; pass scale=2, 3 or 4")
        return Entry(str(path_or_name), scale).build().eval()
    checkpoint = open_checkpoint(str(path_or_name), "load")
    network = _stored(checkpoint, scale) if checkpoint.record is not None else _found(checkpoint, scale)
    load_weights(network, checkpoint)
    return network.eval()


def _stored(checkpoint: Checkpoint, scale: int | None) -> nn.Module:
    """The network that a checkpoint of ours says it holds."""
    record = cast(Node, checkpoint.record)
    if scale not in (None, record.get("scale")):
        raise ConfigError(
            f"load: '{checkpoint.path}' is for scale={record.get('scale')}, got scale={scale}; drop it"
        )
    check_stored_network(record)
    network: nn.Module = targets.build(cast(Node, record["model"]))
    apply = cast("Node | None", cast(Node, record["strategy"]).get("apply"))
    return network if apply is None else cast(nn.Module, targets.build(apply)(network))


def _found(checkpoint: Checkpoint, scale: int | None) -> nn.Module:
    """The network whose weights fit."""
    fitting = catalogue.fitting(checkpoint)
    entries = [entry for entry in fitting if scale in (None, entry.scale)]
    if len(entries) != 1:
        names = ", ".join(map(str, fitting)) or "none"
        raise CheckpointError(
            f"load: '{checkpoint.path}' must fit one network, got scale={scale} and fitting {names}; "
            "pass the scale, or build the network and load its state dict"
        )
    return entries[0].build()


@overload
def upscale(image: str | Path, model: nn.Module) -> Image.Image: ...
@overload
def upscale(image: Pixels, model: nn.Module) -> Pixels: ...
def upscale(image: object, model: nn.Module) -> object:
    """Enlarge one image with a network from `load`.

    Args:
        image: A file; a Pillow image (grey or colour, transparency is kept and enlarged bicubically); an
            array ``(H, W)``, ``(H, W, 3)`` of uint8, uint16 or floats in [0, 1]; or a floating tensor
            ``(C, H, W)`` or ``(N, C, H, W)`` in [0, 1] with 1 or 3 channels.
        model: The network; its device is used.

    Returns:
        The same kind of image, ``scale`` times as large, whole values rounded half up; of a file a Pillow
        image.

    Raises:
        DataError: The image is none of these.
    """
    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                return _pillow(ImageOps.exif_transpose(opened), model)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"upscale: cannot read '{image}': {error}; give an image file") from error
    if isinstance(image, Image.Image):
        return _pillow(image, model)
    if isinstance(image, np.ndarray):
        return _array(image, model)
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim in (3, 4):
        batch = image if image.ndim == 4 else image[None]
        if batch.shape[1] in (1, 3):
            sr = enlarge(model, batch).to(image.dtype)
            return sr if image.ndim == 4 else sr[0]
    what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"upscale: cannot enlarge {what}; allowed: a file, a Pillow image, an array (H, W) or (H, W, 3), "
        "a floating tensor (C, H, W) or (N, C, H, W) with 1 or 3 channels"
    )


def _array(image: NDArray[np.generic], model: nn.Module) -> NDArray[np.generic]:
    peaks = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
    floating = np.issubdtype(image.dtype, np.floating)
    if (
        not (floating or image.dtype in peaks)
        or image.ndim not in (2, 3)
        or image.shape[2:] not in ((), (3,))
    ):
        raise DataError(
            f"upscale: cannot enlarge an array of {image.dtype} with shape {image.shape}; "
            "allowed: (H, W) or (H, W, 3) of uint8, uint16 or floats in [0, 1]"
        )
    peak = 1 if floating else peaks[image.dtype]
    pixels = torch.from_numpy(np.atleast_3d(image).astype(np.float64)).permute(2, 0, 1)[None] / peak
    sr = enlarge(model, pixels)[0].permute(1, 2, 0).double().numpy()
    sr = sr if floating else np.floor(sr * peak + 0.5)
    return cast("NDArray[np.generic]", sr.astype(image.dtype).reshape(*sr.shape[:2], *image.shape[2:]))


def _pillow(image: Image.Image, model: nn.Module) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_array(np.asarray(image).astype(np.uint16), model))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        sr = _pillow(layer.convert("RGB"), model)
        sr.putalpha(layer.getchannel("A").resize(sr.size, Image.Resampling.BICUBIC))
        return sr
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return Image.fromarray(_array(np.asarray(image.convert(mode)), model))
