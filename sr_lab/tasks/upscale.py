"""``task=upscale``: image files enlarged, whatever their size, with a network and its checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sr_lab import api, files
from sr_lab.config import UpscaleConfig
from sr_lab.datasets.images import EXTENSIONS
from sr_lab.devices import check_gpu, has_gpu
from sr_lab.errors import ConfigError, DataError, SRLabError
from sr_lab.inference import Tiled
from sr_lab.tasks import common


def run(config: UpscaleConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Enlarge every image into ``folder``; one that fails does not keep the others from it.

    Raises:
        SystemExit: With 1, after the others are done, where an image could not be enlarged.
    """
    if common.in_multirun():
        raise ConfigError("upscale: runs one network at a time into its output, got -m; drop it")
    check_gpu(config.trainer.accelerator)
    config, network = common.open_network(config, overrides)
    inputs = [config.input] if isinstance(config.input, str) else config.input
    jobs = plan(inputs, folder, config.scale)
    waiting = {path: output for path, output in jobs.items() if config.overwrite or not output.is_file()}
    if len(waiting) < len(jobs):
        common.console.print(f"{len(jobs) - len(waiting)} there already (overwrite=true makes them again)")
    runs = common.prepared(config, network)
    if has_gpu(config.trainer.accelerator):
        runs.cuda()
    failed = enlarge_all(waiting, runs)
    for path, why in failed.items():
        common.console.print(f"failed: {path}: {why}", markup=False)
    common.console.print(
        f"{len(waiting) - len(failed)} of {len(waiting)} enlarged into {config.output}", markup=False
    )
    if failed:
        raise SystemExit(1)


def plan(inputs: Sequence[str], output: Path, scale: int) -> dict[Path, Path]:
    """Each image and the file that it is enlarged into, below ``output`` as it lies below its input.

    Raises:
        DataError: An input is missing, is a folder without images, or two images have one result.
    """
    jobs: dict[Path, Path] = {}
    for given in map(Path, inputs):
        found = _images(given.expanduser(), but_not=output)
        for path, below in found:
            jobs[path] = output / below.with_name(f"{below.stem}_x{scale}.png")
    by_output: dict[Path, Path] = {}
    for path, result in jobs.items():
        other = by_output.setdefault(result, path)
        if other != path:
            raise DataError(f"input: {other} and {path} would both become {result}; rename one of them")
    return jobs


def _images(given: Path, *, but_not: Path) -> list[tuple[Path, Path]]:
    """Images at or below a path, and where they lie below it; none that an earlier run put there."""
    if given.is_file():
        return [(given, Path(given.name))]
    if not given.is_dir():
        raise DataError(f"input: there is no file or folder {given}; give an image or a folder of images")
    found = [
        (path, path.relative_to(given))
        for path in sorted(given.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(given).parts)
        and (but_not.resolve() == given.resolve() or not path.resolve().is_relative_to(but_not.resolve()))
    ]
    if not found:
        raise DataError(f"input: the folder {given} has no image; allowed: {', '.join(EXTENSIONS)}")
    return found


def enlarge_all(jobs: dict[Path, Path], network: Tiled) -> dict[Path, str]:
    """Enlarge images one after the other, each written whole or not at all.

    Returns:
        Why, of each that could not be enlarged.
    """
    failed = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = not common.console.is_terminal
    with Progress(*columns, console=common.console, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=len(jobs))
        for number, (path, output) in enumerate(jobs.items()):
            bar.update(task, description=path.name, completed=number)

            def told(done: float, before: int = number) -> None:
                bar.update(task, completed=before + done)

            try:
                sr = api.upscale(path, network, progress=told)
                output.parent.mkdir(parents=True, exist_ok=True)
                with files.replacing(output) as file:
                    sr.save(file, "PNG")  # with its colour profile
            except (SRLabError, OSError) as error:
                failed[path] = str(error)
    if network.told:
        common.console.print(f"tiled: {network.told}", markup=False)
    return failed
