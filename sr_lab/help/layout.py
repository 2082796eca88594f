"""Text in 80 columns that cannot control the terminal."""

import textwrap
from collections.abc import Sequence

from sr_lab.files import printable

WIDTH = 80
_LONGEST = 30  # a longer name in `pairs` gets its own line


def wrapped(text: str, *, indent: int = 0, hanging: int | None = None) -> list[str]:
    """The lines of a paragraph, in which white space other than single spaces does not count.

    Args:
        text: The paragraph.
        indent: Spaces before the first line.
        hanging: Spaces before the other lines; by default ``indent``.
    """
    return textwrap.wrap(
        printable(" ".join(text.split())),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if hanging is None else hanging),
        break_on_hyphens=False,
    )


def pairs(rows: Sequence[tuple[str, str]], *, indent: int = 2, column: int | None = None) -> list[str]:
    """Lines with a name on the left and its meaning on the right, below it if the name is long.

    Args:
        rows: Names and meanings.
        indent: Spaces before a name.
        column: Where the meanings begin; by default after the longest name.
    """
    if column is None:
        column = indent + 2 + max((len(left) for left, _ in rows if len(left) <= _LONGEST), default=4)
    lines: list[str] = []
    for left, right in rows:
        name = wrapped(left, indent=indent, hanging=indent + 2)
        meaning = wrapped(right, indent=column)
        if meaning and len(name) == 1 and len(name[0]) + 2 <= column:
            meaning[0] = name[0].ljust(column) + meaning[0].lstrip()
            name = []
        lines += [*name, *meaning]
    return lines


def columns(rows: Sequence[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Lines of a table with aligned columns; columns that do not fit are left out.

    Args:
        rows: Cells, the header first; the first column is aligned left, the others right.
        indent: Spaces before each line.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], 30)
    while indent + sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widths.pop()
    return [
        (
            " " * indent
            + "  ".join(
                (_cut(cell, width).ljust(width) if number == 0 else cell.rjust(width))
                for number, (cell, width) in enumerate(zip(row, widths, strict=False))
            )
        ).rstrip()
        for row in cells
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
