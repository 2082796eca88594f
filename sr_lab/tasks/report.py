"""``task=report``: runs to one table, on the terminal and, in every form, beside the runs."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config.schema import ReportConfig
from sr_lab.reporting import crops, page, pictures
from sr_lab.reporting.experiment import experiment_grid, in_table_order, print_runs
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.results import to_csv, write_results
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.table import to_csv as runs_to_csv
from sr_lab.runs import sweep


def run(config: ReportConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write the table as Markdown, CSV, LaTeX and a page into the folder of runs, and print it.

    Of each test set of which the runs kept pictures, a figure of zoomed crops lies in ``crops/``.
    """
    root = Path(config.runs)
    runs = find_runs(root)
    grid = experiment_grid(runs, baseline=config.baseline)
    runs = in_table_order(grid, runs)
    files.write(root / "table.md", to_markdown(grid))
    files.write(root / "table.csv", to_csv(grid))
    files.write(root / "table.tex", to_latex(grid))
    files.write(root / "table_paired.tex", to_latex(grid, paired=True))
    files.write(root / "runs.csv", runs_to_csv(runs))
    figures = [
        (picture, crops.write(root / "crops", picture)) for picture in crops.striking(pictures.find(runs))
    ]
    page.write(root / "report.html", grid, runs, figures)
    print_runs(runs, grid)
    sweep.console.print(f"report: {root / 'report.html'}", markup=False)
    for path in write_results(runs) if config.write_results else ():
        sweep.console.print(f"results: {path}", markup=False)
