"""Whether small training runs confirm the direction of the papers' claims: ``experiments/ledger``."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeAlias

from sr_lab import files
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.markdown import escape
from sr_lab.reporting.results import recipe_of
from sr_lab.reporting.runs import PRINTED_PROTOCOL, Run
from sr_lab.reporting.safe_csv import csv_text, original
from sr_lab.reporting.significance import MIN_IMAGES, holm, per_image, signed_rank

Verdict: TypeAlias = Literal["holds", "undecided", "reversed"]
_LEVEL = 0.05
_WORDS = ("paper", "table", "better", "worse", "claim", "set")
_NUMBERS = ("difference", "std", "p")


@dataclass(frozen=True)
class Claim:
    """One row of a paper's table is better than another: a claim of the paper, or a control of ours.

    Args:
        paper: Folder in ``experiments/``.
        table: Name of the table.
        better: Label of the row that is said to be better.
        worse: Label of the other row.
        claim: The claim in words.
        set: Test set of the printed difference; empty for a control.
        printed: The paper's PSNR of ``better`` minus that of ``worse`` in dB; ``None`` for a control.
    """

    paper: str
    table: str
    better: str
    worse: str
    claim: str
    set: str
    printed: float | None


@dataclass(frozen=True)
class Finding:
    """What the runs of a claim's two rows show.

    Args:
        paper: Folder in ``experiments/``.
        table: Name of the table.
        better: Label of the row that is said to be better.
        worse: Label of the other row.
        seeds: Number of seeds that both rows have.
        images: Number of test images.
        difference: PSNR of ``better`` minus that of ``worse`` in dB, the mean over images and seeds.
        std: Standard deviation of that difference over the seeds; NaN for one seed.
        p: p-value of Wilcoxon's signed-rank test over the images, corrected by Holm for the table's claims.
        verdict: ``holds`` or ``reversed`` if the difference has the same sign for every one of at least three
            seeds and p < 0.05, otherwise ``undecided``.
        budget: How the runs were trained.
        commit: Their code.
    """

    paper: str
    table: str
    better: str
    worse: str
    seeds: int
    images: int
    difference: float
    std: float
    p: float
    verdict: Verdict
    budget: str
    commit: str


COLUMNS = tuple(field.name for field in fields(Finding))


def read_claims(root: Path) -> list[Claim]:
    """The claims in ``<root>/ledger/claims.csv``; none in an installation without the repository."""
    path = root / "ledger" / "claims.csv"
    rows = files.read_csv(path) if path.is_file() else []
    return [
        Claim(
            **{name: row[name] for name in _WORDS}, printed=float(row["printed"]) if row["printed"] else None
        )
        for row in rows
    ]


def find(runs: Sequence[Run], claims: Sequence[Claim]) -> list[Finding]:
    """The findings on claims for which both rows have finished runs, for each budget separately."""
    found = []
    usable = [run for run in runs if not run.problem and run.values.get("protocol") == PRINTED_PROTOCOL]
    for name in sorted({recipe_of(run) for run in usable}):
        alike = [run for run in usable if recipe_of(run) == name]
        for paper, table in sorted({(claim.paper, claim.table) for claim in claims}):
            own = [run for run in alike if run.table == (paper, table)]
            asked = [claim for claim in claims if (claim.paper, claim.table) == (paper, table)]
            found += _corrected([each for claim in asked if (each := _finding(claim, own, name)) is not None])
    return found


def _finding(claim: Claim, runs: Sequence[Run], name: str) -> Finding | None:
    better, worse = (
        {run.seed: run for run in runs if label in run.labels} for label in (claim.better, claim.worse)
    )
    seeds = [seed for seed in better if seed in worse]
    if not seeds:
        return None
    pairs = [(better[seed], worse[seed]) for seed in seeds]
    by_seed = [statistics.fmean(_differences([one], [other])) for one, other in pairs]
    differences = _differences([one for one, _ in pairs], [other for _, other in pairs])
    agree = len(seeds) >= 3 and (min(by_seed) > 0 or max(by_seed) < 0)
    p = signed_rank(differences) if len(differences) >= MIN_IMAGES else 1.0
    verdict: Verdict = "undecided" if not agree else "holds" if min(by_seed) > 0 else "reversed"
    commits = dict.fromkeys(run.commit for pair in pairs for run in pair)
    return Finding(
        *(claim.paper, claim.table, claim.better, claim.worse, len(seeds), len(differences)),
        difference=statistics.fmean(by_seed),
        std=statistics.stdev(by_seed) if len(seeds) > 1 else math.nan,
        p=p,
        verdict=verdict,
        budget=name,
        commit=" ".join(filter(None, commits)),
    )


def _differences(better: Sequence[Run], worse: Sequence[Run]) -> list[float]:
    """Differences in PSNR, in dB, on the images that both rows have."""
    ours, theirs = per_image(better), per_image(worse)
    return [ours[image] - theirs[image] for image in ours if image in theirs]


def _corrected(findings: Sequence[Finding]) -> list[Finding]:
    corrected = holm([finding.p for finding in findings])
    return [
        replace(finding, p=p, verdict=finding.verdict if p < _LEVEL else "undecided")
        for finding, p in zip(findings, corrected, strict=True)
    ]


def write_findings(findings: Iterable[Finding], root: Path) -> Path:
    """Add findings to ``<root>/ledger/results.csv``, replacing those of the same claim and budget."""
    path = root / "ledger" / "results.csv"
    known: dict[tuple[str, ...], Mapping[str, object]] = {}
    for row in [*read_findings(root), *map(asdict, findings)]:
        # As a string, a negative number would be escaped like a formula.
        known[_key(row)] = row | {key: float(f"{float(row[key]):.4g}") for key in _NUMBERS}
    files.write(path, csv_text(COLUMNS, [known[key] for key in sorted(known)]))
    return path


def read_findings(root: Path) -> list[dict[str, str]]:
    """The rows of ``<root>/ledger/results.csv``; none if it does not exist."""
    path = root / "ledger" / "results.csv"
    if not path.is_file():
        return []
    return [{key: original(text) for key, text in row.items()} for row in files.read_csv(path)]


def section(root: Path) -> str:
    """The findings on the claims, as a table in Markdown."""
    claims = {(each.paper, each.table, each.better, each.worse): each for each in read_claims(root)}
    lines = [
        "| paper | claim | printed [dB] | here [dB] | seeds | p | seen here |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in read_findings(root):
        claim = claims.get((row["paper"], row["table"], row["better"], row["worse"]))
        if claim is None:
            continue
        spread = "" if row["std"] == "nan" else f" ± {fixed(float(row['std']), 2)}"
        here = f"{float(row['difference']):+.2f}{spread}"
        p = "< 0.001" if float(row["p"]) < 0.001 else f"{float(row['p']):.2g}"
        printed = "control" if claim.printed is None else f"{claim.printed:+.2f} ({claim.set})"
        cells = [claim.paper, escape(claim.claim), printed, here, row["seeds"], p, row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Nothing has been trained yet."


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("paper", "table", "better", "worse", "budget"))
