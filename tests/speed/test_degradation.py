from pathlib import Path

from sr_lab.config.targets import build
from sr_lab.degradations.operations import RandomDegradation
from sr_lab.speed.contest import play
from sr_lab.speed.degradation import contests
from tests.conftest import compose


def test_every_random_degradation_is_measured_against_a_step(tmp_path):
    small = contests(tmp_path, scale=2, batch_size=2, lr_patch_size=16, num_feat=16, steps=1, batches=1)
    played = play(small, rounds=1)
    options = [path.stem for path in (Path(__file__).parents[2] / "conf/degradation").glob("*.yaml")]
    random = [name for name in options if isinstance(degradation(name), RandomDegradation)]
    assert set(played) == {f"degradation.{name}_share_of_step" for name in random}
    assert all(spread.median > 0 for spread in played.values())


def degradation(name):
    return build(compose(f"degradation={name}").degradation)
