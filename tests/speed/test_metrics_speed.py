import math

import pytest

from sr_lab.speed import metrics
from sr_lab.speed.benchmark import measure
from tests import tiny

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
]


def test_the_benchmarks_return_the_figures_that_have_goals_and_write_pictures(tmp_path, monkeypatch):
    small = {"SCALE": 2, "NETWORK": lambda scale: tiny.TinyNet(), "SIZES": ((40, 30), (32, 48)), "SIDE": 64}
    for name, value in (small | {"REPEATS": 1}).items():
        monkeypatch.setattr(metrics, name, value)
    measured = measure(metrics.benchmarks(tmp_path), rounds=1)
    named = {"ssim.ratio_to_skimage", "ssim.ratio_to_kornia", "psnr.ratio_to_skimage"}
    assert named | {"evaluate.share_outside_network"} <= measured.keys()
    assert all(math.isfinite(spread.median) for spread in measured.values())
    assert 0 < measured["evaluate.share_outside_network"].median < 1  # a tiny network takes little time
    assert (tmp_path / "pictures" / "Set14_00.png").is_file()
