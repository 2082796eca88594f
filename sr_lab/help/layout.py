"""Text in 80 columns that cannot control the terminal, or the same text as Markdown."""

import contextlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from sr_lab.files import printable

WIDTH = 80
_LONGEST = 30  # a longer name in `pairs` gets its own line

_markdown: ContextVar[bool] = ContextVar("markdown", default=False)
_BODY = "\0"  # starts a line of Markdown that is not a heading; `printable` removes it from any text


@contextlib.contextmanager
def as_markdown() -> Iterator[None]:
    """Within the block, the functions below return lines for `markdown`."""
    token = _markdown.set(True)
    try:
        yield
    finally:
        _markdown.reset(token)


def is_markdown() -> bool:
    """Whether the text is for a document, which must not depend on this machine."""
    return _markdown.get()


def markdown(lines: Sequence[str]) -> str:
    """A page from lines that were made within `as_markdown`; lines without indentation are its headings."""
    found: list[str] = []
    for line in lines:
        if line.startswith(_BODY):
            found.append(line.removeprefix(_BODY))
        elif line.strip("=") == "":
            found.append("")
        else:
            found += ["", f"{'##' if found else '#'} {escaped(line)}", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(found)).strip() + "\n"


def escaped(text: str) -> str:
    """A text in a form that Markdown shows as it is, even inside ``<code>`` or in a cell of a table."""
    text = printable(" ".join(text.split()))
    return "".join(f"&#{ord(sign)};" if sign in "&<>\\`*_[]|#" else sign for sign in text)


def _body(*lines: str) -> list[str]:
    return [f"{_BODY}{line}" for line in lines]


def wrapped(text: str, *, indent: int = 0, hanging: int | None = None) -> list[str]:
    """The lines of a paragraph; any white space in its text counts as one space.

    Args:
        text: The paragraph.
        indent: Spaces before the first line.
        hanging: Spaces before the other lines; by default ``indent``.
    """
    if _markdown.get():
        if indent == 0:
            return [" ".join(text.split())]
        return _body(
            "", *(["```text", printable(text.strip()), "```"] if indent > 2 else [escaped(text)]), ""
        )
    return textwrap.wrap(
        printable(" ".join(text.split())),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if hanging is None else hanging),
        break_on_hyphens=False,
        break_long_words=False,  # a path or a command can be copied
    )


def pairs(rows: Sequence[tuple[str, str]], *, indent: int = 2, column: int | None = None) -> list[str]:
    """Lines with a name on the left and its meaning on the right, below it if the name is long.

    Args:
        rows: Names and meanings.
        indent: Spaces before a name.
        column: Where the meanings begin; by default after the longest name.
    """
    if _markdown.get():
        return _listed(rows) if column is None else _explained(rows)
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


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns; columns that do not fit are left out.

    Args:
        rows: Cells, the header first; the first column is aligned left, the others right.
    """
    if _markdown.get():
        return _tabulated([[escaped(cell) for cell in row] for row in rows])
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], 30)
    while 2 + sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widths.pop()
    return [
        (
            "  "
            + "  ".join(
                (_cut(cell, width).ljust(width) if number == 0 else cell.rjust(width))
                for number, (cell, width) in enumerate(zip(row, widths, strict=False))
            )
        ).rstrip()
        for row in cells
    ]


def _listed(rows: Sequence[tuple[str, str]]) -> list[str]:
    """A table of names and meanings."""
    if not rows:
        return []
    cells = [[f"<code>{escaped(name)}</code>", escaped(meaning)] for name, meaning in rows]
    return _tabulated([["", ""], *cells], left=True)


def _explained(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Commands, each below a line that says what it does."""
    found: list[str] = []
    for command, meaning in rows:
        found += _body(
            "", f"{escaped(meaning[:1].upper() + meaning[1:])}:", "", "```sh", printable(command), "```", ""
        )
    return found


def _tabulated(rows: Sequence[Sequence[str]], *, left: bool = False) -> list[str]:
    rule = ["---", *(["---" if left else "---:"] * (len(rows[0]) - 1))]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    return _body("", *lines, "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
