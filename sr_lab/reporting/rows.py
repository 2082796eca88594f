"""Group runs into the rows of a table: seeds share a row, other settings have separate rows."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from sr_lab.reporting import published, versions
from sr_lab.reporting.labels import labels, without_seed
from sr_lab.reporting.published import Figure
from sr_lab.reporting.runs import MeasuredOn, Run, TrainedOn
from sr_lab.reporting.settings import differences, flat, unseeded
from sr_lab.reporting.table import Cell

FIVE_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
NOT_IMPLEMENTED = "not implemented"
MINUS = " minus "  # in the label of a row that shows the difference of two rows

Key: TypeAlias = tuple[str, str]  # set and metric, as in expected.csv

NUM_PARAMS: Key = ("", "num_params_k")
# Our count: all operations at 1280x720. Papers count by various rules; their numbers get another column.
MULTI_ADDS: Key = ("", "multi_adds_g")
VALIDATION: Key = ("", "psnr_y")  # a PSNR without a set is measured on the paper's validation images

# Papers measure time and memory on a test set; task=complexity measures them at an output of 1280x720.
AT_HD = {
    "gpu_time_ms": ("gpu_ms", 1.0),
    "gpu_time_s": ("gpu_ms", 1e3),
    "gpu_memory_m": ("gpu_peak_memory_bytes", 2.0**20),
    "cpu_time_s": ("cpu_s_per_megapixel", 1e6 / (1280 * 720)),
}


@dataclass
class Entry:
    """The runs of one row, which differ only in their seed, and what the paper prints in it."""

    label: str  # as the paper prints it, or what differs from other rows
    scale: int | None = None  # upscaling factor, ``None`` if neither the paper nor the run gives a scale
    model: str = ""  # the value for ``model=``, or the network's class
    figures: dict[Key, Figure] = field(default_factory=dict)  # what the paper prints
    runs: list[Run] = field(default_factory=list)  # one for each seed
    is_own: bool = False  # the network that the paper proposes

    @property
    def block(self) -> str:
        """The block of the table in which the row is ranked."""
        return f"x{self.scale}" if self.scale else ""

    @property
    def example(self) -> Run:
        """A run whose settings represent the row; the row must have a run."""
        return next((run for run in self.runs if run.identity), self.runs[0])

    @property
    def finished(self) -> list[Run]:
        """The newest finished run of each seed."""
        newest: dict[object, Run] = {}
        for run in sorted(self.runs, key=lambda run: str(run.values.get("date", ""))):
            if not run.problem:
                newest[run.path if run.seed is None else run.seed] = run
        return list(newest.values())

    @property
    def problem(self) -> str:
        """Why the row has no figures; empty if it has figures."""
        if self.finished:
            return ""
        if self.runs:
            return min((run.problem for run in self.runs), key=lambda text: not text.startswith("failed"))
        if MINUS in self.label:
            return "rows missing"
        return NOT_IMPLEMENTED if self.model == NOT_IMPLEMENTED else "not run"

    @property
    def note(self) -> str:
        """What went wrong with some of the seeds."""
        problems = [f"seed {run.seed} {run.problem}" for run in self.runs if run.problem]
        if len(self.runs) - len(problems) > len(self.finished):
            problems.append("several runs have the same seed; the newest is shown")
        return "; ".join(problems) if self.finished else ""

    def cell(self, read: Callable[[Run], float | None]) -> Cell:
        """Mean and standard deviation over the seeds."""
        values = [value for run in self.finished if (value := read(run)) is not None]
        if not values:
            return Cell()
        std = statistics.stdev(values) if len(values) > 1 else None
        return Cell(value=statistics.fmean(values), std=std, count=len(values))

    def measured(self, key: Key) -> Cell:
        """Our value that corresponds to the paper's value under this key."""
        return self.cell(lambda run: measured(run, key))


def measured(run: Run, key: Key) -> float | None:
    """A run's value by its name in expected.csv; ``None`` if it was not measured."""
    set_name, metric = key
    if set_name == "Average":
        values = [run.number(f"test/{name}/{metric}") for name in FIVE_SETS]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(FIVE_SETS) else None
    if metric == "num_params_k":
        return run.number("num_params", 1e3)
    if key == MULTI_ADDS:
        return run.number("multi_adds", 1e9)
    own = run.number(f"test/{set_name}/{metric}" if set_name else f"val/{metric}")
    if own is None and key == VALIDATION:
        return run.validation_psnr
    if own is None and metric in AT_HD:
        return run.number(*AT_HD[metric])
    return own


def compared_with_paper(run: Run) -> dict[str, float]:
    """``paper/Set5/psnr_y``, ``ours/Set5/psnr_y``, ``difference/Set5/psnr_y`` (ours minus the paper's), ...

    Args:
        run: Any run; an unfinished run has only the paper's values.

    Returns:
        Names and units as in expected.csv; empty if the run is not a row of a paper's table.
    """
    found: dict[str, float] = {}
    for figure in published.table(*run.table) if run.table is not None and run.labels else ():
        if figure.row != run.labels[0] or figure.scale not in (None, run.scale):
            continue
        name = f"{figure.set_name}/{figure.metric}" if figure.set_name else figure.metric
        found[f"paper/{name}"] = figure.value
        key = figure.set_name, figure.metric
        ours = None if key == MULTI_ADDS else measured(run, key)
        if ours is not None:
            found |= {f"ours/{name}": ours, f"difference/{name}": ours - figure.value}
    return found


def budget(values: Mapping[str, object]) -> str:
    """The budget of a run, without the remark that it was chosen for the machine."""
    return str(values.get("budget", "")).removesuffix(" (auto)")


def sweep_entries(runs: Sequence[Run]) -> list[Entry]:
    """One row for each group of runs that differ only in their seed."""
    entries = [
        Entry("", own[0].scale or None, str(own[0].values.get("model", "")), runs=own)
        for own in share_rows(runs)
    ]
    for entry, label in zip(entries, labels([entry.example for entry in entries]), strict=True):
        entry.label = label
    shown: dict[tuple[object, ...], list[Entry]] = {}
    for entry, settings in zip(entries, differences([entry.example for entry in entries]), strict=True):
        shown.setdefault((entry.scale, entry.label, *settings.values()), []).append(entry)
    for alike in shown.values():
        _name_code(alike, runs)
    return sorted(entries, key=lambda entry: entry.scale or 0)


def share_rows(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs into rows: the runs of a row differ only in the seed.

    Two runs are compared by their identities, or by config.yaml if one of them has no identity.
    """
    keys = [_Key.of(run) for run in runs]
    groups: list[list[int]] = []
    # A run that never began has no identity; such a run joins the first row that has its settings.
    for index in sorted(range(len(runs)), key=lambda index: not keys[index].identity):
        same = (group for group in groups if all(keys[index].fits(keys[other]) for other in group))
        if (group := next(same, None)) is not None:
            group.append(index)
        else:
            groups.append([index])
    return [[runs[index] for index in sorted(group)] for group in sorted(groups, key=min)]


@dataclass(frozen=True)
class _Key:
    """What decides which row a run belongs to; empty parts are unknown."""

    identity: str  # without seed and code
    settings: object  # of config.yaml
    benchmark: str  # what a training run is tested on, which is not part of its identity
    code: object
    scale: int
    protocol: str
    trained_on: TrainedOn  # digests of pixels; the identity covers only names and sizes of files
    measured_on: Mapping[str, MeasuredOn]

    @classmethod
    def of(cls, run: Run) -> "_Key":
        settings = flat(replace(run, identity={}))
        benchmark = {name: text for name, text in settings.items() if name.startswith("benchmark.")}
        return cls(
            json.dumps(unseeded(run.identity), sort_keys=True) if run.identity else "",
            settings or without_seed(run.name),
            json.dumps(benchmark, sort_keys=True) if benchmark else "",
            versions.key(run) if run.identity or run.code else None,
            run.scale,
            str(run.values.get("protocol", "")),
            run.trained_on,
            {name: own for name, own in run.measured_on.items() if own.digest},
        )

    def fits(self, other: "_Key") -> bool:
        """Whether the runs may share a row."""
        if self.identity and other.identity:
            same = self.identity == other.identity
        else:
            same = self.settings == other.settings
        return (
            same
            and self.scale == other.scale
            and self.trained_on.may_be(other.trained_on)
            and all(
                None in (own, theirs) or "" in (own, theirs) or own == theirs
                for own, theirs in (
                    (self.benchmark, other.benchmark),
                    (self.code, other.code),
                    (self.protocol, other.protocol),
                )
            )
            and all(
                self.measured_on[name].is_same(other.measured_on[name])
                for name in self.measured_on.keys() & other.measured_on.keys()
            )
        )


def _name_code(alike: Sequence[Entry], runs: Sequence[Run]) -> None:
    """Append the version of the code to the labels of entries that differ in nothing else."""
    if len({versions.key(entry.example) for entry in alike}) < 2:
        return
    named = {run.path: name for name, own in versions.groups(runs).items() for run in own}
    for entry in alike:
        entry.label += f" ({named.get(entry.example.path, 'unknown code')})"


def paper_entries(paper: str, table: str, runs: Sequence[Run]) -> tuple[list[Entry], list[str]]:
    """The rows of a paper's table, each with its runs, and the scales without runs.

    Runs that differ in more than the seed, e.g. in their budget, are separate rows.
    """
    runs = _with_costs(runs)
    scales = sorted({run.scale for run in runs if run.scale})
    printed: list[Entry] = []
    for entry in _printed(paper, table):
        # If the paper gives no scale, its values are shown next to the runs of every scale.
        printed += [replace(entry, scale=scale) for scale in ([entry.scale] if entry.scale else scales)]
    claimed: dict[int, list[Run]] = {}
    extra: list[Entry] = []
    for run in runs:
        for label in run.labels or (without_seed(run.name),):
            same = (e for e in [*printed, *extra] if (e.label, e.scale or 0) == (label, run.scale))
            found = next(same, None)
            entry = found or Entry(label, run.scale or None, str(run.values.get("model", "")))
            extra += [] if found else [entry]
            claimed.setdefault(id(entry), []).append(run)
    entries = []
    for entry in sorted([*printed, *extra], key=lambda entry: entry.scale or 0):
        groups = share_rows(claimed.get(id(entry), []))
        entries += _with_settings([replace(entry, runs=own) for own in groups], runs) if groups else [entry]
    ran = {entry.scale for entry in entries if entry.runs}
    left_out = sorted({entry.block for entry in entries if entry.scale not in ran})
    return [entry for entry in entries if entry.scale in ran], left_out


def is_own_row(paper: str, label: str, model: str) -> bool:
    """Whether a row is the network that a paper proposes, without changes."""
    return model.startswith(paper) and _letters(label) == _letters(model)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _printed(paper: str, table: str) -> list[Entry]:
    """The rows of a paper's table, by scale."""
    entries: dict[tuple[str, int | None], Entry] = {}
    figures = published.table(paper, table)
    # In an ablation, each row is the paper's network.
    compares = len({figure.model for figure in figures}) > 2
    for figure in figures:
        entry = entries.setdefault((figure.row, figure.scale), Entry(figure.row, figure.scale, figure.model))
        entry.figures[figure.set_name, figure.metric] = figure
        entry.is_own = compares and is_own_row(paper, figure.row, figure.model)
    return sorted(entries.values(), key=lambda entry: entry.scale or 0)


def _with_costs(runs: Sequence[Run]) -> list[Run]:
    """Training runs with the costs that ``task=complexity`` measured for their rows; then costs without one.

    If costs were measured on several machines, those with a GPU are preferred, then the newest.
    """
    costs = [run for run in runs if run.is_cost]
    trained = [run for run in runs if not run.is_cost]
    best = sorted(
        costs, key=lambda run: ("gpu_ms" in run.values, str(run.values.get("date", ""))), reverse=True
    )
    found = []
    for run in trained:
        cost = next((cost for cost in best if _is_of_row(cost, run) and _is_of_network(cost, run)), None)
        more = {} if cost is None or run.problem else {**cost.values, "timed_on": cost.values.get("device")}
        found.append(replace(run, values={**more, **run.values}))
    return found + [cost for cost in costs if not any(_is_of_row(cost, run) for run in trained)]


def _is_of_row(cost: Run, run: Run) -> bool:
    return cost.scale == run.scale and not set(cost.labels).isdisjoint(run.labels)


def _is_of_network(cost: Run, run: Run) -> bool:
    """Whether the runs have the same network, as far as is known."""
    parts = ("model", "upsampler", "strategy")
    return not (cost.identity and run.identity) or all(
        cost.identity.get(part) == run.identity.get(part) for part in parts
    )


def timed_on(entry: Entry) -> object:
    """The device that the time and memory of a row were measured on; ``None`` if unknown."""
    devices = (run.values.get("timed_on", run.values.get("device")) for run in entry.finished)
    return next(devices, None)


def _with_settings(entries: list[Entry], runs: Sequence[Run]) -> list[Entry]:
    """Entries of one row that differ in more than the seed, each with the difference after its label."""
    for entry, settings in zip(entries, differences([entry.example for entry in entries]), strict=True):
        shown = ", ".join(f"{name}={text}" for name, text in settings.items())
        entry.label += f" ({shown})" if shown else ""
    for label in {entry.label for entry in entries}:
        _name_code([entry for entry in entries if entry.label == label], runs)
    return entries
