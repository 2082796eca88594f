import io
from pathlib import Path

import pytest
from rich.console import Console

from sr_lab.training.progress import TrainingProgress
from sr_lab.training.record import Record, Speed
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def progress(folder: Path) -> str:
    """The terminal output of a training run with the progress bar."""
    speed = Speed(batch_size=2)
    bar = TrainingProgress(speed)
    screen = io.StringIO()
    bar.console = Console(file=screen, force_terminal=True, width=160)
    images = tiny.Images("A", 1)
    trainer = tiny.trainer(
        folder,
        max_steps=3,
        val_check_interval=1,
        enable_progress_bar=True,
        callbacks=[Record(folder / "metrics.csv", speed, interval=1), bar],
    )
    trainer.fit(tiny.sr_module(val=[images]), tiny.data(val=[images]))
    return screen.getvalue()


def test_the_progress_bar_shows_steps_loss_psnr_speed_and_waiting_time(tmp_path):
    shown = progress(tmp_path)
    for word in ("3/3 steps", "loss ", "val PSNR ", " dB", "samples/s", "data "):
        assert word in shown


def test_the_progress_bar_restores_the_terminal_after_an_error(tmp_path):
    bar = TrainingProgress(Speed(batch_size=2))
    bar.console = Console(file=io.StringIO(), force_terminal=True)
    trainer = tiny.trainer(tmp_path)
    bar.on_train_start(trainer, tiny.sr_module())
    bar.on_exception(trainer, tiny.sr_module(), RuntimeError("died"))
    assert "\x1b[?25h" in bar.console.file.getvalue()  # shows the cursor again
