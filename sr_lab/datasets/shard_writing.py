"""Write images into shards for ``dataset=streaming``."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from sr_lab import files
from sr_lab.datasets.cache import WORKERS, alone, digest_of
from sr_lab.datasets.images import read_image
from sr_lab.datasets.sampling import permutation
from sr_lab.datasets.shards import INDEX, ImageEntry, Index, Shard, parse_shard
from sr_lab.errors import DataError
from sr_lab.ops.resize import downscale_uint8, mod_crop

LR_NAME = "bicubic-symmetric"  # name of the `BicubicDegradation` that makes the same LR images


def write_shards(
    images: Sequence[Path], folder: Path, *, images_per_shard: int, lr_scales: Sequence[int]
) -> Index:
    """Write images into shards, keeping the shards that an interrupted call finished.

    If another process writes there, wait for it.

    Args:
        images: HR files; they are shuffled, so that every shard is a random sample of the set.
        folder: The folder for the shards.
        images_per_shard: Number of images per shard; 32 images of 2040x1356 take 270 MB, on disk and in
            memory.
        lr_scales: Scales whose LR images (MATLAB's bicubic) are stored too; random degradations need none.

    Returns:
        The content of ``index.json``, which is written last.

    Raises:
        DataError: An image is broken, or the folder cannot be written.
    """
    mixed = [images[place] for place in permutation(0, 0, len(images)).tolist()]
    parts = [mixed[start : start + images_per_shard] for start in range(0, len(mixed), images_per_shard)]
    console = Console(stderr=True)
    try:
        with alone(folder, console):
            for leftover in folder.glob(".*.tmp"):  # of a killed process
                leftover.unlink()
            shards = [
                _write_shard(part, folder / f"{number:06d}.safetensors", lr_scales)
                for number, part in enumerate(
                    track(parts, "Writing shards", console=console, disable=not console.is_terminal)
                )
            ]
            index = Index([f"x{scale}-{LR_NAME}" for scale in lr_scales], shards)
            content = {"format": 1, "lr": index.lr, "shards": [_plain(shard) for shard in shards]}
            files.write(folder / INDEX, json.dumps(content, indent=1))
    except OSError as error:
        raise DataError(
            f"shards: cannot write {folder}: {error.strerror or error}; "
            "free space there or choose another folder"
        ) from error
    return index


def _write_shard(part: Sequence[Path], path: Path, lr_scales: Sequence[int]) -> Shard:
    facts = [(str(file.resolve()), (s := file.stat()).st_size, s.st_mtime_ns) for file in part]
    source = hashlib.sha256(json.dumps([facts, list(lr_scales)]).encode()).hexdigest()
    note = path.with_suffix(".json")
    with suppress(OSError, ValueError, KeyError, TypeError):
        done = parse_shard(json.loads(note.read_bytes()))
        if done.source == source and path.stat().st_size == done.size:
            return done
    with ThreadPoolExecutor(WORKERS) as pool:
        loaded = list(pool.map(lambda file: _planes(file, lr_scales), part))
    tensors = {
        f"{kind}.{number}": pixels for number, own in enumerate(loaded) for kind, pixels in own.items()
    }
    path.with_name(INDEX).unlink(missing_ok=True)  # else an old index would list this shard as its own
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary)
    temporary.chmod(0o644)  # safetensors creates files that only the owner can read
    sizes = [own["hr"].shape[1:] for own in loaded]
    entries = [ImageEntry(file.stem, *size) for file, size in zip(part, sizes, strict=True)]
    shard = Shard(path.name, temporary.stat().st_size, digest_of(temporary), source, entries)
    temporary.replace(path)
    files.write(note, json.dumps(_plain(shard)))
    return shard


def _plain(shard: Shard) -> dict[str, object]:
    """A shard as plain JSON values."""
    return {**shard._asdict(), "images": [image._asdict() for image in shard.images]}


def _planes(file: Path, lr_scales: Sequence[int]) -> dict[str, Tensor]:
    hr = torch.from_numpy(read_image(file)).permute(2, 0, 1).contiguous()
    lr = {scale: downscale_uint8(mod_crop(hr[None], scale), scale=scale)[0] for scale in lr_scales}
    return {"hr": hr} | {f"x{scale}-{LR_NAME}": pixels.contiguous() for scale, pixels in lr.items()}
