"""``task=upscale``: upscale image files of any size with a network and its checkpoint."""

import contextlib
import hashlib
import io
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sr_lab.checkpoints.opening import open_configured
from sr_lab.config.identity import code_of
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import UpscaleConfig
from sr_lab.datasets.cache import digest_of
from sr_lab.errors import ConfigError, SRLabError
from sr_lab.inference.backends import BackendNetwork, fingerprint
from sr_lab.inference.image_file import ALL_MEMORY, LEAST_MEMORY, upscaled_file
from sr_lab.inference.inputs import result_names, search
from sr_lab.inference.reading import Frame, ImageInfo, read_info
from sr_lab.inference.self_ensemble import SelfEnsemble
from sr_lab.inference.tiling import Tiled
from sr_lab.inference.writing import (
    FORMAT_OF,
    Format,
    moving_format,
    refuse_unwritable,
    stamp_of,
    write,
)
from sr_lab.reporting.progress import Progress
from sr_lab.system.devices import check_gpu, device_of, has_gpu
from sr_lab.tasks import common
from sr_lab.zoo import shipped

_WITH_QUALITY: set[Format] = {"jpeg", "webp"}
_FORMAT = 4  # part of every stamp: increase it when the same network gives a different file
_SHOWN = 20  # skipped files that are listed one by one


@dataclass(frozen=True)
class Job:
    """One image and its result.

    Args:
        source: The image.
        output: The result, ``None`` for stdout.
        form: The result's format.
        about: What the header of the image says.
    """

    source: Path
    output: Path | None
    form: Format
    about: ImageInfo


@dataclass(frozen=True)
class Manner:
    """The settings with which results are made and written; see ``conf/task/upscale.yaml``.

    Args:
        maker: Digest of the network, and its backend.
        quality: Quality of JPEG and WebP.
        max_pixels: Maximum number of pixels of an image.
    """

    maker: str
    quality: int = 95
    max_pixels: float = math.inf

    def stamp(self, image: str, job: Job, tiles: str) -> str:
        """A stamp that identifies a result, independent of path and date.

        Args:
            image: Digest of the image file.
            job: The image and its format.
            tiles: How the image was divided (`_tiles`).
        """
        form = f"{job.form} {self.quality if job.form in _WITH_QUALITY else ''}"
        return hashlib.sha256(f"{self.maker} {form} {tiles} {image}".encode()).hexdigest()


def run(config: UpscaleConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Upscale every image into ``folder``; an image that fails does not stop the rest.

    Raises:
        ConfigError: The output is one file or stdout, but there are several images; or settings contradict
            each other.
        SystemExit: With 1 at the end, if an image could not be upscaled.
    """
    with _on_stderr() if config.is_stdout else contextlib.nullcontext():
        failed = _run(config, folder, overrides)
    if failed:
        raise SystemExit(1)


def _run(config: UpscaleConfig, folder: Path, overrides: Sequence[str]) -> dict[Path, str]:
    """Upscale every image.

    Returns:
        The reason for each image that could not be upscaled.
    """
    say = common.console.print
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    if config.dry_run:  # Hydra was given a temporary folder
        folder = Path(config.folder) / (folder.name if common.in_multirun() else "")
    results = folder.parent if common.in_multirun() else folder  # each job has a folder in the output
    one = config.is_stdout or config.file is not None
    found = search([config.input] if isinstance(config.input, str) else config.input, but_not=results)
    if one and (len(found.images) != 1 or (config.is_stdout and common.in_multirun())):
        number = f"{len(found.images)} image{'' if len(found.images) == 1 else 's'}"
        each = " in each of several jobs" if common.in_multirun() else ""
        raise ConfigError(f"output: {config.output} holds one image, got {number}{each}; give a folder")
    if config.is_stdout and sys.stdout.isatty():
        raise ConfigError("output: stdout is a terminal; redirect it into a file or a pipe")
    form = _given_format(config)
    config = _with_default(config, found.images[0][0], overrides)
    config, network = open_configured(config, overrides, say)
    manner = Manner(
        fingerprint(network, str(_FORMAT), str(config.scale), str(code_of(config).digests)),
        config.quality,
        config.most_pixels,
    )
    jobs, failed = plan(found.images, folder, config, form, manner.max_pixels)
    forms = {job.form for job in jobs}
    if forms and is_set("quality", overrides) and not forms & _WITH_QUALITY:
        raise ConfigError(
            f"quality: is used by jpeg and webp, and the results are {' and '.join(sorted(forms))}; "
            "add format=jpeg, or leave quality out"
        )
    runs = common.prepared(config, network).to(device_of(config.trainer.accelerator, config.trainer.devices))
    backend = f" {runs.network.backend}" if isinstance(runs.network, BackendNetwork) else ""
    if config.self_ensemble:
        runs = Tiled(SelfEnsemble(runs.network), tile=config.tile, like=network)
        backend += " self-ensemble"
    manner = Manner(manner.maker + backend, manner.quality, manner.max_pixels)
    done, waiting = 0, []
    for job in jobs:
        if problem := _problem(job, folder, overwrite=config.overwrite):
            failed[job.source] = problem
        elif config.overwrite or job.output is None or not job.output.exists():
            waiting.append(job)
        elif _is_result(job, runs, manner):
            done += 1
        else:
            failed[job.source] = (
                f"'{job.output}' exists, but is not this network's result for this image and these settings; "
                "add overwrite=true, or choose another output"
            )
    if done:
        say(f"{done} already done (overwrite=true makes them again)")
    wanted = len(waiting) + len(failed)
    if config.dry_run:
        for job in waiting:
            height, width = (config.scale * side for side in job.about.size)
            say(f"would write {job.output or 'to stdout'}: {job.form}, {width}x{height} pixels")
    else:
        failed |= upscale_all(waiting, runs, manner, on_gpu=has_gpu(config.trainer.accelerator))
    _list(found.skipped, failed)
    place = jobs[0].output if len(jobs) == 1 else folder / (config.file or "")
    into = "stdout" if config.is_stdout or place is None else common.shown(place)
    verb = "would be upscaled" if config.dry_run else "upscaled"
    if wanted or not done:
        say(f"{wanted - len(failed)} of {wanted} {verb} into {into}")
    return failed


def _with_default(config: UpscaleConfig, image: Path, overrides: Sequence[str]) -> UpscaleConfig:
    """The settings, with the weights that come with sr_lab if the command line names no network."""
    if config.ckpt is not None or is_set("model", overrides):
        return config

    def command(name: str) -> str:
        return shlex.join(["python", "-m", "sr_lab", "task=upscale", f"ckpt={name}", f"input={image}"])

    scale = config.scale if is_set("scale", overrides) else None
    file = shipped.default(scale, key="ckpt", command=command)
    name = f"pretrained/{file.stem}"
    common.console.print(f"network: {name}; ckpt= chooses another network, scale= another size")
    return config.model_copy(update={"ckpt": str(file)})


@contextlib.contextmanager
def _on_stderr() -> Iterator[None]:
    """Print on stderr, since the image is written to stdout."""
    before = common.console.stderr
    common.console.stderr = True
    try:
        yield
    finally:
        common.console.stderr = before


def _list(skipped: Sequence[tuple[Path, str]], failed: dict[Path, str]) -> None:
    for path, why in skipped[:_SHOWN]:
        common.console.print(f"skipped: {path}: {why}")
    if len(skipped) > _SHOWN:
        common.console.print(f"skipped: {len(skipped) - _SHOWN} more")
    for path, why in failed.items():
        common.console.print(f"failed: {path}: {why}")


def _given_format(config: UpscaleConfig) -> Format | None:
    """The format that the settings name, ``None`` if it depends on the image.

    Raises:
        ConfigError: The output file has the suffix of another format, or of one that cannot be written.
    """
    named = None if config.file is None else FORMAT_OF.get(Path(config.file).suffix.lower())
    if config.file is not None and named is None:
        raise ConfigError(f"output: cannot write '{config.file}'; allowed: {', '.join(FORMAT_OF)}")
    if config.format == "auto":
        return named
    if named not in (None, config.format):
        raise ConfigError(f"format: is {config.format}, but output={config.output} is {named}; leave one out")
    return config.format


def plan(
    found: Sequence[tuple[Path, Path]],
    folder: Path,
    config: UpscaleConfig,
    form: Format | None,
    max_pixels: float,
) -> tuple[list[Job], dict[Path, str]]:
    """Choose the result file and format for each image; sub-folders of ``folder`` mirror those of the inputs.

    Returns:
        The jobs; and image -> reason, for images whose header shows that they cannot be upscaled.
    """
    readable: list[tuple[Path, Path, Format, ImageInfo]] = []
    failed: dict[Path, str] = {}
    for path, below in found:
        try:
            about = read_info(path, max_pixels)
            own = form or (moving_format(about) if about.moves else "png")
            refuse_unwritable(about, config.scale, own)
        except SRLabError as error:
            failed[path] = str(error)
            continue
        readable.append((path, below, own, about))
    if config.is_stdout:
        return [Job(path, None, own, about) for path, _, own, about in readable], failed
    if config.file is not None:
        return [Job(path, folder / config.file, own, about) for path, _, own, about in readable], failed
    names = result_names([(below, own) for _, below, own, _ in readable], config.scale)
    jobs = []
    for (path, _, own, about), (name, is_renamed) in zip(readable, names, strict=True):
        jobs.append(Job(path, folder / name, own, about))
        if is_renamed:
            common.console.print(f"note: {path}: becomes {name}, since another image has the same name")
    return jobs, failed


def _problem(job: Job, folder: Path, *, overwrite: bool) -> str | None:
    """Why the result must not be written to its file; ``None`` if it may be written."""
    if job.output is None:
        return None
    if not job.output.parent.resolve().is_relative_to(folder.resolve()):
        return f"'{job.output.parent}' is a link out of {folder}; remove it, or choose another output"
    if overwrite and job.output.exists() and job.output.samefile(job.source):
        return f"'{job.output}' is the image itself; choose another output"
    return None


def _tiles(network: Tiled, height: int, width: int) -> str:
    """The tiles of an image if they change its result, else an empty string."""
    pieces = network.pieces(height, width)
    return "" if len(pieces) == 1 or network.is_exact else str([piece.read for piece in pieces])


def _is_result(job: Job, network: Tiled, manner: Manner) -> bool:
    """Whether the output file is the network's result for the image as it is now.

    With ``tile=auto``, the image may have been upscaled whole, or in smaller tiles to fit into memory.
    """
    assert job.output is not None
    with contextlib.suppress(OSError, SRLabError):
        stamp, image, size = stamp_of(job.output), digest_of(job.source), job.about.size
        tiles = [_tiles(network.with_memory(network.memory), *size)]
        if network.tile == "auto":
            memory = network.memory
            tiles.append("")
            while (memory := memory // 2) >= LEAST_MEMORY:
                tiles.append(_tiles(network.with_memory(memory), *size))
        return any(stamp == manner.stamp(image, job, each) for each in tiles)
    return False


def upscale_all(
    jobs: Sequence[Job], network: Tiled, manner: Manner, *, on_gpu: bool = False
) -> dict[Path, str]:
    """Upscale images in turn; each result is written atomically while the next image is computed.

    Returns:
        The reason for each image that could not be upscaled.
    """
    failed: dict[Path, str] = {}
    writing: dict[Path, Future[None]] = {}  # at most one entry, since each keeps its image in memory
    areas = [math.prod(job.about.size) for job in jobs]
    started = time.monotonic()

    def finish() -> None:
        while writing:
            path, result = writing.popitem()
            try:
                result.result()
            except (OSError, ValueError, SRLabError) as error:
                failed[path] = str(error)

    with (
        ThreadPoolExecutor(1, "writer") as writer,
        Progress(len(jobs), "images", console=common.console, transient=True) as progress,
    ):
        for number, job in enumerate(jobs):
            done = _reporter(progress, number, job, areas, network.scale, started)
            try:
                image = digest_of(job.source)  # computed first, since the image may change meanwhile
                frames, used = upscaled_file(
                    job.source, job.about, network, manner.max_pixels, done, _note(job.source), on_gpu=on_gpu
                )
                height, width = (side // network.scale for side in frames[0].picture.size)
                stamp = manner.stamp(image, job, _tiles(used, height, width))
            except (SRLabError, OSError) as error:
                failed[job.source] = str(error)
                continue
            finish()
            writing[job.source] = writer.submit(_write, job, frames, manner.quality, stamp)
            del frames
            if network.scale**2 * areas[number] > ALL_MEMORY // 16:  # two such results do not fit into memory
                finish()
        finish()
    if network.note:
        common.console.print(f"tiled: {network.note}")
    return failed


def _reporter(
    progress: Progress, number: int, job: Job, areas: Sequence[int], scale: int, started: float
) -> Callable[[float], None]:
    """Shows how many images are done, megapixels of results per second, and the time left."""
    before, area, total = sum(areas[:number]), areas[number], max(1, sum(areas))

    def report(share: float) -> None:
        if not progress.is_due and (number or share):
            return
        pixels = before + share * area
        speed = scale**2 * pixels / 1e6 / max(1e-3, time.monotonic() - started)
        progress.update(number + share, f"{speed:.2f} megapixels/s", job.source.name, share=pixels / total)

    report(0.0)
    return report


def _note(path: Path) -> Callable[[str], object]:
    return lambda text: common.console.print(f"note: {path}: {text}")


def _write(job: Job, frames: Sequence[Frame], quality: int, stamp: str) -> None:
    """Write the result of an image into its file, or to stdout."""
    if job.output is not None:
        write(frames, job.about, job.output, job.form, quality, stamp, _note(job.source))
        return
    whole = io.BytesIO()  # since TIFF needs a seekable file
    write(frames, job.about, whole, job.form, quality, stamp, _note(job.source))
    sys.stdout.buffer.write(whole.getbuffer())
    sys.stdout.buffer.flush()
