"""The cells of the page's table, and the small bar charts below the PSNR of each set."""

from dataclasses import dataclass

from sr_lab.reporting.formatting import fixed, shortened, signed
from sr_lab.reporting.table import Cell, Column, ImageGain, Row, Table


class ShownCell:
    """A cell as the page shows it: our figure large, the paper's and the difference small below it."""

    def __init__(self, cell: Cell, column: Column) -> None:
        self.is_number = not cell.text and (cell.value is not None or cell.paper is not None)
        self.is_paper = not cell.text and cell.value is None and cell.paper is not None
        whole = fixed(cell.paper, column.decimals) if self.is_paper else cell.shown(column)
        self.text = shortened(whole, 24)
        self.paper = "" if self.is_paper or cell.paper is None else fixed(cell.paper, column.decimals)
        self.difference = "" if cell.text else signed(cell.difference, column.decimals)
        value = cell.paper if self.is_paper else cell.value
        self.value = "" if value is None or cell.text else repr(value)
        self.rank = {1: "best", 2: "second"}.get(cell.rank, "")
        gain = signed(cell.gain, column.decimals)
        notes = (
            whole if whole != self.text else "",
            f"{gain} against the baseline row" if gain else "",
            f"mean of {cell.count} seeds" if cell.count > 1 else "",
            "printed in the paper, not measured here" if self.is_paper else "",
        )
        self.note = "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class BarChart:
    """One bar for each image of a set: its PSNR minus that of the baseline row."""

    gains: tuple[ImageGain, ...]  # the images, in the order of the test
    largest: float  # difference in dB that the highest bar stands for
    against: str  # label of the baseline row

    def bars(self, sign: int) -> str:
        """SVG path of the gains (1) or losses (-1), 64 wide, from -8 to 8."""
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
        """The chart in words."""
        worst = "; ".join(f"{image} {psnr} ({gain})" for image, psnr, gain in self.worst)
        return f"PSNR of {len(self.gains)} images against {self.against}, the worst: {worst}"

    @property
    def worst(self) -> list[tuple[str, str, str]]:
        """Name, PSNR and difference of the five images with the lowest difference."""
        lowest = sorted(self.gains, key=lambda image: image.gain)[:5]
        return [(image.image, fixed(image.psnr, 2), signed(image.gain, 2)) for image in lowest]


class BarCharts:
    """The bar charts of a table; rows with the same baseline row share one scale."""

    def __init__(self, table: Table) -> None:
        self._largest: dict[tuple[str, str, str], float] = {}
        for row in table.rows:
            for image in row.images:
                key = (row.block, row.against, image.set_name)
                self._largest[key] = max(self._largest.get(key, 1e-3), abs(image.gain))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._largest)

    def __call__(self, row: Row, column: Column) -> BarChart | None:
        """The chart of a cell."""
        gains = tuple(image for image in row.images if column.key == f"{image.set_name}/psnr_y")
        if not gains:
            return None
        largest = self._largest[row.block, row.against, gains[0].set_name]
        return BarChart(gains, largest, row.against or "bicubic")
