"""Garbage is not collected while a command starts, but is collected later, whatever the command does."""

import gc
import sys

import pytest

from sr_lab import __main__ as program
from sr_lab.runs import search, sweep
from sr_lab.system import garbage
from sr_lab.tasks import complexity, plan, train


@pytest.fixture(autouse=True)
def _started():
    """Start as a command does, and turn the collector on again at the end."""
    garbage.collect_later()
    assert not gc.isenabled()
    yield
    gc.enable()


def test_what_was_created_at_the_start_is_never_looked_at():
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    garbage.collect()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_what_an_earlier_job_of_a_multirun_left_behind_is_collected():
    garbage.collect()
    frozen = gc.get_freeze_count()
    left = [[] for _ in range(1000)]
    garbage.collect()  # at the start of the next job
    assert gc.get_freeze_count() < frozen + len(left)
    assert left


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (train, ["budget=smoke", "trainer=cpu", "model=imdn"]),
        (complexity, ["task=complexity", "model=imdn"]),
        (complexity, ["-m", "task=complexity", "model=imdn,srcnn"]),
        (plan, ["task=plan", "model=imdn"]),
        (sweep, ["-m", "budget=smoke", "trainer=cpu", "model=imdn,imfm"]),
        (search, ["hparams_search=optuna", "trainer=cpu", "budget=smoke", "model=imdn"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_garbage_is_collected_during_the_work(module, words, monkeypatch, tmp_path, program_in_this_process):
    collects = []
    monkeypatch.setattr(module, "run", lambda *_: collects.append(gc.isenabled()) or 0)
    monkeypatch.setattr(complexity, "collect", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["sr_lab", *words])
    monkeypatch.chdir(tmp_path)
    assert program.main() == 0
    assert set(collects) == {True}
