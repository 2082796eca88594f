"""Reference data that the repository does not contain, and what all tests share.

The process that controls the workers of pytest-xdist reads this file first, so it imports nothing heavy.
"""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sr_lab.files import conf_dir
from sr_lab.reporting.published import experiments_dir
from tests import chromium, prepared

# In a script's background and under nohup, pytest starts with these signals ignored. The commands that tests
# start and signal would inherit ignored signals, but not handlers; the second handler does nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture(scope="session", autouse=True)
def _compositions_share_what_they_read() -> Iterator[None]:
    from tests import composing

    with pytest.MonkeyPatch.context() as patch:
        composing.share(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def _the_repository_stays_as_it_is() -> Iterator[None]:
    """No test may leave files in ``conf`` or ``experiments``, or change files there."""
    before = _contents()
    yield
    assert _contents() == before


def _contents() -> dict[Path, tuple[int, int]]:
    """Size and time of each file in ``conf`` and ``experiments``."""
    files = (path for folder in (conf_dir(), experiments_dir()) for path in folder.rglob("*.*"))
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if "__pycache__" not in str(path)
    }


@pytest.fixture
def program_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test call the program's ``main``: what it changes outside itself is undone afterwards."""
    from hydra.core.singleton import Singleton

    from tests import composing

    composing.unwrap(monkeypatch)
    environment, hydra_state = dict(os.environ), Singleton.get_state()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
    Singleton.set_state(hydra_state)


@pytest.fixture(scope="session")
def _graphs() -> dict[str, bytes]:
    """The graphs exported so far, by the fingerprint of the network."""
    return {}


@pytest.fixture
def exports(_graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the networks that a test exports; an export takes seconds, so tests share its graph."""
    from sr_lab.inference import backends

    made: list[str] = []
    export = backends.BackendNetwork._graph

    def graph(runs: backends.BackendNetwork) -> bytes:
        made.append(type(runs.network).__name__)
        name = backends._fingerprint(runs.network)
        if name not in _graphs:
            _graphs[name] = export(runs)
        return _graphs[name]

    monkeypatch.setattr(backends.BackendNetwork, "_graph", graph)
    return made


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.path() is None:
        pytest.skip("needs a browser: apt-get install chromium")
    opened = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser(_chromium: chromium.Chromium) -> chromium.Chromium:
    """A page in a browser whose window has its first size; without a browser, the tests are skipped."""
    _chromium.send("Emulation.clearDeviceMetricsOverride")
    _chromium.send("Emulation.setEmulatedMedia", media="", features=[])
    return _chromium


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make random inputs the same in every run, so that a tolerance met once is always met."""
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed also keeps a traceback for each kind of GPU
    torch.backends.cudnn.benchmark = False  # the Trainer of an earlier test may have set it


def _reference(variable: str) -> Path:
    folder = os.environ.get(variable, "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip(f"needs reference data: set {variable}")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return _reference("SR_LAB_DATA")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    return _reference("SR_LAB_WEIGHTS")


# Files of a few tests that take minutes; if they started last, one of two workers would sit idle.
_LONG = ("test_tables_whole", "test_readme", "test_official", "test_end_to_end", "test_sweep", "test_search")


def pytest_configure(config: pytest.Config) -> None:
    """Start, before the workers, the process from which tests fork theirs."""
    if config.getoption("numprocesses", None):
        prepared.start()


def pytest_collection() -> None:
    """Collect no garbage while the test files are imported, since nearly all that they create stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage less often now, and never among imported objects: that took a sixth of the time."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped because reference data is missing."""
    skipped = terminalreporter.stats.get("skipped", [])
    missing = [report for report in skipped if "needs reference data" in str(report.longrepr)]
    terminalreporter.write_line(
        f"{len(missing)} skipped because reference data is missing (SR_LAB_DATA, SR_LAB_WEIGHTS)"
    )
