"""The columns of a table: how each metric is printed, and how its value is read from a row's runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from sr_lab.reporting import counts, published
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.labels import is_said
from sr_lab.reporting.rows import MINUS, MULTI_ADDS, NUM_PARAMS, Entry, Key, timed_on
from sr_lab.reporting.runs import Run
from sr_lab.reporting.settings import differences
from sr_lab.reporting.table import Cell, Column

Read: TypeAlias = Callable[[Entry], Cell]

_MAX_SETTINGS = 3  # columns of settings to the left of the figures; the rest are on the right

# Metric -> title, unit, decimals, whether higher is better (``None``: papers mark only quality), meaning.
_METRICS: dict[str, tuple[str, str, int, bool | None, str]] = {
    "psnr_y": ("PSNR", "", 2, True, "mean over the images, in dB"),
    "ssim_y": ("SSIM", "", 4, True, "mean over the images"),
    "lpips": ("LPIPS", "", 4, False, "distance of AlexNet's features, mean over the images; lower is better"),
    "lpips_vgg": (
        "LPIPS VGG",
        "",
        4,
        False,
        "distance of VGG16's features, mean over the images; lower is better",
    ),
    "dists": ("DISTS", "", 4, False, "mean over the images; lower is better"),
    "psnr_y_gain": ("PSNR gain", "dB", 2, None, ""),
    "num_params_k": ("params", "K", 1, None, "parameters"),
    "multi_adds_g": ("multi-adds", "G", 1, None, "multiply-adds for an output of 1280x720"),
    "time_s": ("latency", "s", 4, None, "time of inference"),
    "cpu_time_s": ("CPU", "s", 3, None, "time of inference on a CPU"),
    "gpu_time_s": ("GPU", "s", 3, None, "time of inference on a GPU"),
    "gpu_time_ms": ("GPU", "ms", 1, None, "time of inference on a GPU"),
    "gpu_time_increase_percent": ("increase", "%", 1, None, "of the time of inference on a GPU"),
    "gpu_memory_m": ("GPU memory", "MB", 0, None, "of inference"),
}
# Title, unit, key of metrics.json, its unit, decimals, meaning.
_COSTS = (
    ("acts", "M", "activations", 1e6, 1, "activations for an output of 1280x720"),
    ("memory", "MiB", "peak_memory_bytes", 2**20, 0, "calculated for inference at an output of 1280x720"),
    ("CPU", "s/MP", "cpu_s_per_megapixel", 1, 2, "time of inference for a megapixel"),
    ("GPU", "ms", "gpu_ms", 1, 2, "time of inference for an output of 1280x720"),
    ("GPU memory", "MiB", "gpu_peak_memory_bytes", 2**20, 0, "measured at an output of 1280x720"),
    ("duration", "s", "wall_time_s", 1, 0, "of the whole run"),
)


def key_of(column: Column) -> Key:
    """Set and metric of a column."""
    set_name, _, metric = column.key.rpartition("/")
    return set_name, metric


def measured_keys(runs: Sequence[Run]) -> list[Key]:
    """Size, cost, and the quality on every tested set."""
    sets = dict.fromkeys(name for run in runs for name in run.sets)
    perceptual = ("lpips", "lpips_vgg", "dists")
    quality = [
        (name, metric)
        for name in sets
        for metric in ("psnr_y", "ssim_y", *perceptual)
        if metric not in perceptual or any(f"test/{name}/{metric}" in run.values for run in runs)
    ]
    return [NUM_PARAMS, MULTI_ADDS, *quality]


def paper_columns(
    paper: str, table: str, runs: Sequence[Run], entries: Sequence[Entry]
) -> list[tuple[Column, Read]]:
    """The paper's columns, then the sets and costs that only we measured."""
    decimals: dict[Key, Counter[int]] = {}
    for figure in published.table(paper, table):
        decimals.setdefault((figure.set_name, figure.metric), Counter())[figure.decimals] += 1
    columns = [_metric(key, decimals=counts.most_common(1)[0][0]) for key, counts in decimals.items()]
    more = [key for key in measured_keys(runs) if key not in decimals]
    columns += [_metric(key, is_extra=bool(decimals)) for key in more]
    return _with_printed(columns, entries) + _costs(runs, is_extra=True)


def sweep_columns(runs: Sequence[Run], entries: Sequence[Entry]) -> list[tuple[Column, Read]]:
    """The settings that differ between rows, then size, quality and costs."""
    own = differences([entry.example for entry in entries])
    texts = {id(entry): settings for entry, settings in zip(entries, own, strict=True)}
    settings: list[tuple[Column, Read]] = []
    for name in own[0]:
        said = all(is_said(entry.label, name, texts[id(entry)][name]) for entry in entries)
        column = Column(name, key=name, is_setting=True, is_in_label=said)
        settings.append((column, _setting(texts, name)))
    params, adds, *quality = measured_keys(runs)
    columns = settings[:_MAX_SETTINGS]
    if any("num_params" in run.values for run in runs):
        columns += [_metric(params), _metric(adds)]
    columns = _with_printed(columns, entries) + [_metric(key) for key in quality]
    return columns + _costs(runs) + settings[_MAX_SETTINGS:]


def derived(key: Key, entry: Entry, block: Sequence[Entry]) -> float | None:
    """A value computed from rows of the block: a strategy's gain or extra time, or "A new minus old".

    ``None`` if a row is missing, or if the two PSNR values were measured with different protocols or images.
    """
    set_name, metric = key
    if metric not in _METRICS:
        return None
    if metric == "psnr_y_gain":
        if " + " not in entry.label:
            return None
        pair = entry.label, entry.label.partition(" + ")[0]
        metric = "psnr_y"
    elif metric == "gpu_time_increase_percent":
        # The paper's first row may be several rows here, one for each device.
        firsts = (other for other in block if other.figures is block[0].figures)
        first = next((other for other in firsts if timed_on(other) == timed_on(entry)), block[0])
        time, base = (row.measured((set_name, "gpu_time_ms")).value for row in (entry, first))
        return None if time is None or not base else 100 * (time / base - 1)
    elif MINUS in entry.label:  # "CARN cos_lr minus step_lr" is "CARN cos_lr" minus "CARN step_lr"
        minuend, _, rest = entry.label.partition(MINUS)
        pair = minuend, f"{minuend.rpartition(' ')[0]} {rest}".strip()
    else:
        return None
    rows = [row for label in pair if (row := next((r for r in block if r.label == label), None)) is not None]
    if len(rows) < len(pair) or (set_name and not _is_comparable(rows, set_name)):
        return None
    ours, other = (row.measured((set_name, metric)).value for row in rows)
    return None if ours is None or other is None else ours - other


def _is_comparable(rows: Sequence[Entry], set_name: str) -> bool:
    """Whether rows were measured on a set with one protocol and on the same images."""
    runs = [run for row in rows for run in row.finished if set_name in run.sets]
    images = [run.measured_on[set_name] for run in runs]
    return len({run.values.get("protocol") for run in runs}) <= 1 and all(
        own.is_same(images[0]) for own in images
    )


def _metric(key: Key, *, decimals: int | None = None, is_extra: bool = False) -> tuple[Column, Read]:
    set_name, metric = key
    title, unit, usual, better, means = _METRICS.get(metric, (metric, "", 2, None, ""))
    decimals = usual if decimals is None else decimals
    name = f"{set_name}/{metric}" if set_name else metric
    column = Column(title, set_name, unit, decimals, better, name, is_extra, means=means)
    return column, lambda entry: entry.measured(key)


def _with_printed(
    columns: Sequence[tuple[Column, Read]], entries: Sequence[Entry]
) -> list[tuple[Column, Read]]:
    """The columns, with a column of printed multiply-adds after our count of all operations."""
    made = list(columns)
    place = next((n for n, (column, _) in enumerate(made) if key_of(column) == MULTI_ADDS), None)
    if place is not None and any(printed_adds(entry).text for entry in entries):
        column = replace(
            made[place][0], title="printed multi-adds", key="multi_adds_printed", means="in the paper"
        )
        made.insert(place + 1, (column, printed_adds))
    return made


def printed_adds(entry: Entry) -> Cell:
    """The multiply-adds that the row's paper prints, or else the ones that other papers print."""
    figure = entry.figures.get(MULTI_ADDS)
    if figure is None:
        printed, own = entry.figures.get(NUM_PARAMS), entry.measured(NUM_PARAMS).value
        size = own if printed is None else printed.value
        option = next(
            (str(run.values["option"]) for run in entry.runs if "option" in run.values), entry.model
        )
        figure = None if size is None else counts.printed_multi_adds(option, entry.scale, size * 1e3)
    return Cell() if figure is None else Cell(text=figure.text, note=counts.rule(figure))


def _costs(runs: Sequence[Run], *, is_extra: bool = False) -> list[tuple[Column, Read]]:
    return [
        (Column(title, "", unit, decimals, None, key, is_extra, means=means), _number(key, divisor, decimals))
        for title, unit, key, divisor, decimals, means in _COSTS
        if any(key in run.values for run in runs)
    ]


def _number(key: str, unit: float, decimals: int) -> Read:
    """A number of metrics.json, with its quartiles if one run measured it several times."""

    def cell(entry: Entry, name: str) -> Cell:
        return entry.cell(lambda run: run.number(name, unit))

    def read(entry: Entry) -> Cell:
        cells = [cell(entry, name) for name in (key, f"{key}_q1", f"{key}_q3")]
        median, q1, q3 = (fixed(each.value, decimals) for each in cells)
        is_spread = all(each.count == 1 for each in cells)
        return replace(cells[0], text=f"{median} ({q1} to {q3})") if is_spread else cells[0]

    return read


def _setting(texts: Mapping[int, Mapping[str, str]], name: str) -> Read:
    return lambda entry: Cell(text=texts[id(entry)][name])
