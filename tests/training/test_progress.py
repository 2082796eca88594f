import io
import re
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


def progress(folder: Path, *, is_terminal: bool) -> str:
    """What a training run and its test show, on a terminal or in a log file."""
    speed = Speed(batch_size=2)
    shown = TrainingProgress(speed)
    screen = io.StringIO()
    shown.console = Console(file=screen, force_terminal=is_terminal, width=160)
    images = tiny.Images("A", 1)
    trainer = tiny.trainer(
        folder,
        max_steps=3,
        val_check_interval=1,
        enable_progress_bar=True,
        callbacks=[Record(folder / "metrics.csv", speed, interval=2), shown],
    )
    module, data = tiny.sr_module(val=[images], test=[images]), tiny.data(val=[images], test=[images])
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return screen.getvalue()


def test_the_progress_bar_shows_steps_loss_psnr_speed_waiting_time_and_the_test(tmp_path):
    shown = progress(tmp_path, is_terminal=True)
    for word in (
        "3/3 steps",
        "loss ",
        "val PSNR ",
        " dB",
        "samples/s",
        "waiting for data",
        "1/1 test images",
    ):
        assert word in shown


def test_a_log_file_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("sr_lab.reporting.progress._LINE", 0.0)
    lines = progress(tmp_path, is_terminal=False).splitlines()
    trained = (
        r"2/3 steps, 0:0\d left, loss [\d.]+, val PSNR [\d.]+ dB, [\d.e+]+ samples/s, \d+% waiting for data"
    )
    assert any(re.fullmatch(trained, line) for line in lines)
    assert any("validating, image 1" in line for line in lines)
    assert lines[-1].startswith("1/1 test images")


def test_the_progress_bar_restores_the_terminal_after_an_error(tmp_path):
    bar = TrainingProgress(Speed(batch_size=2))
    bar.console = Console(file=io.StringIO(), force_terminal=True)
    trainer = tiny.trainer(tmp_path)
    bar.on_train_start(trainer, tiny.sr_module())
    bar.on_exception(trainer, tiny.sr_module(), RuntimeError("died"))
    assert "\x1b[?25h" in bar.console.file.getvalue()  # shows the cursor again
