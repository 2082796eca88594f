r"""A table in LaTeX in the style of papers: ``booktabs``, ``multirow``; best bold, second best underlined."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from sr_lab.files import printable
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.table import Cell, Column, Row, Table

_NEEDS = "booktabs,multirow,adjustbox,amssymb,pifont"
_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    **dict.fromkeys("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "),
}
_TITLES = {
    "params": r"\#Params",
    "multi-adds": r"\#Multi-Adds",
    "printed multi-adds": r"\#Multi-Adds (printed)",
}
MARKS = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
_MIN_SEEDS = 3  # with fewer, no standard deviation is printed


def escape(text: str) -> str:
    """LaTeX source that prints a text unchanged."""
    return "".join(_SPECIAL.get(character, character) for character in printable(text))


def to_latex(table: Table, *, paired: bool = False) -> str:
    r"""A ``table*`` that fits the page; needs booktabs, multirow, adjustbox, amssymb and pifont.

    Columns that the paper's table does not have are left out. If some rows were measured, the other rows show
    the paper's values with a dagger and without a rank.

    Args:
        table: Any table.
        paired: PSNR and SSIM in one cell, each with its own mark, and units after the numbers (EFRDN,
            Table 1); otherwise one column for each number (OSFFNet, Table 1).
    """
    shown = [index for index, column in enumerate(table.columns) if not column.is_extra]
    columns = [table.columns[index] for index in shown]
    rows = [replace(row, cells=tuple(row.cells[index] for index in shown)) for row in table.rows]
    cited = any(row.is_measured for row in rows)
    slots = _slots(columns, paired)
    lead = 2 if table.has_blocks else 1
    caption = f"{escape(table.title)}. The best values are bold, the second best underlined."
    if cited and any(row.problem and row.has_paper for row in rows):
        caption += r" $^\dagger$: as printed in the paper, not ranked."
    if bases := {_label(row.against, rows) for row in rows if row.mark}:
        base = bases.pop() if len(bases) == 1 else "its baseline row"
        caption += rf" $^{{*}}$: differs from {base}, $p < 0.05$ (Wilcoxon, Holm)."
    if any(
        column.with_gain and row.cells[n].gain is not None for row in rows for n, column in enumerate(columns)
    ):
        caption += " In brackets: difference from the baseline row in dB."
    footnotes = {cell.mark: cell.note for row in rows for cell in row.cells if cell.mark}
    caption += "".join(rf" $^{{{mark}}}$: {escape(note)}." for mark, note in footnotes.items())
    body = []
    for _, block in groupby(rows, key=lambda row: row.block):
        members = sorted(block, key=lambda row: row.is_own)  # ours last
        body.append(
            [
                _row(row, columns, slots, paired, len(members) if position == 0 else 0, rows)
                for position, row in enumerate(members)
            ]
        )
    # Text columns are left-aligned, like the names.
    is_text = [all(row.cells[i].text and row.cells[i].value is None for row in rows) for i, *_ in slots]
    align = "".join("l" if text else "c" for text in is_text)
    return "\n".join(
        [
            rf"% \usepackage{{{_NEEDS}}}",
            *(f"% {' '.join(line.split())}" for line in table.head),
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\setlength{\abovetopsep}{4pt}",  # between caption and rule
            r"\begin{adjustbox}{max width=\textwidth, max totalheight=0.9\textheight}",
            rf"\begin{{tabular}}{{l{'c' * (lead - 1)}{align}}}",
            r"\toprule",
            *_head(columns, slots, lead, paired),
            r"\midrule",
            *"\n\\midrule\n".join("\n".join(block) for block in body).splitlines(),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            r"\end{table*}",
            "",
        ]
    )


def _slots(columns: Sequence[Column], paired: bool) -> list[tuple[int, ...]]:
    """The columns of the LaTeX table, each as the indices of the table columns that it shows."""
    slots: list[tuple[int, ...]] = []
    for index, column in enumerate(columns):
        before = columns[index - 1] if index else None
        is_pair = before is not None and before.group == column.group != ""
        if paired and is_pair and before is not None and (before.title, column.title) == ("PSNR", "SSIM"):
            slots[-1] = (index - 1, index)
        else:
            slots.append((index,))
    return slots


def _head(columns: Sequence[Column], slots: Sequence[tuple[int, ...]], lead: int, paired: bool) -> list[str]:
    """One header line, or two with the test sets above their columns."""
    titles = ["/".join(_title(columns[index], paired) for index in slot) for slot in slots]
    groups = [(group, list(own)) for group, own in groupby(slots, key=lambda slot: columns[slot[0]].group)]
    names = ["Method", "Scale"][:lead]
    if not any(group for group, _ in groups):
        return [" & ".join([*names, *titles]) + r" \\"]
    upper = [rf"\multirow{{2}}{{*}}{{{name}}}" for name in names]
    lower, rules, place = [""] * lead, [], lead
    for group, own in groups:
        of_group = titles[place - lead :][: len(own)]
        if group:
            name = escape(group)
            upper.append(rf"\multicolumn{{{len(own)}}}{{c}}{{{name}}}")
            rules.append(rf"\cmidrule(lr){{{place + 1}-{place + len(own)}}}")
            lower += of_group
        else:
            upper += [rf"\multirow{{2}}{{*}}{{{title}}}" for title in of_group]
            lower += [""] * len(own)
        place += len(own)
    return [" & ".join(upper) + r" \\", "".join(rules), " & ".join(lower) + r" \\"]


def _title(column: Column, paired: bool) -> str:
    title = _TITLES.get(column.title, escape(column.title))
    return f"{title} [{escape(column.unit)}]" if column.unit and not paired else title


def _row(
    row: Row,
    columns: Sequence[Column],
    slots: Sequence[tuple[int, ...]],
    paired: bool,
    span: int,
    rows: Sequence[Row],
) -> str:
    texts = [
        _cell(
            replace(cell, value=cell.paper, text=cell.text or cell.paper_text) if row.problem else cell,
            column,
            paired,
        )
        for cell, column in zip(row.cells, columns, strict=True)
    ]
    missing = "--" if paired else "-"
    texts = [missing if text == "-" else text for text in texts]
    cells = ["/".join(dict.fromkeys(texts[index] for index in slot)) for slot in slots]
    times = rf"$\times${escape(row.block[1:])}"
    scale = [rf"\multirow{{{span}}}{{*}}{{{times}}}" if span else ""]
    name = _name(row, rows)
    return " & ".join([name, *(scale if any(other.block for other in rows) else []), *cells]) + r" \\"


def _label(label: str, rows: Sequence[Row]) -> str:
    """A row's label; ``101`` in a table of components becomes a tick, a cross and a tick."""
    labels = [label, *(row.label for row in rows if not row.is_reference)]
    if all(re.fullmatch("[01]{2,}", other) for other in labels):
        signs = {"0": r"\ding{55}", "1": r"\checkmark"}
        return r"\,".join(signs[digit] for digit in label)
    return escape(label)


def _name(row: Row, rows: Sequence[Row]) -> str:
    name = _label(row.label, rows)
    name = rf"\textbf{{{name}}}" if row.is_own else name
    if row.problem and row.has_paper and any(other.is_measured for other in rows):
        name += r"$^\dagger$"
    return name + (r"$^{*}$" if row.mark else "")


def _cell(cell: Cell, column: Column, paired: bool) -> str:
    text = replace(cell, mark="").shown(column, min_count=_MIN_SEEDS)
    if paired and (cell.value is not None or cell.note) and column.unit:
        if column.decimals == 0 and "." not in text:
            text = f"{float(text):,.0f}" if cell.text else f"{int(fixed(cell.value, 0)):,}"
        text = f"{text}{column.unit}"
    return MARKS[cell.rank].format(escape(text)) + (f"$^{{{cell.mark}}}$" if cell.mark else "")
