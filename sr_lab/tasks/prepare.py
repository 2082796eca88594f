"""``task=prepare``: download what ``dataset=`` and ``benchmark=`` read, and decode the training images."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sr_lab.config.schema import PrepareConfig
from sr_lab.datasets.benchmark import benchmark_files
from sr_lab.datasets.download import Report
from sr_lab.datasets.install import Store
from sr_lab.datasets.pairs import PairDataset
from sr_lab.datasets.registry import IMAGE_SETS, ImageSet, named
from sr_lab.errors import DataError
from sr_lab.reporting.terminal import Terminal
from sr_lab.runs.trained_on import training_data

_say = Terminal(markup=False, highlight=False, soft_wrap=True).print


def run(config: PrepareConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Download missing sets, then check and decode the training images.

    Raises:
        DataError: A set could not be downloaded; all other sets were still tried.
    """
    data_dir = Path(config.paths.data_dir).expanduser()
    training = named(_folders(config), data_dir)
    testing = [known for known in IMAGE_SETS if known.name in config.benchmark.sets]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        disable=not Terminal(stderr=True).is_terminal,
    )
    if wanted := [*training, *testing]:
        store = Store(data_dir, mirror=config.mirror, say=_say, report=lambda name: _reporter(bar, name))
        with store.locked(), bar:
            _install(store, wanted)
    for name in config.benchmark.sets:
        if name not in {known.name for known in IMAGE_SETS}:
            _say(f"{name}: nothing to download; it has {len(benchmark_files(data_dir, name))} images")
    if not training:
        _say(f"dataset: nothing to download for {config.dataset['_target_']}")
    if config.decode:
        dataset = training_data(config)
        dataset.prepare()
        what = f"images decoded for x{config.scale} in {config.paths.cache_dir}"
        if isinstance(dataset, PairDataset):
            what = f"pairs, which {dataset.name} reads itself"
        _say(f"dataset: {len(dataset)} training {what}")


def _install(store: Store, wanted: Sequence[ImageSet]) -> None:
    failed: list[DataError] = []
    for image_set in wanted:
        try:
            _say(f"{image_set.name}: {store.install(image_set)}")
        except DataError as error:
            _say(f"{image_set.name}: failed")
            failed.append(error)
    if failed:
        more = f" (and {len(failed) - 1} more of {len(wanted)} failed)" if len(failed) > 1 else ""
        raise DataError(f"{failed[0]}{more}")


def _folders(config: PrepareConfig) -> list[str]:
    """The folders of the training and validation images."""
    found: list[str] = []
    for key in ("hr_dir", "val_dir"):
        value = config.dataset.get(key)
        found += value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return found


def _reporter(bar: Progress, name: str) -> Report:
    row = bar.add_task(name, total=None)
    return lambda done, total: bar.update(row, completed=done, total=total)
