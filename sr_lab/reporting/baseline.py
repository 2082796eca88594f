"""Compare each row with its baseline row: differences, significance, single images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from sr_lab.reporting import significance
from sr_lab.reporting.table import ImageGain, Row, Significance

RowAndImages: TypeAlias = tuple[Row, significance.Images]  # with the PSNR of each image


def compared(block: Sequence[RowAndImages], baseline: str | None) -> list[Row]:
    """The rows of one scale with their differences from the row labelled ``baseline``.

    Without a label, the baseline is a strategy's host, or the first row.
    """
    rows = [
        (row, images)
        for row, images in block
        if row.is_measured and (row.label == baseline or not row.is_reference)
    ]
    bases = {id(row): _base_of(row, rows, baseline) for row, _ in rows}
    # Rows of another protocol, or measured on other images, are not compared.
    bases = {
        id(row): base
        for row, _ in rows
        if (base := bases[id(row)]) is not None and row.is_comparable(base[0])
    }
    made: dict[int, Row] = {}
    for base in [pair for pair in rows if any(pair is base for base in bases.values())]:
        base_row, base_images = base
        rest = [pair for pair in rows if bases.get(id(pair[0])) is base and pair is not base]
        tests = significance.compare([images for _, images in rest], base_images)
        for (row, images), own in zip(rest, tests, strict=True):
            made[id(row)] = replace(_against(row, base_row, own), images=_gains(images, base_images))
        references = (pair for pair in block if pair[0].is_reference and pair[0] is not base_row)
        bicubic = next((images for row, images in references if row.is_comparable(base_row)), {})
        made[id(base_row)] = replace(base_row, images=_gains(base_images, bicubic))
    return [made.get(id(row), row) for row, _ in block]


def _base_of(row: Row, rows: Sequence[RowAndImages], baseline: str | None) -> RowAndImages | None:
    """The row to compare with: the requested baseline, the host of a strategy, or the first row.

    "CARN + GGAS" is compared with "CARN", or with nothing if "CARN" was not measured.
    """
    host = row.label.partition(" + ")[0]
    is_hosted = any(other.label.startswith(f"{host} + ") for other, _ in rows)
    wanted = baseline if baseline is not None else host if is_hosted else None
    return next((pair for pair in rows if wanted in (None, pair[0].label)), None)


def _gains(images: significance.Images, others: significance.Images) -> tuple[ImageGain, ...]:
    """The gain on each image that both rows have, in the order of the test."""
    return tuple(
        ImageGain(*image, psnr, psnr - others[image]) for image, psnr in images.items() if image in others
    )


def _against(row: Row, base: Row, tests: tuple[Significance, ...]) -> Row:
    cells = tuple(
        cell if cell.value is None else replace(cell, baseline=other.value)
        for cell, other in zip(row.cells, base.cells, strict=True)
    )
    overall = tests[0].p_holm
    mark = "*" if overall is not None and overall < 0.05 else ""
    return replace(row, cells=cells, tests=tests, mark=mark, against=base.label)
