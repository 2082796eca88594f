"""The report as one HTML file that opens without a network, a server or JavaScript.

``page.html`` is its template, ``page.css`` its style; ``page.js`` sorts tables and shows images. Jinja2
escapes all names, and the content policy allows only the script, style and images in the page.
"""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sr_lab.files import printable
from sr_lab.reporting import analyses, crops, curves, page_images, saved_images, tradeoff
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.page_table import ShownCell, bar_charts
from sr_lab.reporting.runs import Run
from sr_lab.reporting.safe_csv import table_to_csv
from sr_lab.reporting.saved_images import Picture
from sr_lab.reporting.settings import differences
from sr_lab.reporting.table import UNMEASURED, Column, Table

_HERE = Path(__file__).parent


def render(table: Table, runs: Sequence[Run], *, root: Path, found: Sequence[Picture] | None = None) -> str:
    """Return the page as HTML.

    Args:
        table: The table of all runs.
        runs: The runs of the table, in the order of curves and images.
        root: The folder of runs, for the pictures of ``task=analyze`` in it and for the command that
            regenerates the page.
        found: The images that the runs have saved, if `saved_images.find` was called before.
    """
    found = saved_images.find(runs) if found is None else found
    albums, left_out = page_images.albums(found)
    pictures, more_pictures = analyses.find(root)
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    facts, remarks, warnings = _head(table)
    return environment.from_string((_HERE / "page.html").read_text(encoding="utf-8")).render(
        policy=policy,
        style=style,
        script=script,
        table=table,
        forms=forms(table),
        groups=_groups(table.columns),
        facts=facts,
        remarks=remarks,
        warnings=warnings,
        has_paper=any(row.has_paper for row in table.rows),
        unmeasured=UNMEASURED,
        cell=ShownCell,
        training=curves.draw(runs),
        charts=bar_charts(table),
        plots=tradeoff.plots(runs),
        analyses=pictures,
        more_analyses=more_pictures,
        strips=[page_images.strip(picture) for picture in crops.most_different(found)],
        albums=albums,
        left_out=left_out,
        wholes={},  # ids of the small whole images that the page has so far
        settings=_settings(runs),
        origins=_origins(runs),
        versions=_versions(runs),
        commands=_commands(runs, root),
        run_commands=_run_commands(runs),
    )


def _hash(text: str) -> str:
    """The hash that a content policy lists to allow a style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _head(table: Table) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Sort the lines above the table into named facts, remarks and warnings."""
    facts: list[tuple[str, str]] = []
    remarks, warnings = [], []
    for line in table.head:
        name, colon, text = line.partition(": ")
        if name == "warning":
            warnings.append(text)
        elif colon and len(name) < 20:
            facts.append((name, text))
        else:
            remarks.append(line)
    return facts, remarks, warnings


def forms(table: Table) -> list[tuple[str, str, str]]:
    """The table in its other formats: name, file next to the page, text."""
    return [
        ("Markdown", "table.md", to_markdown(table)),
        ("CSV", "table.csv", table_to_csv(table)),
        ("LaTeX", "table.tex", to_latex(table)),
        ("LaTeX, PSNR/SSIM in one cell", "table_paired.tex", to_latex(table, paired=True)),
    ]


def _groups(columns: Sequence[Column]) -> list[tuple[str, bool, int]]:
    """Headers above several columns: text, whether the columns are settings, number of columns."""
    if not any(column.group for column in columns):
        return []
    groups = groupby(columns, key=lambda column: (column.group, column.is_setting))
    return [(group, is_setting, len(list(same))) for (group, is_setting), same in groups]


def _settings(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of the settings that differ, and their values in each run."""
    own = [
        settings | {"scale": str(run.scale), "seed": str(run.seed)}
        for run, settings in zip(runs, differences(runs), strict=True)
    ]
    differing = [
        name
        for name in dict.fromkeys(name for settings in own for name in settings)
        if name not in ("scale", "seed") or len({settings[name] for settings in own}) > 1
    ]
    rows = [
        (name, [settings[key] for key in differing])
        for name, settings in zip(saved_images.names(runs), own, strict=True)
    ]
    return differing, rows


def _origins(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Commit, device, date and folder of each run."""
    return [
        {
            "run": name,
            "folder": run.folder,
            "commit": run.commit or "-",
            "device": str(run.values.get("device", "-")),
            "date": str(run.values.get("date", "-"))[:16].replace("T", " "),
            "time": "-" if (seconds := run.number("wall_time_s")) is None else _duration(seconds),
            "problem": run.problem,
        }
        for run, name in zip(runs, saved_images.names(runs), strict=True)
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _versions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Packages and the versions that the runs used."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        versions = run.values.get("versions")
        for name, version in versions.items() if isinstance(versions, Mapping) else ():
            found.setdefault(str(name), {})[str(version)] = None
    return [(name, " | ".join(versions)) for name, versions in found.items()]


def _commands(runs: Sequence[Run], root: Path) -> list[tuple[str, str]]:
    """The commands that reproduce the whole table and the page."""
    commands: list[tuple[str, str]] = []
    commits = {str(run.values["commit"]) for run in runs if run.values.get("commit")}
    if len(commits) == 1:
        commands.append(("The code", f"git checkout {shlex.quote(commits.pop())}"))
    tables: dict[str, list[Run]] = {}
    for run in runs:
        if run.table and not run.problem:
            tables.setdefault(str(run.values.get("experiment")), []).append(run)
    commands += [("The whole table", _sweep_command(name, own)) for name, own in tables.items()]
    commands.append(("This page", f"python -m sr_lab task=report {shlex.quote(f'runs={_short(root)}')}"))
    return commands


def _run_commands(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The command that repeats each run."""
    commands = []
    for run, name in zip(runs, saved_images.names(runs), strict=True):
        place = _short(run.path)
        folder = shlex.quote(str(place)) if place.is_absolute() else f'"$PWD"/{shlex.quote(str(place))}'
        commands.append((name, f"python -m sr_lab --config-path {folder} --config-name config"))
    return commands


def _sweep_command(experiment: str, runs: Sequence[Run]) -> str:
    """The command line of a sweep, reconstructed from its jobs; the experiment itself lists the rows."""
    found: dict[str, dict[str, None]] = {"experiment=": {}}
    for run in runs:
        for override in run.overrides or (f"experiment={experiment}",):
            key, equals, value = override.partition("=")
            found.setdefault(key + equals, {})[value] = None
    found.pop("row=", None)
    return shlex.join(["python", "-m", "sr_lab", *(key + ",".join(values) for key, values in found.items())])


def _short(path: Path) -> Path:
    """A path relative to the current folder if it is inside, so that a page does not reveal other folders."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
