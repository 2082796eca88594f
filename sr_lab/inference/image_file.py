"""Upscaling an image file in tiles that fit into memory."""

import math
from pathlib import Path

from sr_lab.errors import DataError
from sr_lab.inference.pictures import Note, Progress, upscaled
from sr_lab.inference.reading import Frame, ImageInfo, read_frames
from sr_lab.inference.tiling import Tiled
from sr_lab.system.devices import out_of_memory

LEAST_MEMORY = 2**25  # bytes of a tile; if a smaller tile is needed, give up
ALL_MEMORY = 7 * 2**29  # bytes on a CPU for an image, its result and its tiles together
_TILE_COST = 1.6  # bytes of the process for each byte of a tile's tensors


def upscaled_file(
    path: Path,
    about: ImageInfo,
    network: Tiled,
    max_pixels: float,
    progress: Progress,
    note: Note,
    *,
    on_gpu: bool,
) -> tuple[list[Frame], Tiled]:
    """Upscale an image in ever smaller tiles until it fits into memory; later images start with that size.

    Args:
        path: The image.
        about: The result of `read_info`.
        network: The network; its ``memory`` is reduced if tiles do not fit, and its ``note`` describes them.
        max_pixels: Maximum number of pixels, see `read_frames`.
        progress: Called with the finished share of the image.
        note: Called with a sentence if bits or the colour profile are lost.
        on_gpu: Whether the network is on a GPU; on a CPU, image, result and tiles share one memory.

    Returns:
        The frames of the result (one unless it is an animation), and the network with the tiles used.

    Raises:
        DataError: The image cannot be read, or does not fit into memory with the smallest or given tile.
    """
    while True:
        try:
            used = network if on_gpu else beside_image(network, about)
            frames = [
                Frame(upscaled(frame.picture, used, progress), frame.duration)
                for frame in read_frames(path, max_pixels, note)
            ]
            network.note = used.note or network.note
            return frames, used
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Outside the handler, since the error keeps the tensors that fill the memory.
        if network.tile != "auto" or network.memory < 2 * LEAST_MEMORY:
            instead = "cut it into pieces" if network.tile == "auto" else "set tile=auto or a smaller tile"
            raise DataError(
                f"upscale: the image does not fit into memory with tile={network.tile}; {instead}"
            )
        network.memory //= 2


def beside_image(network: Tiled, about: ImageInfo) -> Tiled:
    """The network with tiles so small that they fit into memory along with a large image and its result."""
    image = 3 * math.prod(about.size) * (1 + network.scale**2)
    memory = network.memory
    while image + _TILE_COST * memory > ALL_MEMORY and memory >= 2 * LEAST_MEMORY:
        memory //= 2
    return network if memory == network.memory else network.with_memory(memory)
