"""A terminal that untrusted text cannot control, and tables printed on it."""

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from sr_lab.files import printable
from sr_lab.reporting.shown_columns import Columns, cells, choose, heads
from sr_lab.reporting.table import Table, lines, meanings


class Terminal(Console):
    """A console that untrusted text cannot control; even a folder's name may contain escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as Rich does, after making every text `printable`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Let the command line handle the error and exit quietly; Rich would exit with code 1."""
        raise BrokenPipeError


def print_table(table: Table, console: Console | None = None, *, columns: Columns = "auto") -> None:
    """Print a table; the best figures are bold, the second best underlined.

    Args:
        table: The table.
        console: Where it is printed, by default stdout.
        columns: ``auto`` leaves out the least important columns on a terminal that is too narrow for all of
            them; ``all``, or a list of titles or test sets.
    """
    console = console or Terminal(highlight=False)
    width = console.width if console.is_terminal else None
    shown = choose(table, columns, width)
    drawn = RichTable()
    for index, title in enumerate(heads(shown.table)):
        drawn.add_column(escape(title), justify="left" if index == 0 else "right", no_wrap=True)
    styles = {0: "", 1: "bold", 2: "underline"}
    for line in lines(shown.table):
        texts = [Text(text, styles[rank]) for text, rank in zip(cells(line), line.ranks, strict=True)]
        drawn.add_row(*texts, style="" if line.kind == "row" else "dim", end_section=line.ends_block)
    print_wide(drawn, [*filter(None, [table.title]), *table.head], console)
    for note in [*meanings(shown.table), *shown.remarks, *shown.table.notes()]:
        console.print(Text(note), soft_wrap=width is None)


def print_wide(table: RichTable, lines: Sequence[str], console: Console | None) -> Console:
    """Print lines and a table at full width, so that no number is cut on a narrow terminal."""
    console = console or Terminal(highlight=False)
    width = console.width
    widest = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, widest)
    for line in lines:
        console.print(Text(line), soft_wrap=not console.is_terminal, width=width)
    console.print(table)
    return console
