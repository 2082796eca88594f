"""LaTeX tables as papers print them."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from sr_lab.reporting import published
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.latex import escape, to_latex
from sr_lab.reporting.table import Cell, Column, Row, Table
from tests.report_runs import as_printed, finished


def latex(paper: str, table: str, *, paired: bool = False) -> str:
    """A paper's table, filled by runs whose results equal the printed values."""
    return to_latex(experiment_table(as_printed(paper, table)), paired=paired)


TABLE = latex("osffnet", "table1")
PAIRED = latex("efrdn", "table1", paired=True)
MEASURED = to_latex(experiment_table([finished("000", 31.9), finished("111", 32.2)]))


def body(text: str) -> list[str]:
    return text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()


def width(line: str) -> int:
    """Number of columns that a line fills, counting each spanned column."""
    spans = [int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d+)\}", line)]
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans)


@pytest.mark.parametrize("text", [TABLE, PAIRED, latex("two_strategies", "table2")])
def test_every_line_is_as_wide_as_the_table_and_every_brace_is_closed(text):
    (align,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert {width(line) for line in text.splitlines() if line.endswith(r"\\")} == {len(align)}
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


def test_the_split_form_has_a_column_for_each_metric_below_its_set():
    head = TABLE[TABLE.index(r"\toprule") : TABLE.index(r"\midrule")]
    assert r"\multirow{2}{*}{\#Params [K]} & \multirow{2}{*}{\#Multi-Adds [G]}" in head
    assert r"\multirow{2}{*}{\#Multi-Adds (printed) [G]}" in head
    assert r"\multicolumn{2}{c}{Set5} & \multicolumn{2}{c}{Set14}" in head
    assert r"\cmidrule(lr){6-7}\cmidrule(lr){8-9}" in head
    assert head.count("PSNR & SSIM") == 5


def test_blocks_are_separated_and_our_network_is_last_and_bold():
    blocks = "\n".join(body(TABLE)).split("\\midrule\n")[1:]
    assert [re.findall(r"\\times\$(\d)", block) for block in blocks] == [["2"], ["3"], ["4"]]
    for block in blocks:
        names = [line.partition(" & ")[0] for line in block.splitlines() if " & " in line]
        assert names[-1] == r"\textbf{OSFFNet}"
        assert rf"\multirow{{{len(names)}}}{{*}}" in block


def test_the_best_value_is_bold_and_the_second_best_is_underlined():
    (line,) = [line for line in body(TABLE) if line.startswith("BSRN &  & 352 ")]
    assert r"\textbf{30.84}" in line
    assert r"\underline{32.35}" in line


def test_the_paired_form_has_both_numbers_in_one_cell_and_marks_each_separately():
    assert "PSNR/SSIM & PSNR/SSIM" in PAIRED
    (carn, *_) = [line for line in body(PAIRED) if line.startswith("CARN")]
    assert r"1,592K & 222.8G & 222.8G$^{b}$ & 37.76/0.9590" in carn
    assert r"$^{b}$: weights of convolutions times positions at 1280x720" in PAIRED
    (ecbsr, *_) = [line for line in body(PAIRED) if line.startswith("ECBSR")]
    assert r"37.90/\textbf{0.9615}" in ecbsr
    assert ecbsr.endswith(r"-- \\")
    gains = latex("two_strategies", "table2", paired=True)
    assert "FSRCNN + GGAS &  & 34K & --/0.8733 &" in gains  # the paper prints only the gain of PSNR


def test_components_of_an_ablation_are_shown_as_ticks_and_crosses():
    text = latex("osffnet", "table2")
    assert r"\ding{55}\,\checkmark\,\checkmark & " in text


def test_special_characters_in_names_are_escaped():
    assert escape(r"a_b & 50% #1 {x} ~^\ ±") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )
    rows = (Row(r"evil_\input{x} & y", (Cell(text="100%"),)),)
    text = to_latex(Table("a_b", ("50% done\n\\input{x}",), (Column("num_feat"),), rows))
    assert r"evil\_\textbackslash{}input\{x\} \& y & 100\% \\" in text
    assert r"\caption{a\_b." in text
    assert r"% 50% done \input{x}" in text.splitlines()


def test_an_unmeasured_row_has_the_papers_figures_and_a_dagger():
    lines = {line.partition(" &")[0]: line for line in body(MEASURED)}
    cited = lines[r"\checkmark\,\ding{55}\,\ding{55}$^\dagger$"]
    assert r"& 488 & - & 19.5$^{a}$ & 32.11 & 0.8936 &" in cited
    assert r"\textbf" not in cited
    assert "as printed in the paper, not ranked" in MEASURED


def test_a_measured_row_contains_no_figure_from_the_paper():
    (line,) = [line for line in body(MEASURED) if line.startswith(r"\ding{55}\,\ding{55}\,\ding{55}")]
    assert line.endswith("& - & - & - & - & - & - \\\\")


@pytest.mark.parametrize(("seeds", "shown"), [(2, False), (3, True)])
def test_a_standard_deviation_is_printed_for_three_or_more_seeds(seeds, shown):
    runs = [finished("111", 32.0 + seed / 10, seed=seed) for seed in range(seeds)]
    assert (r"$\pm$" in to_latex(experiment_table(runs))) == shown


def test_columns_that_the_paper_does_not_print_are_left_out():
    text = to_latex(experiment_table([finished("111", 32.0, sets=("Set5", "sample"), wall_time_s=3.0)]))
    assert "sample" not in text[text.index(r"\begin{tabular}") :]
    assert "[s]" not in text


def test_a_significant_row_has_a_star_and_the_caption_names_the_baseline():
    assert r"\checkmark\,\checkmark\,\checkmark$^{*}$" in MEASURED
    assert r"differs from \ding{55}\,\ding{55}\,\ding{55}, $p < 0.05$" in MEASURED


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex; Debian: texlive-latex-extra")
@pytest.mark.parametrize("paired", [False, True])
def test_all_tables_in_the_papers_compile_and_fit_the_page(paired, tmp_path):
    names = dict.fromkeys((figure.paper, figure.table) for figure in published.figures())
    tables = [latex(paper, name, paired=paired) for paper, name in names]
    (packages,) = {text.splitlines()[0].removeprefix("% ") for text in tables}
    document = r"\documentclass{article}" + packages + r"\begin{document}" + r"\clearpage ".join(tables)
    (tmp_path / "t.tex").write_text(document + r"\end{document}")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large" not in done.stdout
    assert "Overfull" not in done.stdout


def test_a_table_without_sets_has_one_header_line():
    table = Table("t", (), (Column("num_feat"), Column("PSNR")), (Row("a", (Cell(text="8"), Cell(30.0))),))
    text = to_latex(table)
    assert "Method & num\\_feat & PSNR \\\\" in text
    assert "cmidrule" not in text
    table = replace(table, rows=(replace(table.rows[0], block="x4"),))
    assert "Method & Scale & num" in to_latex(table)
