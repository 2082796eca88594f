"""Ctrl-C before training starts ends the program at once, whatever it is importing or composing."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sr_lab import tasks
from sr_lab.system import interrupts
from sr_lab.system.interrupts import Ended
from sr_lab.system.signals import Signals
from tests.command_line import SMOKE, sr_lab
from tests.composing import compose


def interrupted(folder: Path, module: str, *overrides: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a training run that gets Ctrl-C just after it imports a module."""
    command = [sys.executable, "-X", "importtime", "-m", "sr_lab", *SMOKE, "logger=none", *overrides]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"HOME": str(folder), "SR_LAB_CACHE": f"{folder}/cache"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                break
        else:
            pytest.fail(f"{module} was not imported")
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
        return process.wait(), process.stdout.read(), "".join(said)


@pytest.mark.parametrize(
    "module",
    [
        *("hydra.errors", "sr_lab.runs.sweep", "numpy.exceptions"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("yaml", "antlr4.Token", "hydra.main", "omegaconf", "sr_lab.config.schema"),
                *("sr_lab.tasks", "numpy", "numpy.linalg", "torch._C", "torch", "scipy", "lightning.fabric"),
                *("lightning.pytorch", "sr_lab.training.lit_module", "sr_lab.system.signals"),
            )
        ),
    ],
)
def test_ctrl_c_during_the_start_of_the_program_ends_it_at_once_and_silently(tmp_path, module):
    assert interrupted(tmp_path, module) == (130, "", "")
    assert list(tmp_path.rglob("metrics.*")) == []


def test_an_ignored_ctrl_c_stays_ignored():
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from sr_lab.system import interrupts; interrupts.end_at_once()\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "interrupts.as_exception(); signal.raise_signal(signal.SIGINT); print('there')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")


def test_ctrl_c_raises_an_exception_again_once_there_is_something_to_clean_up():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.end_at_once()
        interrupts.as_exception()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_an_import_swallows_ends_the_run_at_the_next_check():
    signals = Signals()
    with pytest.raises(Ended) as ended, signals.heard():  # noqa: PT012 - the block imitates an import
        with contextlib.suppress(BaseException):  # as NumPy's `import_array` does
            signal.raise_signal(signal.SIGTERM)
        signals.end_if_asked()
    assert ended.value.code == 128 + signal.SIGTERM


SIGNALS = """
import os, time
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self, *, scale: int, upsampler: None = None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr):
        if not lr.is_meta:
            os.kill(os.getpid(), int(os.environ["NUMBER"]))
            time.sleep(1)
        return functional.interpolate(lr, scale_factor=self.scale)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("evaluate", ("benchmark=sample",)),
        ("complexity", ()),
        ("upscale", ("input=image.png", "output=big")),
    ],
)
def test_a_signal_ends_a_task_with_the_signals_exit_code_and_a_message(tmp_path, task, settings, number):
    (tmp_path / "net.py").write_text(SIGNALS)
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    network = ("model=bicubic", "model._target_=net.Net", "scale=2", "allow=[net]")
    done = sr_lab(tmp_path, f"task={task}", *network, *settings, "trainer=cpu", NUMBER=str(int(number)))
    assert (done.returncode, done.stdout) == (128 + number, "")
    said = done.stderr.strip()
    assert re.fullmatch(
        r"interrupted; .* (start the same command again|upscales the others|measures the other images)", said
    )
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_task_without_a_network_too(tmp_path, monkeypatch, number):
    from sr_lab.tasks import report

    monkeypatch.setattr(report, "run", lambda *_: signal.raise_signal(number))
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(Ended) as ended:
            tasks.run(compose("task=report", f"runs='{tmp_path}'"), tmp_path, ())
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert ended.value.code == 128 + number
