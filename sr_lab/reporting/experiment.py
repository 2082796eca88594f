"""The table of an experiment: runs next to the paper's values, averaged over seeds, with the best marked."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypedDict

from rich.console import Console

from sr_lab.errors import ConfigError
from sr_lab.reporting import labels, significance, versions
from sr_lab.reporting.baseline import RowAndImages, compared
from sr_lab.reporting.columns import Read, derived, key_of, paper_columns, sweep_columns
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.rows import (
    AT_HD,
    MULTI_ADDS,
    VALIDATION,
    Entry,
    budget,
    paper_entries,
    sweep_entries,
)
from sr_lab.reporting.runs import MeasuredOn, Run, read_run
from sr_lab.reporting.settings import changed
from sr_lab.reporting.shown_columns import Columns
from sr_lab.reporting.table import Column, Row, Table, mark_best, with_footnotes
from sr_lab.reporting.terminal import print_table


class _Origin(TypedDict):
    protocol: str
    measured_on: tuple[tuple[str, MeasuredOn], ...]


_NOTES = (
    (
        lambda key: key[1] in AT_HD,
        "our time and memory are measured on our device at an output of 1280x720, the paper's are not",
    ),
    (
        lambda key: key == VALIDATION,
        "our PSNR without a set is measured on the held-out images, at the checkpoint that was kept",
    ),
    (
        lambda key: key[1] == "time_s",
        "the paper states neither the device nor the number of images for its time, so ours is not shown "
        "next to it; task=complexity measures time at an output of 1280x720",
    ),
)


def experiment_table(runs: Sequence[Run], *, baseline: str | None = None) -> Table:
    """The paper's table if all runs belong to the same one, otherwise a table of the runs.

    In a table of runs, a row has the runs that differ only in their seed.

    Args:
        runs: At least one run.
        baseline: Label of the row that the others are compared with; by default each block's first row.

    Raises:
        ConfigError: There is no row with that label.
    """
    tables = {run.table for run in runs}
    table = tables.pop() if len(tables) == 1 else None
    if table is None:
        return _sweep_table(runs, baseline)
    entries, left_out = paper_entries(*table, runs)
    made = _table(" ".join(table), runs, entries, paper_columns(*table, runs, entries), baseline)
    elsewhere = _run_in_same_folders(runs) if left_out else set()
    missing = [block for block in left_out if block not in elsewhere]
    more = [f"not run: {', '.join(missing)}"] if missing else []
    others = [block for block in left_out if block in elsewhere]
    more += [f"in the same folder, not shown here: {', '.join(others)}"] if others else []
    shorter = sorted({budget(run.values) for run in runs if "budget" in run.values} - {"paper"})
    more += [f"warning: not trained at the paper's budget: {', '.join(shorter)}"] if shorter else []
    changes = dict.fromkeys(override for run in runs for override in changed(run))
    more += [f"warning: not the paper's recipe: {', '.join(changes)}"] if changes else []
    keys = [key_of(column) for column in made.columns]
    more += [f"note: {text}" for applies, text in _NOTES if any(map(applies, keys))]
    return replace(made, head=(*made.head, *more))


def _run_in_same_folders(runs: Sequence[Run]) -> set[str]:
    """The scales of the table that have finished runs in the same parent folders as these runs."""
    places = {metrics.parent for run in runs for metrics in run.path.parent.glob("*/metrics.json")}
    found = (read_run(place) for place in places)
    return {f"x{run.scale}" for run in found if run.table == runs[0].table and not run.problem}


def in_table_order(table: Table, runs: Sequence[Run]) -> list[Run]:
    """The runs in the order of their rows; runs without a row come last."""
    places = {folder: number for number, row in enumerate(table.rows) for folder in row.folders}
    return sorted(runs, key=lambda run: places.get(run.path, len(table.rows)))


def print_experiment(
    folders: Sequence[Path], console: Console | None = None, *, columns: Columns = "auto"
) -> None:
    """Print the table of run folders, with our values next to the paper's."""
    print_table(experiment_table([read_run(folder) for folder in folders]), console, columns=columns)


def print_runs(runs: Sequence[Run], console: Console | None = None, *, columns: Columns = "auto") -> None:
    """Print what runs have measured, without a paper's values."""
    print_table(replace(_sweep_table(runs, None), title=""), console, columns=columns)


def _experiment(run: Run) -> str:
    """The name of a run's experiment, or that of its task if no experiment was chosen."""
    name = str(run.values["experiment"])
    return str(run.settings.get("task", name)) if name == "train" else name


def _sweep_table(runs: Sequence[Run], baseline: str | None) -> Table:
    entries = sweep_entries(runs)
    name = next((_experiment(run) for run in runs if run.values.get("experiment")), "runs")
    made = _table(name, runs, entries, sweep_columns(runs, entries), baseline)
    if len(entries) > 1:
        common = labels.shared(runs)
        about = [f"all rows: {common}"] if common else []
    else:
        (name,) = {labels.without_seed(entry.example.name) for entry in entries}
        about = (
            [f"run: {name}"]
            if name not in (entries[0].label, f"{entries[0].label}_{entries[0].block}")
            else []
        )
    return replace(made, head=(*about, *made.head))


def _table(
    title: str,
    runs: Sequence[Run],
    entries: Sequence[Entry],
    specs: Sequence[tuple[Column, Read]],
    baseline: str | None,
) -> Table:
    # In a comparison of networks, differences from the first row mean nothing.
    gains = not any(entry.is_own for entry in entries)
    columns = tuple(replace(c, with_gain=gains and c.key.endswith("psnr_y")) for c, _ in specs)
    rows: list[RowAndImages] = []
    for block in dict.fromkeys(entry.block for entry in entries):
        rows += _bicubic([run for run in runs if block in ("", f"x{run.scale}")], columns, block)
        members = [entry for entry in entries if entry.block == block]
        rows += [(_row(entry, members, specs), significance.per_image(entry.finished)) for entry in members]
    labels = dict.fromkeys(row.label for row, _ in rows if row.is_measured)
    if baseline is not None and baseline not in labels:
        raise ConfigError(f"baseline: there is no measured row '{baseline}'; allowed: {', '.join(labels)}")
    lines, made = _head(runs), []
    for _, block_rows in groupby(rows, key=lambda pair: pair[0].block):
        made += mark_best(columns, compared(list(block_rows), baseline))
    bases = dict.fromkeys(row.against for row in made if row.tests)
    lines += [f"baseline: {' | '.join(bases)}"] if bases else []
    done = sum(not run.problem for run in runs)
    lines += [f"finished: {done} of {len(runs)} runs"] if done < len(runs) else []
    return Table(title, tuple(lines), columns, tuple(with_footnotes(made)), versions.remarks(runs))


def _row(entry: Entry, block: Sequence[Entry], specs: Sequence[tuple[Column, Read]]) -> Row:
    cells = []
    for column, read in specs:
        cell, figure = read(entry), entry.figures.get(key_of(column))
        if figure is not None and key_of(column) != MULTI_ADDS:
            text = "" if figure.decimals == column.decimals else figure.text
            cell = replace(cell, paper=figure.value, paper_text=text)
        if cell.value is None and not cell.text:
            value = derived(key_of(column), entry, block)
            cell = cell if value is None else replace(cell, value=value, count=1)
        cells.append(cell)
    has_figures = any(cell.value is not None for cell in cells)
    return Row(
        entry.label,
        tuple(cells),
        entry.block,
        is_ours=bool(entry.runs) or has_figures,
        problem="" if has_figures else entry.problem or "finished without figures",
        note="; ".join(filter(None, (entry.note, _below_bicubic(entry), *_exact(entry)))),
        is_own=entry.is_own,
        folders=tuple(run.path for run in entry.runs),
        **_origin(entry.finished),
    )


def _origin(runs: Sequence[Run]) -> _Origin:
    """The protocol and the images of a row's values."""
    protocols = dict.fromkeys(str(run.values["protocol"]) for run in runs if "protocol" in run.values)
    return {
        "protocol": ", ".join(protocols),
        "measured_on": tuple(dict.fromkeys(pair for run in runs for pair in run.measured_on.items())),
    }


def _exact(entry: Entry) -> list[str]:
    """Remarks on test sets whose mean PSNR is infinite because images are reproduced exactly."""
    exact = Counter(
        str(image.get("set_name"))
        for run in entry.finished
        for image in run.images
        if image.get("psnr_y") == math.inf
    )
    return [
        f"PSNR on {name} is infinite: {count} exact image{'s' * (count > 1)}" for name, count in exact.items()
    ]


def _reader(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.number(key)


def _below_bicubic(entry: Entry) -> str:
    """The test sets on which a network scores below bicubic."""
    sets = dict.fromkeys(name for run in entry.finished for name in run.sets)
    found = []
    for name in sets:
        own = entry.measured((name, "psnr_y")).value
        bicubic = entry.cell(_reader(f"bicubic/{name}/psnr_y")).value
        if own is not None and bicubic is not None and own < bicubic - 5e-5:
            found.append(f"{name} ({fixed(own, 2)} instead of {fixed(bicubic, 2)} dB)")
    return f"below bicubic on {', '.join(found)}" if found else ""


def _bicubic(runs: Sequence[Run], columns: Sequence[Column], block: str) -> list[RowAndImages]:
    """Rows for bicubic upscaling, one for each protocol and each version of the images of a test set."""
    groups: list[list[Run]] = []
    for run in runs:
        if not any(key.startswith("bicubic/") for key in run.values):
            continue
        same = (group for group in groups if all(_is_measured_like(run, other) for other in group))
        if (group := next(same, None)) is not None:
            group.append(run)
        else:
            groups.append([run])
    rows: list[RowAndImages] = []
    for group, label in zip(groups, _bicubic_labels(groups), strict=True):
        values = {
            key.replace("bicubic/", "test/", 1): value
            for run in group
            for key, value in run.values.items()
            if key.startswith("bicubic/")
        }
        entry = Entry("bicubic", runs=[Run(Path("bicubic"), values)])
        cells = tuple(entry.measured(key_of(column)) for column in columns)
        images = significance.per_image(group, "bicubic_psnr_y")
        rows.append((Row(label, cells, block, is_reference=True, **_origin(group)), images))
    return rows


def _is_measured_like(run: Run, other: Run) -> bool:
    """Whether two runs were measured with one protocol, and on the same images of the sets that both have."""
    own, others = run.measured_on, other.measured_on
    return run.values.get("protocol", "") == other.values.get("protocol", "") and all(
        own[name].is_same(others[name]) for name in own.keys() & others.keys()
    )


def _bicubic_labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """``bicubic`` for each group, with the protocol and the images in brackets where these differ."""
    protocols = [str(group[0].values.get("protocol", "")) for group in groups]
    measured = [{name: own for run in group for name, own in run.measured_on.items()} for group in groups]
    labels = []
    for protocol, found in zip(protocols, measured, strict=True):
        alike = [own for own, other in zip(measured, protocols, strict=True) if other == protocol]
        differs = [protocol] if len(set(protocols)) > 1 else []
        for name, own in found.items():
            others = [other[name] for other in alike if name in other]
            if not all(own.is_same(other) for other in others):
                says_it = all(own.says != other.says for other in others if other is not own)
                differs.append(own.says if says_it else f"{name} {own.digest[:8]}")
        labels.append(f"bicubic ({', '.join(differs)})" if differs else "bicubic")
    return labels


def _head(runs: Sequence[Run]) -> list[str]:
    """The lines above the table: protocol, budget, device, commit, seeds, warnings."""
    keys = {
        "protocol": "protocol_says",
        "trained on": "degradation_says",
        "budget": "budget",
        "device": "device",
    }
    found = {
        title: [str(run.values[key]) for run in runs if key in run.values] for title, key in keys.items()
    }
    found["stopped early"] = [
        f"{run.name} at step {run.values.get('steps')} of {run.values['planned_steps']}"
        for run in runs
        if "planned_steps" in run.values
    ]
    found["steps skipped because loss or gradient was not finite"] = [
        f"{run.name} {run.values['skipped_steps']} of {run.values.get('steps')}"
        for run in runs
        if run.number("skipped_steps")
    ]
    if any("cpu_s_per_megapixel" in run.values for run in runs):
        found["CPU"] = [
            "eager float32 passes with an output of 640x360, median (quartiles); other columns: 1280x720"
        ]
    found["commit"] = [run.commit for run in runs if run.commit]
    if any("multi_adds" in run.values for run in runs):
        found["multi-adds"] = ["all operations at an output of 1280x720"]
    images = dict.fromkeys(own.says for run in runs for own in run.measured_on.values())
    found["images"] = [says for says in images if not says.startswith("not the published")]
    lines = [f"{title}: {' | '.join(dict.fromkeys(texts))}" for title, texts in found.items() if texts]
    trained = [run for run in runs if run.values.get("task", "train") == "train"]
    seeds = sorted({run.seed for run in trained if run.seed is not None})
    lines += [f"seeds: {', '.join(map(str, seeds))}"] if seeds else []
    for title, key in (("budgets", "budget"), ("protocols", "protocol")):
        if len({run.values[key] for run in runs if key in run.values}) > 1:
            lines.append(f"warning: {title} differ between rows")
    lines += [f"warning: {says}" for says in images if says.startswith("not the published")]
    for name in dict.fromkeys(name for run in runs for name in run.measured_on):
        first, *others = (run.measured_on[name] for run in runs if name in run.measured_on)
        if not all(first.is_same(other) for other in others):
            lines.append(f"warning: the images of {name} differ between rows")
    return lines
