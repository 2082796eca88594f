"""A run with two processes, both of which are killed."""

import signal
from pathlib import Path

import pytest

from tests.command_line import run_folder, sr_lab
from tests.reliability.comparing import differences
from tests.reliability.forge import TINY, small_images

pytestmark = pytest.mark.slow

TWO = (
    # without gradient noise, which would make ranks with different random states drift apart
    *(x for x in TINY if x not in ("trainer=cpu", "batch_size=2") and ".noise." not in x),
    *(
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "batch_size=4",
        "budget.max_batch_size=4",
    ),
    *(
        "+callbacks.draws._target_=tests.reliability.plugins.Draws",
        "paths.data_dir=data",
        "dataset.hr_dir=images",
    ),
)


def draws(folder: Path, rank: int, begun: int) -> list[str]:
    return (folder / f"draws{rank}-{begun}.txt").read_text().splitlines()


def test_two_killed_processes_resume_bit_equal_and_each_restores_its_random_state(tmp_path):
    root = str(Path(__file__).parents[2])
    folders = {}
    for name, step in (("whole", 1000), ("killed", 12)):
        place = tmp_path / name
        small_images(place)
        attempts = [
            sr_lab(place, *TWO, f"+callbacks.draws.die_after={step}", PYTHONPATH=root)
            for _ in range(1 if name == "whole" else 2)
        ]
        assert attempts[-1].returncode == 0, attempts[-1].stderr
        assert attempts[0].returncode == (0 if name == "whole" else -signal.SIGKILL)
        folders[name] = run_folder(place)
    assert differences(folders["whole"], folders["killed"]) == []
    for rank in (0, 1):  # the last checkpoint before step 12 is from step 10; a step is two batches
        assert draws(folders["killed"], rank, 10) == draws(folders["whole"], rank, 0)[20:]
    assert draws(folders["whole"], 0, 0)[20:] != draws(folders["whole"], 1, 0)[20:]
