"""The page of ``experiment=<paper>/<table>``: rows, recipe, budget, data and printed values."""

import math
from collections.abc import Mapping, Sequence

from sr_lab.help import data, layout, option, page
from sr_lab.help.option import Option
from sr_lab.help.page import Composed, at, shown
from sr_lab.reporting import published
from sr_lab.reporting.published import Figure

_RECIPE = (
    *("steps", "steps_per_epoch", "batch_size", "learning_rate", "dataset.lr_patch_size", "ema_decay"),
    *("validation.interval", "validation.count"),
)
_METRICS = {
    "num_params_k": "params [K]",
    "multi_adds_g": "multi-adds [G]",
    "psnr_y": "PSNR",
    "ssim_y": "SSIM",
    "psnr_y_gain": "gain [dB]",
}


def of(composed: Composed, group: str, name: str) -> list[str]:
    """The lines of an experiment's page."""
    found = option.find(composed.places, group, name)
    lines = page.title(group, name, found)
    if found is None:
        return lines
    family = _family(composed, found)
    if family:
        built = ", ".join(f"experiment={each}" for each, _ in family)
        lines += ["", *layout.wrapped(f"Built on {built}, whose recipe it uses.", indent=2)]
    trains = at(composed.values, "task") == "train"
    lines += _rows(composed, found)
    lines += ["", "Chooses", *layout.pairs(_chosen(composed, [found, *(each for _, each in family)]))]
    if trains:
        lines += ["", "Recipe", *layout.pairs(_recipe(composed, [found, *(each for _, each in family)]))]
        lines += ["", "Budget", *_budget(composed)]
        lines += _data(composed)
    lines += _printed(composed)
    return [*lines, "", "Commands", *layout.pairs(_commands(composed, name, trains=trains), column=6)]


def _family(composed: Composed, found: Option) -> list[tuple[str, Option]]:
    """The experiments that an experiment is built on, nearest first."""
    family = []
    for name in found.built_on:
        short = name.removeprefix("experiment/")
        if (base := option.find(composed.places, "experiment", short)) is not None:
            family += [(short, base), *_family(composed, base)]
    return family


def _chosen(composed: Composed, files: Sequence[Option]) -> list[tuple[str, str]]:
    """The options that the files choose, as composed, each with the comment of the nearest file."""
    rows: dict[str, tuple[str, str]] = {}
    for file in files:
        for group, name, comment in file.chosen:
            used = composed.choices.get(group, name)
            rows.setdefault(group, (f"{group}={used}", comment if used == name else ""))
    return list(rows.values())


def _rows(composed: Composed, found: Option) -> list[str]:
    rows = at(composed.values, "rows")
    if not isinstance(rows, Mapping) or not rows:
        return []
    pairs = []
    for label, overrides in rows.items():
        listed = " ".join(map(str, overrides)) if isinstance(overrides, list) else str(overrides)
        comment = found.comments.get(f"rows.{label}", "")
        pairs.append((str(label), f"{listed or '(no change)'}{f' ({comment})' if comment else ''}"))
    axes = {key: _options(value, len(rows)) for key, value in composed.params.items()}
    jobs = math.prod(axes.values()) if axes else len(rows)
    others = [f"{key}={value}" for key, value in composed.params.items() if key != "row"]
    at_each = f" at {', '.join(others)}" if others else ""
    return ["", *layout.wrapped(f"Rows{at_each}: {jobs} jobs"), *layout.pairs(pairs)]


def _options(value: object, rows: int) -> int:
    """How many values an axis of a sweep has."""
    text = str(value)
    return rows if text == "${rows:}" else len(text.split(","))


def _recipe(composed: Composed, files: Sequence[Option]) -> list[tuple[str, str]]:
    """The settings of the recipe, each with the comment of the nearest file that sets it."""
    rows = []
    for key in _RECIPE:
        value = at(composed.values, key)
        if value is not None:
            setter = next((each for each in files if at(each.values, key) is not None), None)
            comments = setter.comments if setter else {}
            comment = comments.get(key) or comments.get(key.partition(".")[0], "")
            rows.append((f"{key}={shown(value)}", comment))
    return rows


def _budget(composed: Composed) -> list[str]:
    name = composed.choices.get("budget", "")
    found = option.find(composed.places, "budget", name)
    limits = at(composed.values, "budget")
    rows = []
    if isinstance(limits, Mapping):
        rows = [
            (f"{key}={shown(value)}", "")
            for key, value in limits.items()
            if key != "name" and value is not None
        ]
    text = " ".join(found.heading) if found else ""
    return layout.pairs([(f"budget={name}", text), *rows])


def _data(composed: Composed) -> list[str]:
    sets = [*_listed(composed, "benchmark.sets"), *_listed(composed, "validation.sets")]
    training = data.training(at(composed.values, "dataset"))
    folders = list(dict.fromkeys([*training, *data.testing(sets, composed.data_dir)]))
    if not folders:
        return ["", "Data", "  Nothing to download: the images come with scikit-image."]
    lines = ["", *data.state(folders, composed.data_dir)]
    missing = data.missing(folders)
    if data.can_prepare(missing, composed.data_dir):
        command = "python -m sr_lab task=prepare " + " ".join(
            f"{group}={composed.choices[group]}" for group in ("dataset", "benchmark")
        )
        lines += layout.pairs([(command, "downloads what is missing")], column=6)
    for sentence in data.by_hand(missing, composed.data_dir):
        lines += layout.wrapped(sentence, indent=2)
    return lines


def _listed(composed: Composed, path: str) -> list[object]:
    value = at(composed.values, path)
    return value if isinstance(value, list) else []


def _printed(composed: Composed) -> list[str]:
    paper, name = at(composed.values, "table.paper"), at(composed.values, "table.name")
    figures = published.table(str(paper), str(name))
    if not figures:
        return []
    measures = list(dict.fromkeys((figure.set_name, figure.metric) for figure in figures))
    measures.sort(key=lambda each: _importance(each[1]))
    rows: dict[tuple[str, int | None], dict[tuple[str, str], Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.row, figure.scale), {})[figure.set_name, figure.metric] = figure
    header = [["", "scale", *(set_name or "" for set_name, _ in measures)]]
    header += [["row", "", *(_METRICS.get(metric, metric) for _, metric in measures)]]
    cells = [
        [row, "" if scale is None else f"x{scale}", *(_text(found.get(each)) for each in measures)]
        for (row, scale), found in rows.items()
    ]
    text = f"Printed values (all of them: experiments/{paper}/expected.csv, {name})"
    return ["", *layout.wrapped(text), *layout.columns([*header, *cells])]


def _text(figure: Figure | None) -> str:
    return "-" if figure is None else figure.text


def _importance(metric: str) -> int:
    order = ("num_params_k", "psnr_y", "psnr_y_gain", "ssim_y", "multi_adds_g")
    return order.index(metric) if metric in order else len(order)


def _commands(composed: Composed, name: str, *, trains: bool) -> list[tuple[str, str]]:
    start = f"python -m sr_lab experiment={name}"
    folder = f"{at(composed.values, 'paths.output_dir')}/{at(composed.values, 'experiment_name')}"
    if not trains:
        draws = at(composed.values, "task") == "compare"
        return [(start, "draws the figure" if draws else "measures every row and prints the table")]
    whole = "trains every row" if at(composed.values, "rows") else "trains the network"
    return [
        (start, f"{whole} and prints the table; the same command resumes"),
        (f"{start} budget=smoke", "the same with a few tiny steps, to see that everything runs"),
        (f"python -m sr_lab task=report runs={folder}", "what is finished, as a table and a page"),
    ]
