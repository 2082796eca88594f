from pathlib import Path

from sr_lab.config.targets import build
from sr_lab.degradations.operations import RandomDegradation
from sr_lab.speed import degradation
from sr_lab.speed.benchmark import measure
from tests.composing import compose


def test_every_random_degradation_is_measured_relative_to_a_training_step(tmp_path, monkeypatch):
    small = {"SCALE": 2, "BATCH_SIZE": 2, "LR_PATCH_SIZE": 16, "NUM_FEAT": 16, "STEPS": 1, "BATCHES": 1}
    for name, value in small.items():
        monkeypatch.setattr(degradation, name, value)
    measured = measure(degradation.benchmarks(tmp_path), rounds=1)
    options = [path.stem for path in (Path(__file__).parents[2] / "conf/degradation").glob("*.yaml")]
    random = [name for name in options if isinstance(option(name), RandomDegradation)]
    assert set(measured) == {f"degradation.{name}_share_of_step" for name in random}
    assert all(spread.median > 0 for spread in measured.values())


def option(name):
    return build("degradation", compose(f"degradation={name}").degradation)
