import pytest

from sr_lab.training.ending import Ending
from sr_lab.training.record import Record, Speed
from tests import tiny
from tests.training.test_record import rows

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def test_the_last_step_is_validated_when_the_interval_does_not_divide_the_steps(tmp_path):
    images = tiny.Images("A", 1)
    record = Record(tmp_path / "metrics.csv", Speed(batch_size=2), interval=1)
    tiny.trainer(tmp_path, max_steps=5, val_check_interval=2, callbacks=[record, Ending()]).fit(
        tiny.sr_module(val=[images]), tiny.data(val=[images])
    )
    validated = [row["step"] for row in rows(tmp_path / "metrics.csv") if row["val/psnr_y"]]
    assert validated == ["2", "4", "5"]
