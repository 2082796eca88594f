"""The cells of the page's table, and the small bar charts below the PSNR of each set."""

from dataclasses import dataclass

from sr_lab.reporting.formatting import fixed, shortened, signed
from sr_lab.reporting.table import Cell, Column, ImageGain, Row, Table


class ShownCell:
    """A cell as the page shows it: our value, with the paper's value and the difference in small print."""

    def __init__(self, cell: Cell, column: Column) -> None:
        number = None if cell.text else cell.paper if cell.value is None else cell.value
        self.is_number = number is not None
        self.is_paper = self.is_number and cell.value is None
        whole = cell.printed(column) if self.is_paper else cell.shown(column)
        self.text = shortened(whole, 24)
        self.paper = "" if self.is_paper or cell.paper is None else cell.printed(column)
        self.difference = "" if cell.text else signed(cell.difference, column.decimals)
        self.value = "" if number is None else repr(number)
        self.rank = {1: "best", 2: "second"}.get(cell.rank, "")
        gain = signed(cell.gain, column.decimals)
        notes = (
            whole if whole != self.text else "",
            f"{gain} against the baseline row" if gain else "",
            f"mean of {cell.count} seeds" if cell.count > 1 else "",
            "printed in the paper, not measured here" if self.is_paper else "",
            cell.note,
        )
        self.note = "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class BarChart:
    """One bar for each image of a set: its PSNR minus the baseline row's."""

    gains: tuple[ImageGain, ...]  # the images, in the order of the test
    largest: float  # difference in dB that the highest bar represents
    against: str  # label of the baseline row

    def bars(self, sign: int) -> str:
        """SVG path of the gains (``sign`` 1) or losses (-1), 64 wide and from -8 to 8 high."""
        step = 64 / len(self.gains)
        parts = []
        for number, image in enumerate(self.gains):
            height = 8 * image.gain / self.largest
            if sign * height > 0.05:
                left, wide = number * step, max(step - 1, 0.7 * step)
                parts.append(f"M{left:.1f} 0h{wide:.1f}v{-height:.1f}h{-wide:.1f}z")
        return "".join(parts)

    @property
    def description(self) -> str:
        """A text description of the chart."""
        worst = "; ".join(f"{image} {psnr} ({gain})" for image, psnr, gain in self.worst)
        images = "1 image" if len(self.gains) == 1 else f"{len(self.gains)} images"
        return f"PSNR of {images} against {self.against}, the worst: {worst}"

    @property
    def worst(self) -> list[tuple[str, str, str]]:
        """Name, PSNR and difference of the five images with the lowest difference."""
        lowest = sorted(self.gains, key=lambda image: image.gain)[:5]
        return [(image.image, fixed(image.psnr, 2), signed(image.gain, 2)) for image in lowest]


def bar_charts(table: Table) -> dict[tuple[Row, str], BarChart]:
    """Bar charts by row and column key; rows with the same baseline row share one scale."""
    largest: dict[tuple[str, str, str], float] = {}
    gains: dict[tuple[Row, str], list[ImageGain]] = {}
    for row in table.rows:
        for image in row.images:
            key = row.block, row.against, image.set_name
            largest[key] = max(largest.get(key, 1e-3), abs(image.gain))
            gains.setdefault((row, image.set_name), []).append(image)
    return {
        (row, f"{set_name}/psnr_y"): BarChart(
            tuple(own), largest[row.block, row.against, set_name], row.against or "bicubic"
        )
        for (row, set_name), own in gains.items()
    }
