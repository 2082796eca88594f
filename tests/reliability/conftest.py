"""What several of these files need."""

import os
from collections.abc import Iterator

import pytest

from tests.reliability.forge import Forge, forging


@pytest.fixture(scope="session")
def forge(tmp_path_factory) -> Iterator[Forge]:
    """One for all files: it takes seconds to start."""
    with forging(tmp_path_factory.mktemp("forge")) as forge:
        yield forge


@pytest.fixture
def scontrol(tmp_path) -> dict[str, str]:
    """An environment with a scontrol that writes down what it is asked for, in ``asked.txt``."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked.txt\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
