"""A table in Markdown."""

import re

from sr_lab.reporting.grid import Grid, lines, titles


def escape(text: str) -> str:
    """A text that neither ends its cell nor is taken for markup."""
    # A bracket could begin a picture of a stranger's server, or say where one lies.
    return re.sub(r"([\\|`*_<>[\]])", r"\\\1", " ".join(text.splitlines()))


def to_markdown(grid: Grid) -> str:
    """Head, table and notes, ours beside the paper's; best bold, second underlined."""
    columns = titles(grid)
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    written = []
    for line in lines(grid):
        cells = [marks[rank].format(escape(text)) for text, rank in zip(line.texts, line.ranks, strict=True)]
        if line.kind != "row":
            cells = [f"*{cell.strip()}*" if cell.strip() else "" for cell in cells]
        written.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join(["---", *["---:"] * (len(columns) - 1)]) + "|"
    head = [f"**{escape(grid.title)}**  ", *(f"{escape(line)}  " for line in grid.head)]
    table = [f"| {' | '.join(map(escape, columns))} |", rule, *written]
    notes = [f"{escape(note)}  " for note in grid.notes()]
    return "\n".join([*head, "", *table, *(["", *notes] if notes else [])]) + "\n"
