"""The way in from Python: ``sr_lab.load`` and ``sr_lab.upscale``."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from sr_lab import catalogue, targets
from sr_lab.backends import Backend, Engine, run_by
from sr_lab.catalogue import Entry
from sr_lab.checkpoints import Checkpoint, load_weights, open_checkpoint
from sr_lab.config import StoredNetwork
from sr_lab.datasets.images import FORMATS, check_single
from sr_lab.errors import ConfigError, DataError
from sr_lab.inference import Tile, Tiled, enlarge
from sr_lab.layers.folding import for_inference

Pixels = TypeVar("Pixels", Image.Image, NDArray[np.generic], Tensor)


def load(path_or_name: str | Path, *, scale: int | None = None, backend: Backend = "eager") -> nn.Module:
    """A network for images, in evaluation mode on the CPU.

    Args:
        path_or_name: A run folder, a checkpoint of ours, a safetensors file or an author's own checkpoint,
            whose network and scale are found out; or the name of a network (``imdn``), which comes with
            fresh weights. Where a folder has the name of a network, write ``./imdn`` for the folder.
        scale: Upscaling factor; needed for a name, and for a checkpoint that fits several scales.
        backend: Who computes it, see `sr_lab.backends.run_by`; all but ``eager`` are for inference alone.

    Returns:
        ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``, not clamped; ``colour`` says which channels.

    Raises:
        CheckpointError: The file is missing, unsafe, damaged, of a network that is not ours, or of another
            scale.
        ConfigError: An unknown name, a name without scale, a scale that a checkpoint of ours denies, or a
            backend that is not installed or does not run the network.
    """
    network = _opened(str(path_or_name), scale)
    if backend == "eager":
        return network  # as it was trained: it can be trained on
    cache_dir = Path(os.environ.get("SR_LAB_CACHE", "~/.cache/sr_lab")).expanduser()
    return run_by(network, backend, cache_dir=cache_dir)


def _opened(name: str, scale: int | None) -> nn.Module:
    """What `load` gives, as torch computes it."""
    if scale is not None and (not isinstance(scale, int) or scale < 2):
        raise ConfigError(f"load: scale must be a whole number of at least 2, got {scale!r}")
    if name in catalogue.options() or ("/" not in name and "." not in name and not Path(name).exists()):
        if scale is None:
            raise ConfigError(f"load: a network needs its scale, got '{name}'; pass scale=2, 3 or 4")
        return Entry(name, scale).build().eval()
    checkpoint = open_checkpoint(name, "load")
    if checkpoint.record is not None:
        network = _stored(checkpoint, checkpoint.record, scale)
    else:
        network = catalogue.recognised(checkpoint, scale, key="load").build()
    load_weights(network, checkpoint)
    return network.eval()


def _stored(checkpoint: Checkpoint, record: Mapping[str, object], scale: int | None) -> nn.Module:
    """The network that a checkpoint of ours says it holds."""
    stored = StoredNetwork.read(record, str(checkpoint.path))
    if scale not in (None, stored.scale):
        raise ConfigError(f"load: '{checkpoint.path}' is for scale={stored.scale}, got scale={scale}")
    network: nn.Module = targets.build(stored.model)
    if stored.strategy.apply is not None:
        network = targets.build(stored.strategy.apply)(network)
    return network


Progress: TypeAlias = Callable[[float], object]


@overload
def upscale(
    image: str | Path, model: nn.Module, *, tile: Tile = ..., progress: Progress | None = ...
) -> Image.Image: ...
@overload
def upscale(
    image: Pixels, model: nn.Module, *, tile: Tile = ..., progress: Progress | None = ...
) -> Pixels: ...
def upscale(
    image: object, model: nn.Module, *, tile: Tile = "auto", progress: Progress | None = None
) -> object:
    """Enlarge one image with a network from `load`, in tiles where it is too large to be taken whole.

    Args:
        image: A file; a Pillow image (grey or colour, transparency is kept and enlarged bicubically); an
            array ``(H, W)``, ``(H, W, 3)`` of uint8, uint16 or floats in [0, 1]; or a floating tensor
            ``(C, H, W)`` or ``(N, C, H, W)`` in [0, 1] with 1 or 3 channels.
        model: The network; its device is used. It stays as it is: a folded copy runs where that is faster.
        tile: See `sr_lab.inference.Tiled`, which ``model`` may be already.
        progress: Told the share of the image that is done, after each tile; not of a tensor.

    Returns:
        The same kind of image, ``scale`` times as large, whole values rounded half up; of a file a Pillow
        image.

    Raises:
        DataError: The image is none of these.
        ConfigError: The tile is too small for the network.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"upscale: model must be a network, got {type(model).__name__}; load it first")
    if not isinstance(model, Tiled):
        runs, like = (model, model.network) if isinstance(model, Engine) else (for_inference(model), model)
        model = Tiled(runs, tile=tile, like=like)
    told = progress if progress is not None else lambda _: None
    if isinstance(image, (str, Path)):
        return _pillow(_read(image), model, told)
    if isinstance(image, Image.Image):
        return _pillow(image, model, told)
    if isinstance(image, np.ndarray):
        return _array(image, model, told)
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim in (3, 4):
        batch = image if image.ndim == 4 else image[None]
        if batch.shape[1] in (1, 3) and batch.numel():
            _check_range(batch.amin().item(), batch.amax().item())
            sr = enlarge(model, batch).to(image.dtype)
            return sr if image.ndim == 4 else sr[0]
    what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"upscale: cannot enlarge {what}; allowed: a file, a Pillow image, an array (H, W) or (H, W, 3), "
        "a floating tensor (C, H, W) or (N, C, H, W) with 1 or 3 channels"
    )


def _read(path: str | Path) -> Image.Image:
    """An image file as Pillow gives it, upright."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_single(path, image)
            return ImageOps.exif_transpose(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many types for broken files
        raise DataError(f"upscale: cannot read '{path}': {error}; give an image file") from error


def _check_range(lowest: float, highest: float) -> None:
    """Refuse floating values that are no image in [0, 1]; NaN fails every comparison."""
    if not (lowest >= -1e-3 and highest <= 1 + 1e-3):
        raise DataError(
            f"upscale: floating images have values in [0, 1], got {lowest:g} to {highest:g}; "
            "divide 8-bit values by 255"
        )


def _array(image: NDArray[np.generic], model: Tiled, progress: Progress) -> NDArray[np.generic]:
    is_image = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size > 0
    if not is_image or not (np.issubdtype(image.dtype, np.floating) or image.dtype in _PEAKS):
        raise DataError(
            f"upscale: cannot enlarge an array of {image.dtype} with shape {image.shape}; "
            "allowed: (H, W) or (H, W, 3) of uint8, uint16 or floats in [0, 1]"
        )
    if image.dtype not in _PEAKS:
        _check_range(float(image.min()), float(image.max()))
    height, width = (size * model.scale for size in image.shape[:2])
    sr = np.empty((height, width, *image.shape[2:]), image.dtype)
    for (rows, columns), part in _parts(image, model, progress):
        sr[rows, columns] = part
    return sr


_PEAKS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def _parts(
    image: NDArray[np.generic], model: Tiled, progress: Progress
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.generic]]]:
    """Where in the SR image, and what: of the type of ``image``, so that no float image is ever whole."""
    peak = _PEAKS.get(image.dtype, 1)
    pieces = model.pieces(*image.shape[:2])
    for number, piece in enumerate(pieces, start=1):
        values = np.atleast_3d(image[piece.read]).astype(np.float64)
        pixels = torch.from_numpy(values).permute(2, 0, 1)[None] / peak
        levels = enlarge(model.network, pixels)[0].permute(1, 2, 0)[piece.keep].double()
        sr = (levels if peak == 1 else levels.mul_(peak).add_(0.5).floor_()).numpy()
        yield piece.write, sr.astype(image.dtype).reshape(*sr.shape[:2], *image.shape[2:])
        progress(number / len(pieces))


# Modes that become RGB without losing more than a printer's ink; "I" and "F" have no known range.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def _pillow(image: Image.Image, model: Tiled, progress: Progress) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_array(np.asarray(image).astype(np.uint16), model, progress))
    if image.mode not in _MODES:
        raise DataError(
            f"upscale: cannot enlarge a Pillow image of mode {image.mode}, whose range is unknown; "
            f"allowed: {', '.join(_MODES)}, I;16; or pass an array"
        )
    grey = image.mode in ("1", "L", "LA", "La")
    layer = image.convert("RGBA") if image.has_transparency_data else image
    colours = layer.convert("L" if grey else "RGB")
    sr = Image.new(colours.mode, (image.width * model.scale, image.height * model.scale))
    for (rows, columns), part in _parts(np.asarray(colours), model, progress):
        sr.paste(Image.fromarray(part), (columns.start or 0, rows.start or 0))
    if layer is not image:
        sr.putalpha(layer.getchannel("A").resize(sr.size, Image.Resampling.BICUBIC))
    if image.mode != "CMYK" and "icc_profile" in image.info:  # what the colours mean
        sr.info["icc_profile"] = image.info["icc_profile"]
    return sr
