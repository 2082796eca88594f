"""Which folders an option reads, and whether they exist."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sr_lab.datasets import registry
from sr_lab.help import layout


def training(dataset: object) -> list[str]:
    """The folders of a data set's training and validation images, each once."""
    found: list[str] = []
    for key in ("hr_dir", "lr_dir", "val_dir", "val_lr_dir", "shards_dir"):
        value = dataset.get(key) if isinstance(dataset, dict) else None
        found += [str(each) for each in (value if isinstance(value, list) else [value]) if each]
    return [folder for folder in dict.fromkeys(found) if folder != "???"]


def testing(sets: Iterable[object], data_dir: Path) -> list[str]:
    """The folders of test sets; ``sample`` comes with scikit-image."""
    return [str(registry.benchmark_dir(data_dir, str(name))) for name in sets if name != "sample"]


def state(folders: Sequence[str], data_dir: Path) -> list[str]:
    """A heading, and for each folder whether it exists."""
    rows = []
    for folder in folders:
        inside = Path(folder).is_relative_to(data_dir)
        shown = str(Path(folder).relative_to(data_dir)) if inside else folder
        rows.append((shown, "") if layout.is_markdown() else (_state(folder), shown))
    return [*layout.wrapped(f"Data in {data_dir} (paths.data_dir or SR_LAB_DATA)"), *layout.pairs(rows)]


def _state(folder: str) -> str:
    if "://" in folder:
        return "an address, not checked"
    place = Path(folder).expanduser()
    return "there" if place.is_dir() else "missing"


def missing(folders: Sequence[str]) -> list[str]:
    """The folders that do not exist; for a document, which must not depend on a machine, all folders."""
    if layout.is_markdown():
        return list(folders)
    return [folder for folder in folders if _state(folder) == "missing"]


def by_hand(folders: Sequence[str], data_dir: Path) -> list[str]:
    """Sentences about missing sets that sr_lab is not allowed to download."""
    known = registry.named(folders, data_dir)
    return [f"{each.name} cannot be downloaded: {each.by_hand}." for each in known if each.by_hand]


def can_prepare(folders: Sequence[str], data_dir: Path) -> bool:
    """Whether ``task=prepare`` downloads one of the folders."""
    return any(each.archives for each in registry.named(folders, data_dir))
