"""``task=zoo``: list the published weights that ``ckpt=zoo/<name>`` opens, without importing torch."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from sr_lab.checkpoints.fetching import provide
from sr_lab.config.schema import ZooConfig
from sr_lab.errors import CheckpointError
from sr_lab.reporting.terminal import Terminal, print_wide
from sr_lab.zoo.published import PREFIX, Published, named, published

_USUAL = "rgb_uint8"
_COLUMNS = ("name", "params\n[K]", "Set5\npublished", "Set5\nmeasured", "licence", "disk")


def run(config: ZooConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Download what ``fetch`` names, and print a table of all published weights.

    Raises:
        CheckpointError: ``fetch`` names unknown weights, or a download failed; all others were still tried.
    """
    console = Terminal(markup=False, highlight=False)
    wanted = list(published().values()) if config.fetch == "all" else [_named(name) for name in config.fetch]
    failed = []
    for entry in wanted:
        try:
            provide(entry, "fetch", console.print)
        except CheckpointError as error:
            failed.append(error)
    table = Table()
    for title in _COLUMNS:
        table.add_column(title, justify="right" if "\n" in title else "left", no_wrap=True)
    for entry in published().values():
        table.add_row(*_cells(entry))
    print_wide(table, [], console)
    for line in _notes():
        console.print(line, soft_wrap=True)
    if failed:
        more = f" (and {len(failed) - 1} more of {len(wanted)})" if len(failed) > 1 else ""
        raise CheckpointError(f"{failed[0]}{more}")


def _named(name: str) -> Published:
    entry = named(PREFIX + name.removeprefix(PREFIX), "fetch")
    assert entry is not None, "a name with the prefix is found or refused"
    return entry


def _cells(entry: Published) -> tuple[str, ...]:
    return (
        entry.name,
        f"{entry.num_params / 1e3:.1f}",
        entry.printed.replace("/", " / "),
        f"{entry.psnr_y:.2f} / {entry.ssim_y:.4f}",
        entry.licence if entry.has_licence else "none",
        "yes" if entry.file().is_file() else "no",
    )


def _notes() -> list[str]:
    """What the columns mean, and how to use a name."""
    others = [
        f"{entry.name} ({entry.protocol})" for entry in published().values() if entry.protocol != _USUAL
    ]
    return [
        f"measured: PSNR and SSIM on luma, with the authors' code and the protocol {_USUAL}; "
        f"except {', '.join(others)}",
        "licence: the licence of the repository that has the file; none: the repository states no licence",
        f"use: ckpt={PREFIX}<name> in any task, or sr_lab.load('{PREFIX}<name>')",
    ]
