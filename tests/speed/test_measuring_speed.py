import math

import pytest

from sr_lab.speed.contest import play
from sr_lab.speed.metrics import contests
from tests import tiny

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
]


def test_the_contests_run_and_give_the_figures_that_the_goals_name(tmp_path):
    small = contests(
        tmp_path, network=tiny.TinyNet(), scale=2, sizes=((40, 30), (32, 48)), side=64, repeats=1
    )
    played = play(small, rounds=1)
    named = {"ssim.ratio_to_skimage", "ssim.ratio_to_kornia", "psnr.ratio_to_skimage"}
    assert named | {"evaluate.share_outside_network"} <= played.keys()
    assert all(math.isfinite(spread.median) for spread in played.values())
    assert 0 < played["evaluate.share_outside_network"].median < 1  # a tiny network takes next to nothing


def test_an_evaluation_writes_its_pictures_within_its_time(tmp_path):
    *_, evaluate = contests(tmp_path, network=tiny.TinyNet(), scale=2, sizes=((40, 30),), side=64, repeats=1)
    assert evaluate.contenders["whole"]() > 0
    assert (tmp_path / "pictures" / "Set14_00.png").is_file()
