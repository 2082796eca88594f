"""The report as one HTML file: opens without a network, without a server, and without JavaScript.

``page.html`` is its skeleton, ``page.css`` its look, ``page.js`` the sorting and the viewer. What users named
goes in by Jinja2, which escapes it; the content policy lets nothing run or load but what stands in the page.
"""

import base64
import hashlib
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sr_lab import files
from sr_lab.reporting import curves, pictures, tradeoff
from sr_lab.reporting.grid import (
    UNMEASURED,
    Cell,
    Column,
    Grid,
    GridRow,
    ImageGain,
    fixed,
    shortened,
    signed,
)
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.pictures import Picture
from sr_lab.reporting.results import to_csv
from sr_lab.reporting.runs import Run
from sr_lab.reporting.settings import flat, varied

MAX_BYTES = 24_000_000  # of pictures in one page: what a phone still opens
_SIDES = (None, 768, 512, 384, 256, 192, 128)  # of the crops, largest first; None is the whole image
_TIMES = "\N{MULTIPLICATION SIGN}"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Shot:
    """One method's picture of an image, as the page shows it.

    Args:
        name: The method.
        kind: ``lr``, ``sr`` or ``hr``.
        source: PNG as a data URI.
        psnr: In dB, ``nan`` for none.
        ssim: ``nan`` for none.
    """

    name: str
    kind: str
    source: str
    psnr: float = math.nan
    ssim: float = math.nan

    @property
    def score(self) -> str:
        """PSNR and SSIM as papers print them."""
        return "" if math.isnan(self.psnr) else f"{fixed(self.psnr, 2)} dB / {fixed(self.ssim, 4)}"


@dataclass(frozen=True)
class Album:
    """Every method's picture of one image.

    Args:
        picture: The image.
        width: Of what is shown, in HR pixels.
        height: Of what is shown.
        shots: LR, bicubic, the runs, HR.
    """

    picture: Picture
    width: int
    height: int
    shots: tuple[Shot, ...]


def write(path: Path, grid: Grid, runs: Sequence[Run], figures: Sequence[tuple[Picture, Path]] = ()) -> None:
    """Write the page.

    Args:
        path: The file, e.g. ``report.html``.
        grid: The table.
        runs: The runs that it is made of: their curves, pictures, settings and origin.
        figures: Zoomed crops, see `render`.
    """
    files.write(path, render(grid, runs, root=path.parent, figures=figures))


def render(
    grid: Grid,
    runs: Sequence[Run],
    *,
    root: Path,
    figures: Sequence[tuple[Picture, Path]] = (),
    max_bytes: int = MAX_BYTES,
) -> str:
    """The page.

    Args:
        grid: The table.
        runs: Its runs, in the order in which curves and pictures are shown.
        root: The folder of runs, for the command that makes the page again.
        figures: Images with the PNG of their zoomed crops (`crops.write`).
        max_bytes: What its pictures may take; beyond it crops of them are shown, and then fewer.
    """
    crop_figures = [
        (f"{picture.image} from {picture.set_name}, {_TIMES}{picture.scale}", _data_uri(file.read_bytes()))
        for picture, file in figures
    ]
    taken = sum(len(source) for _, source in crop_figures)
    albums, said = _albums(pictures.find(runs), max_bytes - taken)
    style, script = ((_HERE / name).read_text() for name in ("page.css", "page.js"))
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    facts, remarks, warnings = _head(grid, runs)
    return environment.from_string((_HERE / "page.html").read_text()).render(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=Markup(style),
        script=Markup(script),
        grid=grid,
        forms=_forms(grid),
        groups=_groups(grid.columns),
        facts=facts,
        remarks=remarks,
        warnings=warnings,
        has_paper=any(row.has_paper for row in grid.rows),
        unmeasured=UNMEASURED,
        cell=_Shown,
        training=curves.draw(runs),
        spark=_Sparklines(grid),
        scatters=[(title, Markup(picture)) for title, picture in _scatters(runs)],
        crop_figures=crop_figures,
        albums=albums,
        pictures_said=said,
        settings=_settings(runs),
        origins=_origins(runs),
        versions=_versions(runs),
        commands=_commands(runs, root),
    )


def _hash(text: str) -> str:
    """What a content policy calls this style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The head


def _head(grid: Grid, runs: Sequence[Run]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Facts, other lines, and what is said in red."""
    facts: list[tuple[str, str]] = []
    remarks, warnings = [], []
    for line in grid.head:
        name, colon, text = line.partition(": ")
        if name == "warning":
            warnings.append(text)
        elif colon and len(name) < 20:
            facts.append((name, text))
        else:
            remarks.append(line)
    budgets = list(dict.fromkeys(str(run.values["budget"]) for run in runs if "budget" in run.values))
    if len(budgets) > 1 and not any("budget" in text for text in warnings):
        warnings.append(f"budgets differ between rows: {', '.join(budgets)}")
    if budgets and "budget" not in dict(facts):
        facts.append(("budget", ", ".join(budgets)))
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    if seeds and "seeds" not in dict(facts):
        facts.append(("seeds", ", ".join(map(str, seeds))))
    return facts, remarks, warnings


# The table


def _forms(grid: Grid) -> list[tuple[str, str, str]]:
    """The table in its other forms: what it is, the file beside the page, its text."""
    return [
        ("Markdown", "table.md", to_markdown(grid)),
        ("CSV", "table.csv", to_csv(grid)),
        ("LaTeX", "table.tex", to_latex(grid)),
        ("LaTeX, PSNR/SSIM in one cell", "table_paired.tex", to_latex(grid, paired=True)),
    ]


def _groups(columns: Sequence[Column]) -> list[tuple[str, bool, int]]:
    """What spans several columns, whether they are settings, and how many; empty if nothing does."""
    if not any(column.group for column in columns):
        return []
    groups = groupby(columns, key=lambda column: (column.group, column.is_setting))
    return [(group, is_setting, len(list(same))) for (group, is_setting), same in groups]


class _Shown:
    """A cell as the page shows it: ours large, below it the paper's and the difference.

    Args:
        cell: The cell.
        column: Its column.
    """

    def __init__(self, cell: Cell, column: Column) -> None:
        self.is_number = not cell.text and (cell.value is not None or cell.paper is not None)
        self.is_paper = not cell.text and cell.value is None and cell.paper is not None
        whole = fixed(cell.paper, column.decimals) if self.is_paper else cell.shown(column)
        self.text = shortened(whole, 24)
        self.paper = "" if self.is_paper or cell.paper is None else fixed(cell.paper, column.decimals)
        self.difference = "" if cell.text else signed(cell.difference, column.decimals)
        value = cell.paper if self.is_paper else cell.value
        self.value = "" if value is None or cell.text else repr(value)
        self.rank = {1: "best", 2: "second"}.get(cell.rank, "")
        gain = signed(cell.gain, column.decimals)
        said = (
            whole if whole != self.text else "",
            f"{gain} against the baseline row" if gain else "",
            f"mean of {cell.count} seeds" if cell.count > 1 else "",
            "printed in the paper, not measured here" if self.is_paper else "",
            cell.note,
        )
        self.note = "; ".join(part for part in said if part)


@dataclass(frozen=True)
class _Sparkline:
    """The images of a set in one row of the table, as bars around a line.

    Args:
        gains: Of each image, in the order of the test.
        largest: In dB, what the highest bar of the set stands for.
        against: The row compared with.
    """

    gains: tuple[ImageGain, ...]
    largest: float
    against: str

    def bars(self, sign: int) -> str:
        """SVG's path of the bars of gains (1) or losses (-1), 64 wide, from -8 to 8."""
        step = 64 / len(self.gains)
        parts = []
        for number, image in enumerate(self.gains):
            height = 8 * image.gain / self.largest
            if sign * height > 0.05:
                left, wide = number * step, max(step - 1, 0.7 * step)
                parts.append(f"M{left:.1f} 0h{wide:.1f}v{-height:.1f}h{-wide:.1f}z")
        return "".join(parts)

    @property
    def said(self) -> str:
        """The same in words."""
        worst = "; ".join(f"{image} {psnr} ({gain})" for image, psnr, gain in self.worst)
        return f"PSNR of {len(self.gains)} images against {self.against}, the worst: {worst}"

    @property
    def worst(self) -> list[tuple[str, str, str]]:
        """The five images that lose most, or gain least: name, PSNR and difference."""
        lowest = sorted(self.gains, key=lambda image: image.gain)[:5]
        return [(image.image, fixed(image.psnr, 2), signed(image.gain, 2)) for image in lowest]


class _Sparklines:
    """What stands below the PSNR of each set; rows with one baseline are drawn on one scale.

    Args:
        grid: The table.
    """

    def __init__(self, grid: Grid) -> None:
        self._largest: dict[tuple[str, str, str], float] = {}
        for row in grid.rows:
            for image in row.images:
                key = (row.block, row.against, image.set_name)
                self._largest[key] = max(self._largest.get(key, 1e-3), abs(image.gain))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._largest)

    def __call__(self, row: GridRow, column: Column) -> _Sparkline | None:
        """That of a cell."""
        gains = tuple(image for image in row.images if column.key == f"{image.set_name}/psnr_y")
        if not gains:
            return None
        largest = self._largest[row.block, row.against, gains[0].set_name]
        return _Sparkline(gains, largest, row.against or "bicubic")


# Pictures


def _scatters(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """One picture of quality and cost for each scale, on the largest of the usual sets that was measured."""
    made = []
    for scale in sorted({run.scale for run in runs if run.sets}):
        of_scale = [run for run in runs if run.scale == scale]
        sets = [name for run in of_scale for name in run.sets]
        usual = [name for name in ("Urban100", "B100", "Manga109", "Set14", "Set5") if name in sets]
        set_name = (usual or sets)[0]
        points = [
            tradeoff.Point(name, run.number("num_params") or 0, multi_adds, psnr, is_measured=True)
            for run, name in zip(of_scale, pictures.names(of_scale), strict=True)
            if (multi_adds := run.number("multi_adds"))
            and (psnr := run.number(f"test/{set_name}/psnr_y"))
            and math.isfinite(psnr)
        ]
        if points:
            shown = tradeoff.around(points, scale=scale, set_name=set_name)
            salt = f"scatter{scale}"
            made.append(
                (f"{_TIMES}{scale}, {set_name}", tradeoff.draw_svg(shown, set_name=set_name, salt=salt))
            )
    return made


def _albums(found: Sequence[Picture], max_bytes: int) -> tuple[list[Album], str]:
    """The pictures that fit, and a sentence on what did not.

    Whole images if they fit; else crops of their middles, as large as they fit; else fewer of the smallest.
    """
    albums: list[Album] = []
    side: int | None = None
    for side in _SIDES:
        albums, room = [], max_bytes
        for picture in found:
            album = _album(picture, side)
            room -= sum(len(shot.source) for shot in album.shots)
            if room < 0:
                break
            albums.append(album)
        if room >= 0:
            break
    said = []
    if side is not None and albums:
        said.append(f"Middles of {side} pixels are shown instead of whole images")
    if len(albums) < len(found):
        said.append(f"{len(found) - len(albums)} of {len(found)} images are left out")
    return albums, f"{', and '.join(said)}, to keep the page small." if said else ""


def _album(picture: Picture, side: int | None) -> Album:
    scale = picture.scale
    with Image.open(picture.hr, formats=("PNG",)) as hr:
        width, height = hr.size
    box = None
    if side is not None and max(width, height) > side:
        wide, high = (min(side, length) // scale * scale for length in (width, height))
        left, top = ((width - wide) // 2 // scale * scale, (height - high) // 2 // scale * scale)
        box, width, height = (left, top, left + wide, top + high), wide, high
    small = None if box is None else (box[0] // scale, box[1] // scale, box[2] // scale, box[3] // scale)
    shots = [
        Shot("LR, nearest", "lr", _source(picture.lr, small)),
        *(Shot(r.name, "sr", _source(r.file, box), r.score.psnr, r.score.ssim) for r in picture.results),
        Shot("HR", "hr", _source(picture.hr, box)),
    ]
    return Album(picture, width, height, tuple(shots))


def _source(path: Path, box: tuple[int, int, int, int] | None) -> str:
    if box is None:
        return _data_uri(path.read_bytes())
    content = io.BytesIO()
    with Image.open(path, formats=("PNG",)) as picture:
        picture.crop(box).save(content, "PNG")
    return _data_uri(content.getvalue())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


# Settings, origin, commands


def _settings(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What was set differently: names of the settings, and for each run their values."""
    own = [
        flat(run) | {key: str(value) for key, value in (("scale", run.scale), ("seed", run.seed))}
        for run in runs
    ]
    differing = varied(own)
    rows = [
        (name, [settings.get(key, "-") for key in differing])
        for name, settings in zip(pictures.names(runs), own, strict=True)
    ]
    return differing, rows


def _origins(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Where each run's numbers come from."""
    return [
        {
            "run": name,
            "folder": run.path.name,
            "commit": str(run.values.get("commit") or "-")[:8]
            + (" with local changes" if run.values.get("dirty") else ""),
            "device": str(run.values.get("device", "-")),
            "date": str(run.values.get("date", "-"))[:16].replace("T", " "),
            "time": "-" if (seconds := run.number("wall_time_s")) is None else _duration(seconds),
            "problem": run.problem,
        }
        for run, name in zip(runs, pictures.names(runs), strict=True)
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def _versions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Packages and the versions that were in use."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        versions = run.values.get("versions")
        for name, version in versions.items() if isinstance(versions, Mapping) else ():
            found.setdefault(str(name), {})[str(version)] = None
    return [(name, " | ".join(versions)) for name, versions in found.items()]


def _commands(runs: Sequence[Run], root: Path) -> list[tuple[str, str]]:
    """What to type to get all this again."""
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
    for run, name in zip(runs, pictures.names(runs), strict=True):
        place = _short(run.path)
        folder = shlex.quote(str(place)) if place.is_absolute() else f'"$PWD"/{shlex.quote(str(place))}'
        commands.append((name, f"python -m sr_lab --config-path {folder} --config-name config"))
    return commands


def _sweep_command(experiment: str, runs: Sequence[Run]) -> str:
    """The command line of a sweep, put together from those of its jobs; the rows are the experiment's own."""
    found: dict[str, dict[str, None]] = {"experiment=": {}}
    for run in runs:
        for override in run.overrides or (f"experiment={experiment}",):
            key, equals, value = override.partition("=")
            found.setdefault(key + equals, {})[value] = None
    found.pop("row=", None)
    return shlex.join(["python", "-m", "sr_lab", *(key + ",".join(values) for key, values in found.items())])


def _short(path: Path) -> Path:
    """A path as it is typed where the report was made: nothing of the machine, if that can be."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
