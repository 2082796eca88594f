"""README's table of results, made from ``experiments/<paper>/results.csv``: ``make table``."""

import re
from pathlib import Path

from sr_lab import files
from sr_lab.errors import ConfigError
from sr_lab.reporting.experiment import FIVE_SETS, is_own_row
from sr_lab.reporting.grid import fixed
from sr_lab.reporting.markdown import escape
from sr_lab.reporting.published import experiments_dir, papers
from sr_lab.reporting.results import read_results

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
_NOTHING = "Nothing has been trained at a paper's full budget yet."


def section(root: Path) -> str:
    """The text between the markers: the papers' own networks at the papers' budget, print in brackets.

    Args:
        root: Folder of the papers.
    """
    rows: dict[tuple[str, ...], dict[tuple[str, str], dict[str, str]]] = {}
    others: dict[str, set[tuple[str, ...]]] = {}
    for paper in papers():
        for line in read_results(root / paper / "results.csv"):
            if line["budget"] != "paper":
                continue
            row = (paper, line["table"], line["row"], line["scale"])
            if is_own_row(paper, line["row"], line["model"]) and line["set"] in FIVE_SETS:
                rows.setdefault(row, {})[line["set"], line["metric"]] = line
            else:
                others.setdefault(paper, set()).add(row)
    others = {paper: found - rows.keys() for paper, found in others.items()}
    if not rows and not any(others.values()):
        return _NOTHING
    lines = []
    if rows:
        lines += [
            "PSNR / SSIM, mean ± standard deviation over n seeds, in brackets what the paper prints.",
            "",
            f"| network | {' | '.join(FIVE_SETS)} | n | commit | hardware |",
            "|---|" + "---|" * (len(FIVE_SETS) + 3),
            *(_line(row, found) for row, found in rows.items()),
            "",
        ]
    more = [f"{len(found)} in `experiments/{paper}/results.csv`" for paper, found in others.items() if found]
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
        print_ = f" ({psnr['paper']} / {ssim['paper']})" if psnr["paper"] and ssim["paper"] else ""
        cells.append(ours + print_)
    one = next(iter(found.values()))
    commits = " ".join(commit[:8] for commit in one["commit"].split("|"))
    name = escape(f"{label} x{scale}, {paper} {table}")
    return f"| {name} | {' | '.join(cells)} | {one['n']} | {commits} | {escape(one['hardware'])} |"


def filled(text: str, root: Path) -> str:
    """README with the section put in.

    Raises:
        ConfigError: It has no markers.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"README.md: needs one '{BEGIN}' and one '{END}' behind it; put them in")
    new = f"{BEGIN}\n{section(root)}\n{END}"
    return re.sub(f"{BEGIN}.*?{END}", lambda _: new, text, flags=re.DOTALL)


def main() -> None:
    """Fill README.md of the checkout."""
    root = experiments_dir()
    readme = root.parent / "README.md"
    files.write(readme, filled(readme.read_text(), root))


if __name__ == "__main__":
    main()
