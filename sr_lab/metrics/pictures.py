"""PSNR and SSIM of image files made by any program, computed as the protocols compute them."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from sr_lab.datasets.images import image_size, is_grey, list_images, loses_depth, open_image, read_image
from sr_lab.datasets.names import Pairs, of_role, pairs, scale_of_result
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.metrics import SSIM_WINDOW
from sr_lab.protocol import PROTOCOLS, Protocol

Colour: TypeAlias = Literal["y", "rgb"]

_SHOWN = 3  # maximum number of files that an error lists

# Ways to measure a result whose LR image is unknown; here ``rgb_double`` would equal ``rgb_uint8``.
_WAYS = (PROTOCOLS["rgb_uint8"], PROTOCOLS["classic_y"], Protocol(name="rgb", colour="rgb"))


class Figures(NamedTuple):
    """PSNR in dB, ``inf`` for equal images, and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns.

    Args:
        images: Name of each HR image -> name of each way of measuring -> PSNR and SSIM.
        ways: The ways of measuring by name; the first is the one that most papers use.
        scale: Upscaling factor.
        is_assumed: Whether ``default_scale`` was used.
    """

    images: dict[str, dict[str, Figures]]
    ways: dict[str, Protocol]
    scale: int
    is_assumed: bool = False

    @property
    def mean(self) -> dict[str, Figures]:
        """Means over the images, for each way of measuring."""
        return {
            way: Figures(
                *map(statistics.fmean, zip(*(own[way] for own in self.images.values()), strict=True))
            )
            for way in self.ways
        }


def measure(
    sr: str | Path,
    hr: str | Path,
    *,
    scale: int | None = None,
    crop: int | None = None,
    colour: Colour | None = None,
    default_scale: int | None = None,
) -> Measurement:
    """Measure images made by any program, as 8-bit RGB, against HR images.

    Args:
        sr: An image, or a folder of images.
        hr: Its HR image, or a folder; images are paired by their names (`sr_lab.datasets.names`). An HR image
            may be larger: it is cropped at the right and bottom to a multiple of ``scale``.
        scale: Upscaling factor; ``None``: read from the names.
        crop: Pixels dropped at every edge; ``None``: as many as the scale.
        colour: Measure only on luma (``y``) or only on RGB (``rgb``).
        default_scale: The scale used if neither ``scale`` nor the names give one; with ``None``, a missing
            scale is an error.

    Raises:
        ConfigError: The scale is unknown or contradicts the names, or ``crop`` or ``colour`` is not allowed.
        DataError: A file or folder is missing, empty or broken, an image has no counterpart or more than one,
            or the sizes differ.
    """
    if scale is not None and (not isinstance(scale, int) or scale < 1):
        raise ConfigError(f"measure: scale must be a whole number of at least 1, got {scale!r}")
    if crop is not None and (not isinstance(crop, int) or crop < 0):
        raise ConfigError(f"measure: crop must be a whole number of at least 0, got {crop!r}")
    found = _paired(Path(sr).expanduser(), Path(hr).expanduser(), scale)
    named = _scale(found, scale)
    factor = default_scale if named is None else named
    if factor is None:
        raise ConfigError("measure: the names of the images do not give one scale; set scale")
    border = factor if crop is None else crop
    ways = {way.name: way for way in _ways(crop, colour, factor)}
    cropped = {name: replace(way, crop=border) for name, way in ways.items()}
    for hr_file, sr_file in found.items():
        _refuse_depth(sr_file)
        _refuse_depth(hr_file)
        _check_size(sr_file, hr_file, factor, border)
    images = {hr_file.stem: _figures(sr_file, hr_file, cropped) for hr_file, sr_file in found.items()}
    return Measurement(images, ways, factor, is_assumed=named is None)


def _paired(sr: Path, hr: Path, scale: int | None) -> dict[Path, Path]:
    """HR image -> the image to measure."""
    if sr.is_file() and hr.is_file():
        return {hr: sr}
    hr_files, sr_files = of_role(list_images(hr), "HR"), list_images(sr)
    if sr.samefile(hr):
        sr_files = of_role(sr_files, "SR")
    found = pairs(hr_files, sr_files, scale)
    if scale is not None and not found.found and (any_scale := pairs(hr_files, sr_files)).found:
        found = any_scale  # `_scale` says which scale the names have
    if found.doubtful:
        raise DataError(f"measure: {found.doubtful[0]}; remove or rename all but one")
    _refuse_unpaired(found, sr, hr)
    return found.found


def _refuse_unpaired(found: Pairs, sr: Path, hr: Path) -> None:
    unpaired = [f"no HR image for {_names(found.left)} in {sr}"] if found.left else []
    unpaired += [f"no image in {sr} for {_names(found.lonely)} in {hr}"] if found.lonely else []
    if unpaired:
        raise DataError(
            f"measure: there is {' and '.join(unpaired)}; images are paired by name, e.g. baby with "
            "babyx4 or baby_SR; rename or remove the unpaired ones"
        )


def _names(files: list[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(file.name for file in files[:_SHOWN]) + more


def _scale(found: Mapping[Path, Path], given: int | None) -> int | None:
    """The given scale, which the names must not contradict, or the names' scale; ``None`` if unknown."""
    said = {sr: scale for hr, sr in found.items() if (scale := scale_of_result(sr.stem, hr.stem))}
    other = next((sr for sr, scale in said.items() if scale != (given or next(iter(said.values())))), None)
    if other is None:
        return given or next(iter(said.values()), None)
    if given is None:
        first = next(iter(said))
        raise ConfigError(
            f"measure: according to their names, {first} is x{said[first]} and {other} is x{said[other]}; "
            "measure one scale at a time"
        )
    raise ConfigError(
        f"measure: {other} is x{said[other]} according to its name, got scale={given}; "
        f"set scale={said[other]}"
    )


def _ways(crop: int | None, colour: Colour | None, scale: int) -> list[Protocol]:
    if colour not in (None, "y", "rgb"):
        raise ConfigError(f"measure: unknown colour={colour!r}; allowed: y, rgb")
    ways = [way for way in _WAYS if colour in (None, way.colour)]
    if crop in (None, scale):
        return ways
    return [replace(way, name=f"{way.name} crop={crop}", crop=crop) for way in ways]


def _check_size(sr_file: Path, hr_file: Path, scale: int, border: int) -> None:
    sr, hr = image_size(sr_file), image_size(hr_file)
    cut = (hr[0] - hr[0] % scale, hr[1] - hr[1] % scale)
    if sr not in (hr, cut):
        or_cut = f" or, cut to multiples of {scale}, {cut[1]}x{cut[0]}" if cut != hr else ""
        raise DataError(
            f"measure: {sr_file} is {sr[1]}x{sr[0]} pixels (width x height), but {hr_file} is "
            f"{hr[1]}x{hr[0]}; the image must be {hr[1]}x{hr[0]}{or_cut}"
        )
    need = SSIM_WINDOW + 2 * border
    if min(sr) < need:
        raise DataError(
            f"measure: {sr_file} is {sr[1]}x{sr[0]} pixels; measuring with {border} pixels cropped at every "
            f"edge needs {need}x{need}, so remove the image or lower crop"
        )


def _refuse_depth(file: Path) -> None:
    """Refuse 16-bit files: reading would truncate them to 8 bits, while the protocols round."""
    with open_image(file) as image:
        if image.mode.startswith("I;16") or loses_depth(image):
            raise DataError(
                f"measure: {file} has 16 bits, but the protocols compare 8-bit images; "
                "round it to 8 bits first"
            )


def _figures(sr_file: Path, hr_file: Path, ways: Mapping[str, Protocol]) -> dict[str, Figures]:
    sr, hr = _planes(sr_file), _planes(hr_file)
    hr, grey = hr[..., : sr.shape[2], : sr.shape[3]], is_grey(hr_file)
    found = {}
    for name, way in ways.items():
        # With a scale of 1, nothing more is cropped: the sizes match, and the border is given in pixels.
        psnr, ssim = way.measure(sr.double() / 255, hr, 1, grey=grey)
        found[name] = Figures(psnr.item(), ssim.item())
    return found


def _planes(file: Path) -> Tensor:
    return torch.from_numpy(read_image(file)).permute(2, 0, 1)[None]
