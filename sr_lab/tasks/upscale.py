"""``task=upscale``: upscale image files of any size with a network and its checkpoint."""

import contextlib
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sr_lab import api, files
from sr_lab.checkpoints.opening import open_configured
from sr_lab.config.identity import code_of
from sr_lab.config.schema import UpscaleConfig
from sr_lab.datasets.cache import digest_of
from sr_lab.datasets.images import EXTENSIONS, image_size
from sr_lab.errors import DataError, SRLabError
from sr_lab.inference.backends import BackendNetwork, fingerprint
from sr_lab.inference.tiling import Tiled
from sr_lab.reporting.progress import Progress
from sr_lab.system.devices import check_gpu, device_of, out_of_memory
from sr_lab.tasks import common

_FORMAT = 2  # part of every stamp: increase it when the same network gives a different image
_STAMP = "sr_lab"  # keyword of the text in a PNG that identifies image and network
_LEAST_MEMORY = 2**25  # bytes of a tile; if a smaller tile is needed, give up
_LEVEL = 3  # zlib's level: a third of the time of the default 6, for 8 % more bytes


def run(config: UpscaleConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Upscale every image into ``folder``; an image that fails does not stop the rest.

    Raises:
        SystemExit: With 1 at the end, if an image could not be upscaled.
    """
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    results = folder.parent if common.in_multirun() else folder  # each job has a folder in the output
    found = images([config.input] if isinstance(config.input, str) else config.input, but_not=results)
    config, network = open_configured(config, overrides, common.console.print)
    maker = fingerprint(network, str(_FORMAT), str(config.scale), str(code_of(config).digests))
    jobs, failed = plan(found, folder, config.scale)
    runs = common.prepared(config, network).to(device_of(config.trainer.accelerator, config.trainer.devices))
    maker += f" {runs.network.backend}" if isinstance(runs.network, BackendNetwork) else ""
    done, waiting = [], {}
    for path, output in jobs.items():
        if not output.parent.resolve().is_relative_to(folder.resolve()):
            failed[path] = f"'{output.parent}' is a link out of {folder}; remove it, or choose another output"
        elif config.overwrite or not output.exists():
            waiting[path] = output
        elif _is_result(output, path, runs, maker):
            done.append(path)
        else:
            failed[path] = (
                f"'{output}' exists, but is not this network's result for this image, tile and backend; "
                "add overwrite=true, or choose another output"
            )
    if done:
        common.console.print(f"{len(done)} already done (overwrite=true makes them again)")
    wanted = len(waiting) + len(failed)
    failed |= upscale_all(waiting, runs, maker)
    for path, why in failed.items():
        common.console.print(f"failed: {path}: {why}")
    common.console.print(f"{wanted - len(failed)} of {wanted} upscaled into {common.shown(folder)}")
    if failed:
        raise SystemExit(1)


def plan(
    found: Sequence[tuple[Path, Path]], output: Path, scale: int
) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Choose the result file for each of `images`; sub-folders of ``output`` mirror those of the inputs.

    Returns:
        Image -> result file; and image -> reason, where two images would have the same result file.
    """
    results = {path: output / below.with_name(f"{below.stem}_x{scale}.png") for path, below in found}
    by_result: dict[Path, list[Path]] = {}
    for path, result in results.items():
        by_result.setdefault(result, []).append(path)
    jobs: dict[Path, Path] = {}
    failed: dict[Path, str] = {}
    for result, paths in by_result.items():
        if len(paths) == 1:
            jobs[paths[0]] = result
        else:
            names = " and ".join(map(str, paths))
            failed |= dict.fromkeys(paths, f"{names} would become {result}; rename all but one")
    return jobs, failed


def images(inputs: Sequence[str], *, but_not: Path) -> list[tuple[Path, Path]]:
    """Image files among the inputs, with paths relative to their input; hidden files are skipped.

    Args:
        inputs: Files, and folders that are searched with their sub-folders.
        but_not: Folder of the results, which are skipped. If images and results share a folder, results are
            recognised by their stamps.

    Raises:
        DataError: A path is missing, or is a folder without images.
    """
    found = []
    for given in (Path(path).expanduser() for path in inputs):
        if given.is_file():
            found.append((given, Path(given.name)))
            continue
        if not given.is_dir():
            raise DataError(f"input: there is no file or folder {given}; give an image or a folder of images")
        is_among = given.resolve().is_relative_to(but_not.resolve())
        below = [
            (path, path.relative_to(given))
            for path in sorted(files.below(given))
            if path.suffix.lower() in EXTENSIONS
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(given).parts)
            and not (_stamp_of(path) if is_among else path.resolve().is_relative_to(but_not.resolve()))
        ]
        if not below:
            raise DataError(f"input: the folder {given} has no image; allowed: {', '.join(EXTENSIONS)}")
        found += below
    return found


def _stamp(image: str, maker: str, form: str) -> str:
    """A stamp that identifies a result, independent of path and date.

    Args:
        image: Digest of the image file.
        maker: Digest of the network, and its backend.
        form: How the image was divided (`_form`).
    """
    return hashlib.sha256(f"{maker} {form} {image}".encode()).hexdigest()


def _form(network: Tiled, height: int, width: int) -> str:
    """The tiles of an image if they change its result, else an empty string."""
    pieces = network.pieces(height, width)
    return "" if len(pieces) == 1 or network.is_exact else str([piece.read for piece in pieces])


def _stamp_of(path: Path) -> str | None:
    """The stamp of a file, without decoding its image; ``None`` if it is not one of our results."""
    if not path.is_file():  # opening a named pipe would block
        return None
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return None
        while len(head := file.read(8)) == 8 and not head.endswith(b"IDAT"):
            length = int.from_bytes(head[:4])
            text = file.read(length) if head.endswith(b"tEXt") and length < 100 else b""
            if text.startswith(_STAMP.encode() + b"\0"):
                return str(text[len(_STAMP) + 1 :], "latin-1")
            file.seek(length - len(text) + 4, 1)  # 4 bytes of checksum
    return None


def _is_result(output: Path, path: Path, network: Tiled, maker: str) -> bool:
    """Whether a file is a network's result for an image in its current state.

    With ``tile=auto``, the image may have been whole, or in smaller tiles because it did not fit into memory.
    """
    with contextlib.suppress(OSError, SRLabError):
        stamp, image, size = _stamp_of(output), digest_of(path), image_size(path)
        forms = [_form(network.with_memory(network.memory), *size)]
        if network.tile == "auto":
            memory = network.memory
            forms.append("")
            while (memory := memory // 2) >= _LEAST_MEMORY:
                forms.append(_form(network.with_memory(memory), *size))
        return any(stamp == _stamp(image, maker, form) for form in forms)
    return False


def upscale_all(jobs: dict[Path, Path], network: Tiled, maker: str) -> dict[Path, str]:
    """Upscale images in turn; each is written atomically while the next image is computed.

    Returns:
        The reason for each image that could not be upscaled.
    """
    failed: dict[Path, str] = {}
    writing: dict[Path, Future[None]] = {}  # at most one entry, since each keeps its image in memory

    def finish() -> None:
        while writing:
            path, result = writing.popitem()
            try:
                result.result()
            except OSError as error:
                failed[path] = str(error)

    with (
        ThreadPoolExecutor(1, "writer") as writer,
        Progress(len(jobs), "images", console=common.console, transient=True) as progress,
    ):
        for number, (path, output) in enumerate(jobs.items()):
            progress.update(number, path.name)

            def done(share: float, before: int = number, name: str = path.name) -> None:
                progress.update(before + share, name)

            try:
                image = digest_of(path)  # computed first, since the image may change meanwhile
                sr = _upscaled(path, network, done)
                scale = network.scale
                stamp = _stamp(image, maker, _form(network, sr.height // scale, sr.width // scale))
            except (SRLabError, OSError) as error:
                failed[path] = str(error)
                continue
            finish()
            writing[path] = writer.submit(_write, sr, output, stamp)
            del sr
        finish()
    if network.note:
        common.console.print(f"tiled: {network.note}")
    return failed


def _upscaled(path: Path, network: Tiled, progress: api.Progress) -> Image.Image:
    """Upscale an image in ever smaller tiles until it fits into memory; later images start with that size.

    Raises:
        DataError: The image cannot be read, or does not fit into memory with the smallest or given tile.
    """

    def note(text: str) -> None:
        common.console.print(f"note: {path}: {text}")

    while True:
        try:
            return api.upscale(path, network, progress=progress, note=note)
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Not inside the handler: the error keeps the tensors that fill the memory.
        if network.tile != "auto" or network.memory < 2 * _LEAST_MEMORY:
            instead = "cut it into pieces" if network.tile == "auto" else "set tile=auto or a smaller tile"
            raise DataError(
                f"upscale: the image does not fit into memory with tile={network.tile}; {instead}"
            )
        network.memory //= 2


def _write(sr: Image.Image, output: Path, stamp: str) -> None:
    """Write an image with its colour profile and stamp."""
    text = PngInfo()
    text.add_text(_STAMP, stamp)
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(output) as file:
        sr.save(file, "PNG", pnginfo=text, compress_level=_LEVEL)
