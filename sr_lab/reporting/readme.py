"""The tables of results in two READMEs, made from ``experiments/*/results.csv`` by ``make table``."""

from pathlib import Path

from sr_lab import files
from sr_lab.reporting import claims
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.markdown import escape, fill
from sr_lab.reporting.published import experiments_dir, papers
from sr_lab.reporting.results import read_results
from sr_lab.reporting.rows import FIVE_SETS, is_own_row

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
_NOTHING = "Nothing has been trained at a paper's full budget yet."


def section(root: Path) -> str:
    """The text between the markers: the papers' own networks, trained at the papers' budget."""
    rows: dict[tuple[str, ...], dict[tuple[str, str], dict[str, str]]] = {}
    rest: dict[str, set[tuple[str, ...]]] = {}
    for paper in papers():
        for line in read_results(root / paper / "results.csv"):
            if line["budget"] != "paper":
                continue
            row = (paper, line["table"], line["row"], line["scale"])
            if is_own_row(paper, line["row"], line["model"]) and line["set"] in FIVE_SETS:
                rows.setdefault(row, {})[line["set"], line["metric"]] = line
            else:
                rest.setdefault(paper, set()).add(row)
    rest = {paper: found - rows.keys() for paper, found in rest.items()}
    if not rows and not any(rest.values()):
        return _NOTHING
    lines = []
    if rows:
        lines += [
            "PSNR / SSIM, mean ± standard deviation over n seeds; the paper's values in brackets.",
            "",
            f"| network | {' | '.join(FIVE_SETS)} | n | commit | hardware |",
            "|---|" + "---|" * (len(FIVE_SETS) + 3),
            *(_line(row, found) for row, found in rows.items()),
            "",
        ]
    more = [f"{len(found)} in `experiments/{paper}/results.csv`" for paper, found in rest.items() if found]
    if more:
        lines.append(f"{'Further rows' if rows else 'Rows'} of the papers' tables: {', '.join(more)}.")
    return "\n".join(lines).strip()


def _line(row: tuple[str, ...], found: dict[tuple[str, str], dict[str, str]]) -> str:
    paper, table, label, scale = row
    cells = []
    for name in FIVE_SETS:
        psnr, ssim = found.get((name, "psnr_y")), found.get((name, "ssim_y"))
        if psnr is None or ssim is None:
            cells.append("-")
            continue
        std = f" ± {fixed(float(psnr['std']), 2)}" if psnr["std"] else ""
        ours = f"{fixed(float(psnr['value']), 2)}{std} / {fixed(float(ssim['value']), 4)}"
        printed = f" ({psnr['paper']} / {ssim['paper']})" if psnr["paper"] and ssim["paper"] else ""
        cells.append(ours + printed)
    one = next(iter(found.values()))
    commits = " ".join(commit[:8] for commit in one["commit"].split("|"))
    name = escape(f"{label} x{scale}, {paper} {table}")
    return f"| {name} | {' | '.join(cells)} | {one['n']} | {commits} | {escape(one['hardware'])} |"


def filled(text: str, root: Path) -> str:
    """The README with the section filled in.

    Raises:
        ConfigError: The markers are missing.
    """
    return fill(text, section(root), begin=BEGIN, end=END, where="README.md")


def main() -> None:
    """Fill in README.md and experiments/ledger/README.md of the checkout."""
    root = experiments_dir()
    readme, ledger = root.parent / "README.md", root / "ledger" / "README.md"
    files.write(readme, filled(readme.read_text(encoding="utf-8"), root))
    text = ledger.read_text(encoding="utf-8")
    files.write(ledger, fill(text, claims.section(root), begin=BEGIN, end=END, where=str(ledger)))


if __name__ == "__main__":
    main()
