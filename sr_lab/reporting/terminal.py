"""A terminal that untrusted text cannot control, and tables printed on it."""

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from sr_lab.files import printable
from sr_lab.reporting.formatting import shortened
from sr_lab.reporting.table import Table, lines, titles


class Terminal(Console):
    """A console that untrusted text cannot control; even a folder's name may contain escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as Rich does, after making every text `printable`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Let the command line handle it and exit quietly; Rich would exit with code 1."""
        raise BrokenPipeError


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; the best figures are bold, the second best underlined."""
    shown = RichTable()
    for index, title in enumerate(titles(table)):
        name = title if index == 0 else escape(title).replace(" ", "\n", 1)
        shown.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    styles = {0: "", 1: "bold", 2: "underline"}
    for line in lines(table):
        texts = [line.texts[0], *map(shortened, line.texts[1:])]
        cells = [Text(text, styles[rank]) for text, rank in zip(texts, line.ranks, strict=True)]
        shown.add_row(*cells, style="" if line.kind == "row" else "dim", end_section=line.ends_block)
    console = print_wide(shown, [*filter(None, [table.title]), *table.head], console)
    for note in table.notes():
        console.print(Text(note), soft_wrap=True)


def print_wide(table: RichTable, lines: Sequence[str], console: Console | None) -> Console:
    """Print lines and a table at full width, so that no number is cut on a narrow terminal."""
    console = console or Terminal(highlight=False)
    widest = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, widest)
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print(table)
    return console
