"""``task=measure``: PSNR and SSIM of images made by any program."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from sr_lab import files
from sr_lab.config.overrides import is_set
from sr_lab.config.schema import MeasureConfig
from sr_lab.datasets.benchmark import digest_of_images
from sr_lab.datasets.facts import as_published
from sr_lab.datasets.images import list_images
from sr_lab.datasets.layouts import places
from sr_lab.datasets.names import of_role
from sr_lab.metrics.pictures import Figures, Measurement, measure
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.safe_csv import csv_text
from sr_lab.reporting.terminal import print_wide
from sr_lab.run_folder import RunFolder
from sr_lab.runs.provenance import names, origin
from sr_lab.tasks import common


def run(config: MeasureConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Measure; write ``measure.csv`` and ``metrics.json``, which ``task=report`` reads; print the table.

    Raises:
        ConfigError: ``columns`` is given, but only the table of a multirun uses it.
        DataError: Images are missing, broken, or do not match.
    """
    common.refuse_alone(("columns",), overrides)
    run_folder = RunFolder(folder)
    with run_folder.attempt(wait=common.waiting_note(folder)):
        with common.console.status("measuring"):
            found = _measured(config, overrides)
        files.write(folder / "measure.csv", _csv(found))
        run_folder.write_metrics(_record(config, found, folder))
    if common.in_multirun():
        return
    _print(config, found)
    common.console.print(f"table: {folder / 'measure.csv'}")


def _measured(config: MeasureConfig, overrides: Sequence[str]) -> Measurement:
    found = measure(
        config.sr_dir,
        config.hr_dir,
        scale=config.scale if is_set("scale", overrides) else None,
        crop=config.crop,
        colour=config.colour,
        default_scale=config.scale,
    )
    if found.is_assumed:
        common.console.print(
            f"scale: x{found.scale}, the default, since the file names do not give a scale; set scale=..."
        )
    return found


def _set_name(hr_dir: str) -> str:
    """The test set to which a folder belongs, else the last part of its path except names like ``HR``."""
    folder = Path(hr_dir).expanduser().absolute()
    named = [place.set_name for place in places(folder) if place.folder == folder and place.set_name]
    telling = (part for part in reversed(folder.parts) if not re.fullmatch(r"HR|GT|GTmod\d+", part, re.I))
    return named[0] if named else next(telling)


def _record(config: MeasureConfig, found: Measurement, folder: Path) -> dict[str, object]:
    """``metrics.json``: the first protocol's results as in a test, the others under ``ways``."""
    name, (first, *others) = _set_name(config.hr_dir), found.ways
    hr_files = of_role(list_images(Path(config.hr_dir).expanduser()), "HR")
    says = f"x{found.scale} images of {config.sr_dir}; {found.ways[first].counting(found.scale)}"
    return {
        **names(config, folder),
        "scale": found.scale,
        "sr_dir": config.sr_dir,
        "hr_dir": config.hr_dir,
        **origin(),
        "test_images": {name: as_published(name, hr_files)},
        "test_images_sha256": {name: digest_of_images(hr_files)},
        "protocol": first,
        "protocol_says": f"{first}: {says}.",
        f"test/{name}/psnr_y": found.mean[first].psnr,
        f"test/{name}/ssim_y": found.mean[first].ssim,
        "ways": {way: found.mean[way]._asdict() for way in others},
        "images": [
            {"set_name": name, "image": image, "psnr_y": own[first].psnr, "ssim_y": own[first].ssim}
            for image, own in found.images.items()
        ],
    }


def _rows(found: Measurement) -> list[tuple[str, dict[str, Figures]]]:
    return [*found.images.items(), ("mean", found.mean)]


def _csv(found: Measurement) -> str:
    rows = [
        {"image": name}
        | {f"{way}/{key}": value for way in found.ways for key, value in own[way]._asdict().items()}
        for name, own in _rows(found)
    ]
    return csv_text(list(rows[-1]), rows)


def _print(config: MeasureConfig, found: Measurement) -> None:
    table = RichTable()
    table.add_column("image")
    for way in found.ways:
        for title in ("PSNR", "SSIM"):
            table.add_column(f"{escape(way)}\n{title}", justify="right", no_wrap=True)
    for name, own in _rows(found):
        cells = (cell for psnr, ssim in own.values() for cell in (fixed(psnr, 2), fixed(ssim, 4)))
        table.add_row(Text(name), *cells)
    head = [f"x{found.scale}: {config.sr_dir} against {config.hr_dir}"]
    head += [f"{way}: {protocol.counting(found.scale)}" for way, protocol in found.ways.items()]
    print_wide(table, head, common.console)
