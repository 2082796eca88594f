"""The Python interface: ``sr_lab.compose``, ``load``, ``upscale``, ``measure`` and ``export``."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, overload
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from sr_lab.checkpoints.opening import open_network
from sr_lab.config import compose as composing
from sr_lab.config.identity import register_resolvers
from sr_lab.config.networks import model_options
from sr_lab.config.schema import Config, ExportConfig
from sr_lab.datasets.images import loses_depth, open_image
from sr_lab.errors import ConfigError, DataError
from sr_lab.inference import pictures
from sr_lab.inference.backends import BackendName, BackendNetwork, run_by
from sr_lab.inference.exports import DType, Format
from sr_lab.inference.pictures import PEAKS, Note, Progress
from sr_lab.inference.tiling import Tile, Tiled
from sr_lab.inference.upscaling import upscale_batch
from sr_lab.layers.folding import for_inference
from sr_lab.metrics.pictures import measure
from sr_lab.zoo import shipped

__all__ = ["compose", "export", "load", "measure", "upscale"]

Pixels = TypeVar("Pixels", Image.Image, NDArray[np.generic], Tensor)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def compose(*overrides: str, config_dir: str | Path | None = None) -> Config:
    """The configuration of a command, from which `sr_lab.checkpoints.opening.build_network` builds a network.

    Args:
        *overrides: What the command line would say, e.g. ``"model=imdn", "scale=2", "allow=[mypkg]"``.
        config_dir: A folder with options of your own, as ``--config-dir``.

    Raises:
        ConfigError: A setting is invalid.
    """
    register_resolvers()
    return composing.compose(overrides, None if config_dir is None else Path(config_dir))


def load(
    path_or_name: str | Path | None = None,
    *,
    scale: int | None = None,
    backend: BackendName = "eager",
    allow: Sequence[str] = (),
    note: Note = _warn,
) -> nn.Module:
    """Load a network in evaluation mode on the CPU.

    Args:
        path_or_name: A run folder, our own checkpoint, a safetensors file or an official checkpoint, whose
            network and scale are recognised; or the name of a network (``imdn``) for fresh weights. Write
            ``./imdn`` for a folder that has the name of a network. ``None``: the weights in the package.
        scale: Upscaling factor; needed for a name, and for a checkpoint that fits several scales.
        backend: What runs the network, see `sr_lab.inference.backends.run_by`; all backends but ``eager`` are
            for inference only.
        allow: Your own packages whose classes a checkpoint may name, as ``allow=`` on the command line.
        note: Called with a sentence if the scale was taken from the file's name or contradicts the name (the
            weights of some networks have the same shapes at several scales), or if the weights are in half
            precision. The default issues a warning.

    Returns:
        The network: ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``, not clamped; its ``colour`` names the
        channels.

    Raises:
        CheckpointError: The file is missing, unsafe, damaged, or for an unknown network or another scale.
        ConfigError: The name is unknown or comes without a scale, the scale differs from our checkpoint's, or
            the backend is not installed or does not run the network.
    """
    if scale is not None and (not isinstance(scale, int) or scale < 2):
        raise ConfigError(f"load: scale must be a whole number of at least 2, got {scale!r}")
    if isinstance(allow, str):
        raise ConfigError(f"load: allow must be a list of packages, got {allow!r}; write allow=[{allow!r}]")
    if path_or_name is None:
        path_or_name = shipped.default(scale, key="load", command='sr_lab.load("{}")'.format)
    network = open_network(str(path_or_name), scale, note, allow)
    if backend == "eager":
        return network  # not folded, so that it can be trained further
    cache_dir = Path(os.environ.get("SR_LAB_CACHE", "~/.cache/sr_lab")).expanduser()
    return run_by(network, backend, cache_dir=cache_dir)


def export(
    model: nn.Module | str | Path,
    output: str | Path,
    *,
    format: Format | Sequence[Format] = "onnx",
    name: str | None = None,
    scale: int | None = None,
    size: tuple[int, int] | None = None,
    dtype: DType = "float32",
    overwrite: bool = False,
    allow: Sequence[str] = (),
    note: Note = _warn,
) -> list[Path]:
    """Write a network in formats that other programs open, with a model card, as ``task=export`` does.

    Args:
        model: What `load` takes, or a network. The settings of a network without a checkpoint are
            unknown, so it is not written as ``safetensors``, and its card says nothing about its origin.
        output: Folder of the files, ``imdn_x4.onnx`` and so on, and of the card ``imdn_x4.md``.
        format: ``onnx``, ``pt2``, ``safetensors``, ``official``, or several.
        name: Name of the files; ``None``: network and scale, as in ``imdn_x4``.
        scale: Upscaling factor; needed for a checkpoint that fits several scales.
        size: Fixed height and width of the LR image; ``None`` for a dynamic batch and size.
        dtype: Type of an ONNX graph.
        overwrite: Replace files of these names.
        allow: Your own packages whose classes a checkpoint may name.
        note: Called with a sentence about what the weights do not determine, such as the scale, and for each
            format that failed while others were written. The default issues a warning.

    Returns:
        The files, and last the card.

    Raises:
        CheckpointError: See `load`.
        ConfigError: See `load`; or a file exists, a setting is invalid, or no format could be written.
    """
    from sr_lab.tasks import export as exporting  # imports what only tasks need

    kinds = [format] if isinstance(format, str) else list(format)
    listed = kinds[0] if len(kinds) == 1 else f"[{','.join(kinds)}]"
    words = ["task=export", "output=exported", f"format={listed}", f"dtype={dtype}"]
    words += [f"size={size[0]}x{size[1]}"] if size is not None else []
    words += [f"scale={scale}"] if scale is not None else []
    words += [f"name={name}"] if name is not None else []
    is_bare = isinstance(model, str) and model in model_options()  # a network without weights, e.g. bicubic
    words += [f"model={model}"] if is_bare else []
    config = composing.compose(words)
    assert isinstance(config, ExportConfig)
    given = {"output": str(output), "overwrite": overwrite, "allow": list(allow)}
    ckpt = None if is_bare or isinstance(model, nn.Module) else str(model)
    config = config.model_copy(update={**given, "ckpt": ckpt})
    source = exporting.bare_source(model, config) if isinstance(model, nn.Module) else None
    source = source or exporting.source_of(config, words, note)
    written = exporting.export(source, config, say=lambda fact: None)
    for failed in written.failed:
        note(str(failed))
    return [*written.files.values(), written.card]


@overload
def upscale(
    image: str | Path,
    model: nn.Module,
    *,
    tile: Tile = ...,
    progress: Progress | None = ...,
    note: Note = ...,
) -> Image.Image: ...
@overload
def upscale(
    image: Pixels, model: nn.Module, *, tile: Tile = ..., progress: Progress | None = ..., note: Note = ...
) -> Pixels: ...
def upscale(
    image: object,
    model: nn.Module,
    *,
    tile: Tile = "auto",
    progress: Progress | None = None,
    note: Note = _warn,
) -> object:
    """Upscale one image with a network from `load`, in tiles if it is too large to process at once.

    Args:
        image: A file; a Pillow image (grey or colour; transparency is kept and upscaled bicubically); an
            array ``(H, W)`` or ``(H, W, 3)`` of uint8, uint16 or floats in [0, 1]; or a floating-point
            tensor ``(C, H, W)`` or ``(N, C, H, W)`` in [0, 1] with 1 or 3 channels.
        model: The network, which runs on its own device and stays unchanged: where a folded copy is faster,
            the copy runs, and is cached until the weights or modules of the network change.
        tile: See `sr_lab.inference.tiling.Tiled`; ``model`` may also be a `Tiled`.
        progress: Called with the finished share of the image after each tile; not called for a tensor.
        note: Called with a sentence if the result has a lower bit depth than the image (Pillow has only 8-bit
            colours), or lacks the image's colour profile. The default issues a warning.

    Returns:
        An image of the same kind, ``scale`` times as large, with integers rounded half up; for a file, a
        Pillow image.

    Raises:
        DataError: The image is of none of these kinds, or has values outside [0, 1].
        ConfigError: The tile is too small for the network.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"upscale: model must be a network, got {type(model).__name__}; load it first")
    if not isinstance(model, Tiled):
        runs, like = (model, model.network) if isinstance(model, BackendNetwork) else (_merged(model), model)
        model = Tiled(runs, tile=tile, like=like)
    done = progress if progress is not None else lambda _: None
    if isinstance(image, (str, Path)):
        with open_image(image) as opened:
            is_deep = loses_depth(opened)
            photograph = ImageOps.exif_transpose(opened)
            photograph.load()
        return _pillow(photograph, model, done, note, is_deep=is_deep)
    if isinstance(image, Image.Image):
        return _pillow(image, model, done, note, is_deep=loses_depth(image))
    if isinstance(image, np.ndarray):
        return _array(image, model, done)
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim in (3, 4):
        batch = image if image.ndim == 4 else image[None]
        if batch.shape[1] in (1, 3) and batch.numel():
            _check_range(batch.amin().item(), batch.amax().item())
            sr = upscale_batch(model, batch).to(image.dtype)
            return sr if image.ndim == 4 else sr[0]
    what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"upscale: cannot upscale {what}; allowed: a file, a Pillow image, an array (H, W) or (H, W, 3), "
        "a floating-point tensor (C, H, W) or (N, C, H, W) with 1 or 3 channels"
    )


_State: TypeAlias = tuple[list[tuple[object, ...]], list[Tensor]]
_known: WeakKeyDictionary[nn.Module, tuple[_State, nn.Module | None]] = WeakKeyDictionary()


def _merged(network: nn.Module) -> nn.Module:
    """The folded network; folding takes longer than upscaling a small image, so it is cached.

    Values are compared, since a tensor's version counter misses writes through ``.data``.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    names: list[tuple[object, ...]] = [
        (key, value.dtype, value.device, value.shape) for key, value in tensors
    ]
    names += [(id(module),) for module in network.modules()]
    (names_before, values), merged = _known.get(network, (([], []), None))
    if names != names_before or not all(map(torch.equal, (value for _, value in tensors), values)):
        merged = for_inference(network)
        values = [value.detach().clone() for _, value in tensors]
        # An entry whose value refers to its key would never be freed.
        _known[network] = (names, values), None if merged is network else merged
    return network if merged is None else merged


def _check_range(lowest: float, highest: float) -> None:
    """Refuse values outside of [0, 1], and NaN, which fails every comparison."""
    if not (lowest >= -1e-3 and highest <= 1 + 1e-3):
        raise DataError(
            f"upscale: floating-point images must have values in [0, 1], got {lowest:g} to {highest:g}; "
            "divide 8-bit values by 255"
        )


def _array(image: NDArray[np.generic], model: Tiled, progress: Progress) -> NDArray[np.generic]:
    is_image = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size > 0
    if not is_image or not (np.issubdtype(image.dtype, np.floating) or image.dtype in PEAKS):
        raise DataError(
            f"upscale: cannot upscale an array of {image.dtype} with shape {image.shape}; "
            "allowed: (H, W) or (H, W, 3) of uint8, uint16 or floats in [0, 1]"
        )
    if image.dtype not in PEAKS:
        _check_range(float(image.min()), float(image.max()))
    return pictures.whole(image, model, progress)


def _pillow(
    image: Image.Image, model: Tiled, progress: Progress, note: Note, *, is_deep: bool
) -> Image.Image:
    picture = pictures.of_pillow(image)
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and profile is not None:
        note(pictures.CMYK_NOTE)
        profile = None
    if picture.colours.dtype == np.uint16:
        return _with_profile(Image.fromarray(pictures.whole(picture.colours, model, progress)), profile)
    if is_deep or image.mode.startswith("I;16"):
        note("16 bits become 8: Pillow supports 16 only for opaque grey images; pass an array to keep all 16")
    size = image.width * model.scale, image.height * model.scale
    sr = Image.new("L" if picture.colours.ndim == 2 else "RGB", size)
    for (rows, columns), part in pictures.parts(pictures.seen(picture), model, progress):
        sr.paste(Image.fromarray(part), (columns.start or 0, rows.start or 0))
    if picture.alpha is not None:
        sr.putalpha(Image.fromarray(pictures.larger_alpha(picture.alpha, model.scale)))
    return _with_profile(sr, profile)


def _with_profile(sr: Image.Image, profile: object) -> Image.Image:
    if profile is not None:
        sr.info["icc_profile"] = profile
    return sr
