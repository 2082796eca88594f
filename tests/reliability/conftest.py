"""Fixtures that several of these test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.forge import TWO, Forge, forging


@pytest.fixture(scope="session")
def forge(tmp_path_factory) -> Iterator[Forge]:
    """One process for all test files, since it takes seconds to start."""
    with forging(tmp_path_factory.mktemp("forge")) as forge:
        yield forge


@pytest.fixture(scope="session")
def whole(forge, tmp_path_factory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = forge.train(folder)
    assert ended.code == 0, ended.said
    return folder


@pytest.fixture(scope="session")
def whole_of_two(forge, tmp_path_factory) -> Path:
    """An undisturbed run with two validation images, so that a signal can arrive between them."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = forge.train(folder, *TWO)
    assert ended.code == 0, ended.said
    return folder


@pytest.fixture
def scontrol(tmp_path) -> dict[str, str]:
    """An environment with a fake ``scontrol`` that logs its arguments to ``asked.txt``."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked.txt\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
