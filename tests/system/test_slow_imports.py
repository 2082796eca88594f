"""The garbage collector waits for imports, and leaves alone what they created."""

import gc
import sys
import types

import pytest

from sr_lab.system.imports import without_collecting


def test_nothing_is_collected_during_an_import_and_what_it_created_is_left_alone(monkeypatch):
    frozen = gc.get_freeze_count()
    with without_collecting():
        assert not gc.isenabled()
        monkeypatch.setitem(sys.modules, "new_module", types.ModuleType("new_module"))
    assert gc.get_freeze_count() > frozen
    assert gc.isenabled()


def test_the_garbage_of_an_earlier_job_is_collected_if_everything_is_imported_already():
    frozen = gc.get_freeze_count()
    with without_collecting():
        import sr_lab.system.imports  # noqa: F401
    assert gc.get_freeze_count() == frozen
    assert gc.isenabled()


def test_a_failed_import_lets_the_collector_run_again():
    with pytest.raises(ModuleNotFoundError), without_collecting():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
