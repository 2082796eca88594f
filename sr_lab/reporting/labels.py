"""What a run or a row is called when listed with others: the settings in which they differ."""

import os
from collections.abc import Sequence
from pathlib import Path

from sr_lab.reporting.runs import Run
from sr_lab.reporting.settings import GROUPS, differences
from sr_lab.run_folder import read_index

_Candidate = tuple[str, Sequence[str]]  # a setting, empty for a name; its value in each run

# Settings of a command line that a reader need not know if every row of a table shares them.
_UNSAID = ("trainer", "logger", "paths", "sweep", "num_workers", "benchmark", "hydra", "columns", "resume")


def labels(runs: Sequence[Run], *, seeds: bool = False) -> list[str]:
    """For each run, what tells it apart from the others, e.g. ``deconv`` or ``imdn, num_feat 16``.

    Words are added until they tell apart the runs of each scale, or until no further setting differs: first
    the rows of a table or the networks, then what was typed on a sweep's command line, then other settings.

    Args:
        runs: Any runs.
        seeds: Whether runs that differ in their seed are told apart.
    """
    heads = [_head(run) for run in runs]
    typed = [_split(run.overrides) for run in runs]
    candidates: list[_Candidate] = [("", heads)]
    if typed:
        keys = [key for key in typed[0] if key.partition(".")[0] in GROUPS and key != "model"]
        everywhere = [key for key in keys if all(key in own for own in typed)]
        candidates += [(key, [own[key] for own in typed]) for key in everywhere]
    settings = differences(runs)
    if settings:
        candidates += [(key, [own[key] for own in settings]) for key in settings[0] if key != "task"]
    candidates.append(("", [without_seed(run.name) for run in runs]))
    if seeds:
        candidates.append(("seed", [str(run.seed) for run in runs]))
    words = _telling(candidates, [run.scale for run in runs])
    return [", ".join(own) or head for own, head in zip(words, heads, strict=True)]


def of_job(folder: Path) -> str:
    """What tells a job apart from the other jobs of its sweep; empty if nothing does, or without a sweep.

    Args:
        folder: The job's run folder, next to the sweep's index.
    """
    jobs = read_index(folder.parent)
    typed = [_split(job.overrides) for job in jobs]
    keys = dict.fromkeys(key for own in typed for key in own if key not in ("row", "rows"))
    candidates: list[_Candidate] = [("", [job.label or "" for job in jobs])]
    candidates += [(key, [own.get(key, "") for own in typed]) for key in keys]
    words = _telling(candidates, [0] * len(jobs))
    return next(
        (", ".join(own) for job, own in zip(jobs, words, strict=True) if job.folder == folder.name), ""
    )


def shared(runs: Sequence[Run]) -> str:
    """What the command lines of all runs of a sweep have in common; empty if that is nothing."""
    first, *others = (run.overrides for run in runs)
    return " ".join(
        override.lstrip("+")
        for override in first
        if all(override in other for other in others)
        and next(iter(_split([override]))).partition(".")[0] not in _UNSAID
    )


def is_said(label: str, key: str, text: str) -> bool:
    """Whether a label contains the value of a setting."""
    return text == "-" or _letters(_word(key, text)) in _letters(label)


def without_seed(name: str) -> str:
    """A run's name without the seed that the command line set."""
    return "_".join(part for part in name.split("_") if not part.startswith("seed-"))


def _head(run: Run) -> str:
    """A run's rows in a paper's table, else its network, else the name that the user gave it."""
    name = without_seed(run.name)
    network, _, rest = name.partition(f"_x{run.scale}")
    return " = ".join(run.labels) or (network if rest[:1] in ("", "_") else name)


def _split(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value.strip("'\"") for key, _, value in pairs}


def _telling(candidates: Sequence[_Candidate], classes: Sequence[object]) -> list[list[str]]:
    """The words of each run; a candidate adds its words if these tell apart more runs than before."""
    known: list[tuple[object, ...]] = [(each,) for each in classes]
    words: list[list[str]] = [[] for _ in classes]
    for key, values in candidates:
        divided = [(*own, value) for own, value in zip(known, values, strict=True)]
        if len(set(divided)) > len(set(known)):
            known = divided
            for own, value in zip(words, _short(values), strict=True):
                own += [_word(key, value)] if value else []
    return words


def _word(key: str, text: str) -> str:
    """A setting as part of a label: ``x4``, ``seed 0``, or only the option of a group."""
    if not key:
        return text
    text = text.replace("'", "")  # of lists
    is_option = key in GROUPS and text not in ("none", "-") and not text[:1].isdigit()
    if is_option or "/" in text:
        return text
    name = key.rpartition(".")[2].removesuffix(" (sha256)")
    return f"x{text}" if name == "scale" else f"{name} {text}"


def _short(texts: Sequence[str]) -> list[str]:
    """Paths without the folders that they share."""
    paths = {text for text in texts if "/" in text}
    try:
        parent = os.path.commonpath(paths) if len(paths) > 1 else ""
    except ValueError:  # absolute and relative paths
        parent = ""
    return [text.removeprefix(f"{parent}/") if parent else text for text in texts]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
