"""Which rows of a table were made by different code of the same module."""

import itertools
from collections.abc import Mapping, Sequence

from sr_lab.reporting.runs import Run

_MAX_NAMES = 3


def key(run: Run) -> object:
    """A key of a run's code; runs with equal keys may share a row. All runs of unknown code have one key."""
    earlier = run.values.get("earlier_code")
    return frozenset(run.code.items()), str(earlier) if earlier else ""


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs, grouped by the code of differing modules: ``code A``, ``code B``, ... in the given order.

    Runs that use none of these modules are left out. There are no groups if no module has several versions.
    """
    changed = changed_modules(runs)
    found: dict[object, list[Run]] = {}
    for run in runs:
        own = tuple(run.code.get(name) for name in changed)
        if any(own):
            found.setdefault((own, str(run.values.get("earlier_code"))), []).append(run)
    names = map("code {}".format, itertools.chain("ABCDEFGHIJKLMNOPQRSTUVWXYZ", itertools.count(27)))
    return dict(zip(names, found.values(), strict=False)) if len(found) > 1 else {}


def changed_modules(runs: Sequence[Run]) -> list[str]:
    """The modules whose code differs between runs."""
    digests: dict[str, set[str]] = {}
    for run in runs:
        earlier = run.values.get("earlier_code")
        for code in [run.code, *(earlier if isinstance(earlier, list) else [])]:
            for name, digest in code.items() if isinstance(code, Mapping) else ():
                digests.setdefault(name, set()).add(str(digest))
    return sorted(name for name, found in digests.items() if len(found) > 1)


def remarks(runs: Sequence[Run]) -> tuple[str, ...]:
    """A line to print below the table if its rows were made by different code; otherwise nothing."""
    done = [run for run in runs if not run.problem]
    if not (modules := changed_modules(done)):
        return ()
    shown = groups(done) or {"begun with other code": done}
    made = "; ".join(f"{name}: {_listed([run.folder for run in own])}" for name, own in shown.items())
    return (f"code: rows were made by different code of {_listed(modules)} ({made})",)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
