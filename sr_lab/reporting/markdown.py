"""Write tables as Markdown, and fill in text between two markers of a file."""

import re

from sr_lab.errors import ConfigError
from sr_lab.files import printable
from sr_lab.reporting.table import Table, lines, titles


def escape(text: str) -> str:
    """Escape a text so that it neither ends its table cell nor is read as markup."""
    # A bracket could start an image that is loaded from an untrusted server.
    return re.sub(r"([\\|`*_<>[\]])", r"\\\1", " ".join(printable(text).splitlines()))


def to_markdown(table: Table) -> str:
    """The lines above the table, the table with the paper's values below ours, and its notes."""
    columns = titles(table)
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    written = []
    for line in lines(table):
        cells = [marks[rank].format(escape(text)) for text, rank in zip(line.texts, line.ranks, strict=True)]
        if line.kind != "row":
            cells = [f"*{cell.strip()}*" if cell.strip() else "" for cell in cells]
        written.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join(["---", *["---:"] * (len(columns) - 1)]) + "|"
    head = [f"**{escape(table.title)}**  ", *(f"{escape(line)}  " for line in table.head)]
    body = [f"| {' | '.join(map(escape, columns))} |", rule, *written]
    notes = [f"{escape(note)}  " for note in table.notes()]
    return "\n".join([*head, "", *body, *(["", *notes] if notes else [])]) + "\n"


def fill(text: str, content: str, *, begin: str, end: str, where: str) -> str:
    """The text of the file ``where`` with everything between its two markers replaced.

    Raises:
        ConfigError: The markers are missing, or there are several.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ConfigError(f"{where}: needs one '{begin}' and one '{end}' after it; put them in")
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)
