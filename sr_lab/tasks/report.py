"""``task=report``: print one table of many runs, and write it in every format next to the runs."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config.schema import ReportConfig
from sr_lab.reporting import claims, crops, page, saved_images
from sr_lab.reporting.experiment import experiment_table, in_table_order
from sr_lab.reporting.published import experiments_dir
from sr_lab.reporting.results import write_results
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.safe_csv import runs_to_csv
from sr_lab.reporting.terminal import print_table
from sr_lab.runs import sweep


def run(config: ReportConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Print the table, and write it as Markdown, CSV, LaTeX and a page into the folder of runs.

    If the runs have saved images of a test set, a figure of zoomed crops for it is written into ``crops/``.
    """
    root = Path(config.runs)
    runs = find_runs(root)
    table = experiment_table(runs, baseline=config.baseline)
    runs = in_table_order(table, runs)
    for _, name, text in page.forms(table):
        files.write(root / name, text)
    files.write(root / "runs.csv", runs_to_csv(runs))
    found = saved_images.find(runs, lambda line: sweep.console.print(line, markup=False))
    for picture in crops.most_different(found):
        crops.write(root / "crops", picture)
    files.write(root / "report.html", page.render(table, runs, root=root, found=found))
    print_table(table, columns=config.columns)
    sweep.console.print(f"report: {root / 'report.html'}", markup=False)
    if config.write_results:
        papers = experiments_dir()
        for path in write_results(runs, papers, note=sweep.console.print):
            sweep.console.print(f"results: {path}")
        if findings := claims.find(runs, claims.read_claims(papers)):
            sweep.console.print(f"claims: {claims.write_findings(findings, papers)}")
