"""One image upscaled by a network and bicubically: two PNG files, the time, PSNR and SSIM."""

import time
from dataclasses import dataclass
from pathlib import Path

from sr_lab.errors import DataError
from sr_lab.inference.image_file import upscaled_file
from sr_lab.inference.inputs import result_names
from sr_lab.inference.pictures import Progress
from sr_lab.inference.reading import read_info
from sr_lab.inference.tiling import Tiled
from sr_lab.inference.writing import refuse_unwritable, write
from sr_lab.metrics.pictures import Figures, measure
from sr_lab.models.bicubic import Bicubic

PROTOCOL = "rgb_uint8"  # the one that most papers use


@dataclass(frozen=True)
class SideBySide:
    """An image and its two results.

    Args:
        sr: The network's result, ``photo_x4.png``.
        bicubic: The bicubic result.
        lr_size: Height and width of the image.
        seconds: Time of the network, including the time to read the image.
        notes: Sentences about what the results lack, and how the image was tiled.
    """

    sr: Path
    bicubic: Path
    lr_size: tuple[int, int]
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """PSNR and SSIM of both results on luma, and how they were measured."""

    sr: Figures
    bicubic: Figures
    counting: str


def side_by_side(
    image: Path, network: Tiled, folder: Path, *, max_pixels: float, progress: Progress, on_gpu: bool
) -> SideBySide:
    """Upscale an image into a folder.

    Args:
        image: The file.
        network: The network.
        folder: Where both results are written.
        max_pixels: Maximum number of pixels of the image.
        progress: Called with the finished share.
        on_gpu: Whether the network is on a GPU.

    Raises:
        DataError: The image cannot be read, is too large, does not fit into memory, or is an animation.
    """
    about = read_info(image, max_pixels)
    if about.moves:
        raise DataError(f"images: {image} is an animation; task=upscale upscales it frame by frame")
    refuse_unwritable(about, network.scale, "png")
    ((name, _),) = result_names([(Path(image.name), "png")], network.scale)
    notes: list[str] = []
    begun = time.perf_counter()
    frames, used = upscaled_file(image, about, network, max_pixels, progress, notes.append, on_gpu=on_gpu)
    seconds = time.perf_counter() - begun
    sr, bicubic = folder / name, folder / "bicubic.png"
    write(frames, about, sr, "png", 100, "", notes.append)
    if used.note:
        notes.append(f"tiled: {used.note}")
    plain = Tiled(Bicubic(scale=network.scale))
    frames, _ = upscaled_file(image, about, plain, max_pixels, _ignore, _ignore, on_gpu=False)
    write(frames, about, bicubic, "png", 100, "", _ignore)
    return SideBySide(sr, bicubic, about.size, seconds, tuple(notes))


def measured(made: SideBySide, truth: Path, scale: int) -> Measured:
    """PSNR and SSIM of both results, computed as in ``task=measure``.

    Args:
        made: The results.
        truth: The HR image.
        scale: Upscaling factor.

    Raises:
        DataError: The ground truth cannot be read, or has a different size or more bits than it should.
    """
    ways = [measure(file, truth, scale=scale, colour="y") for file in (made.sr, made.bicubic)]
    sr, bicubic = (found.mean[PROTOCOL] for found in ways)
    return Measured(sr, bicubic, ways[0].ways[PROTOCOL].counting(scale))


def _ignore(_: object) -> None:
    """Ignore notes and progress, which were already reported for the network's result."""
