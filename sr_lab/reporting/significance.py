"""Test whether rows differ by more than chance: Wilcoxon's signed-rank test per image, Holm-corrected."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sr_lab.reporting.runs import Run
from sr_lab.reporting.table import Significance

MIN_IMAGES = 6  # with fewer images, no outcome reaches p < 0.05
ALL_SETS = "all sets"

Images = Mapping[tuple[str, str], float]


def per_image(runs: Sequence[Run], key: str = "psnr_y") -> dict[tuple[str, str], float]:
    """(set, image) -> PSNR, the mean over the seeds that have the image."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for image in run.images:
            psnr = image.get(key)
            if isinstance(psnr, (int, float)) and math.isfinite(psnr):
                found.setdefault((str(image.get("set_name", "")), str(image["image"])), []).append(psnr)
    return {image: statistics.fmean(values) for image, values in found.items()}


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; zero differences take part in the ranking (Pratt).

    The p-value is 1 if nothing differs.
    """
    from scipy.stats import wilcoxon  # takes a second to load

    # Even if two networks give the same bytes, their PSNR may differ in the last bits.
    rounded = [round(difference, 9) for difference in differences]
    return float(wilcoxon(rounded, zero_method="pratt").pvalue) if any(rounded) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down method, in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [0.0] * len(values), 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - position) * values[index]))
        corrected[index] = largest
    return corrected


def compare(rows: Sequence[Images], baseline: Images) -> list[tuple[Significance, ...]]:
    """Test each row against the baseline: on all sets together, then on each set that both have."""
    sets = dict.fromkeys(set_name for set_name, _ in baseline)
    names = [ALL_SETS, *(sets if len(sets) > 1 else ())]
    found: list[list[Significance]] = [[] for _ in rows]
    for name in names:
        tests = [_test(name, row, baseline) for row in rows]
        values = iter(holm([test.p for test in tests if test.p is not None]))
        for own, test in zip(found, tests, strict=True):
            if test.count or name == ALL_SETS:
                own.append(test if test.p is None else replace(test, p_holm=next(values)))
    return [tuple(tests) for tests in found]


def _test(name: str, row: Images, baseline: Images) -> Significance:
    common = [image for image in baseline if image in row and name in (ALL_SETS, image[0])]
    enough = len(common) >= MIN_IMAGES
    differences = [row[image] - baseline[image] for image in common]
    return Significance(name, len(common), signed_rank(differences) if enough else None)
