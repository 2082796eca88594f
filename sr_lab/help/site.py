"""The pages of the site of ``make docs``: the texts of ``--help``, and the READMEs of ``experiments/``.

``python -m sr_lab.help.site build/docs`` writes ``mkdocs.yml`` and ``pages/`` there.
"""

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import hydra
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from sr_lab.config import targets
from sr_lab.config.identity import register_resolvers
from sr_lab.config.networks import model_node
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir, read_csv, write
from sr_lab.help import answer, layout, option
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.reporting import counts, published
from sr_lab.reporting.published import experiments_dir

# Pages do not depend on the machine on which they are built.
_PLACES = ("paths.data_dir=data", "paths.output_dir=outputs", "paths.cache_dir='~/.cache/sr_lab'")
_OWN_PAGES = ("model", "task", "experiment")  # groups in which each option has its own page
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_TOP = {"": "Start", "networks": "Networks", "tables": "Papers", "tasks": "Tasks", "groups": "Options"}


def build(folder: Path) -> None:
    """Write the pages and their configuration into a folder; earlier pages in it are replaced."""
    pages = folder / "pages"
    if pages.exists():
        shutil.rmtree(pages)
    texts = {name: text for name, text in everything().items() if text}
    for name, text in texts.items():
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
    for picture in _pictures():
        target = pages / "pictures" / picture.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target)
    shutil.copyfile(Path(__file__).parent / "site.css", pages / "site.css")
    settings = yaml.safe_load((Path(__file__).parent / "mkdocs.yml").read_text(encoding="utf-8"))
    write(folder / "mkdocs.yml", yaml.safe_dump(settings | {"nav": _navigation(texts)}, sort_keys=False))


def everything() -> dict[str, str]:
    """The Markdown of every page, by its path."""
    helped = _helped()
    pages = {"index.md": _start(), "speed.md": _document(experiments_dir() / "benchmarks" / "README.md")}
    pages["guide.md"] = _document(experiments_dir() / "README.md")
    pages["own_code.md"] = _document(experiments_dir() / "own_code" / "README.md")
    names = option.groups([conf_dir()])
    pages["networks/index.md"] = _networks(names["model"])
    for name in names["model"]:
        pages[f"networks/{name}.md"] = helped[f"model={name}"] + _sizes(name) + _trained(name)
    for group, options in names.items():
        if group.partition("/")[0] not in _OWN_PAGES:
            # The headings of each option become part of the group's page.
            parts = [re.sub(r"^#", "##", helped[f"{group}={name}"], flags=re.MULTILINE) for name in options]
            pages[f"groups/{group}.md"] = "\n\n".join([f"# {group}", *parts])
    pages["groups/index.md"] = _index("Options", pages, "groups")
    for name in names["task"]:
        pages[f"tasks/{name}.md"] = helped[f"task={name}"]
    pages["tasks/index.md"] = _index("Tasks", pages, "tasks")
    for paper in _papers():
        pages[f"tables/{paper}/index.md"] = _document(experiments_dir() / paper / "README.md") + _list(
            names[f"experiment/{paper}"]
        )
        for name in names[f"experiment/{paper}"]:
            pages[f"tables/{paper}/{name}.md"] = helped[f"experiment={paper}/{name}"] + _state(paper, name)
    pages["tables/index.md"] = _index("Papers", pages, "tables")
    for name in names["experiment"]:
        pages[f"tables/{name}.md"] = helped[f"experiment={name}"]
    return pages


def _papers() -> list[str]:
    return sorted(path.name for path in (conf_dir() / "experiment").iterdir() if path.is_dir())


def _helped() -> dict[str, str]:
    """The page of every option as Markdown, by ``group=option``; one composition serves many groups."""
    groups = option.groups([conf_dir()])
    many = [
        [f"{group}={name}" for name in names] for group, names in groups.items() if "experiment" not in group
    ]
    experiments = [
        [f"experiment={'/'.join([*group.split('/')[1:], name])}"]
        for group, names in groups.items()
        if group.partition("/")[0] == "experiment"
        for name in names
    ]
    found: dict[str, str] = {}
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"), layout.as_markdown():
        for row in [*zip_longest(*many), *experiments]:
            overrides = [each for each in row if each]
            composed = hydra.compose("config", [*overrides, *_PLACES], return_hydra_config=True)
            HydraConfig.instance().set_config(composed)
            job = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            found |= {title: layout.markdown(lines) for title, lines in answer.pages(job, HydraConfig.get())}
    return found


def _start() -> str:
    return """# sr_lab

Experiments in lightweight single-image super-resolution, measured exactly as in the papers. Pick an
architecture, an upsampler, a schedule and a dataset on the command line, train on one or many GPUs, and get a
table that can be compared with a published one to the second decimal.

![Part of a report page: cost, PSNR and SSIM of networks, and two results side by side](pictures/report.png)

*Part of the page that `task=report` writes, here for published weights measured on Set14.*

- [Networks](networks/index.md): paper, arguments, size, printed PSNR
- [Papers](tables/index.md): each table with its rows, recipe, cost, printed values and what has been trained
- [Tasks](tasks/index.md) and [options](groups/index.md): every setting with its default
- [Running experiments](guide.md): data, GPUs, interrupted runs, measuring, upscaling, searching
- [Speed](speed.md), and what was lost when runs were killed thousands of times:

![Runs killed, by what was killed and what was lost](pictures/kills.svg)

These are the texts that `--help` prints after an option: `python -m sr_lab model=imfm --help`.
"""


def _networks(names: Sequence[str]) -> str:
    """A table of all networks."""
    rows = []
    for name in names:
        found = option.find([conf_dir()], "model", name)
        psnr = counts.psnr(name, 4, "Set5")
        cells = [
            f"[{layout.escaped(name)}]({name}.md)",
            layout.escaped(found.heading[0]) if found and found.heading else "",
            *_size(name, 4),
            "-" if psnr is None else f"{psnr:.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    lines = [
        "# Networks",
        "",
        "At x4: parameters, multiply-adds of all operations at a 1280x720 output, and the PSNR on Set5 that "
        "most papers print.",
        "",
        "| `model=` | paper | parameters [K] | multiply-adds [G] | PSNR [dB] |",
        "|---|---|---:|---:|---:|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def _size(model: str, scale: int) -> tuple[str, str]:
    """Parameters [K] and multiply-adds [G] of a network in the form in which it is used."""
    try:
        with torch.device("meta"):
            network = fold(targets.build("model", model_node(model, scale)).eval())
    except ConfigError:  # the network has other scales
        return "-", "-"
    params, adds = num_params(network), multi_adds(network, scale=scale, rule="all")
    return (f"{params / 1e3:.1f}", f"{adds / 1e9:.1f}") if params else ("0", "0")


def _sizes(model: str) -> str:
    """A section with a network's sizes, unless the text of `--help` has one."""
    if counts.size(model, 4) is not None:
        return ""
    lines = ["| scale | parameters [K] | multiply-adds [G] |", "| --- | ---: | ---: |"]
    lines += [f"| x{scale} | {' | '.join(_size(model, scale))} |" for scale in (2, 3, 4)]
    heading = "## Size (multiply-adds: all operations at a 1280x720 output)"
    return "\n".join(["", heading, "", *lines, ""])


def _results(paper: str) -> list[dict[str, str]]:
    """Our values for a paper's tables; the ledger's ``results.csv`` has verdicts on claims instead."""
    path = experiments_dir() / paper / "results.csv"
    rows = read_csv(path) if path.is_file() else []
    return [row for row in rows if "model" in row]


def _trained(model: str) -> str:
    """What has been trained here with a network."""
    rows = [row for paper in _papers() for row in _results(paper) if row["model"] == model]
    nothing = "Nothing has been trained at a paper's full budget yet."
    return f"\n## Measured here\n\n{_ours(rows) if rows else nothing}\n"


def _state(paper: str, name: str) -> str:
    """How much of a paper's table has been trained here."""
    table = name.partition("_")[0]
    printed = dict.fromkeys((each.row, each.scale) for each in published.table(paper, table))
    if not printed:
        return ""
    rows = [row for row in _results(paper) if row["table"] == table]
    done = dict.fromkeys((row["row"], row["scale"]) for row in rows)
    text = f"{len(done)} of the {len(printed)} printed rows have been trained here."
    return f"\n## State\n\n{text}\n\n{_ours(rows) if rows else ''}\n"


def _ours(rows: Iterable[Mapping[str, str]]) -> str:
    keys = ("row", "scale", "set", "metric", "value", "paper", "budget", "hardware")
    lines = [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
    lines += [f"| {' | '.join(layout.escaped(row[key]) for key in keys)} |" for row in rows]
    return "\n".join(lines)


def _index(title: str, pages: Mapping[str, str], folder: str) -> str:
    """A list of the pages directly in a folder, with the first heading of each."""
    depth = len(PurePosixPath(folder).parts) + (2 if folder == "tables" else 1)
    lines = [f"# {title}", ""]
    for path in sorted(pages):
        if path.startswith(f"{folder}/") and len(PurePosixPath(path).parts) == depth:
            if folder == "tables" and not path.endswith("/index.md"):
                continue
            first = pages[path].partition("\n")[0].removeprefix("#").strip()
            lines.append(f"- [{first}]({PurePosixPath(path).relative_to(folder)})")
    return "\n".join(lines) + "\n"


def _list(names: Sequence[str]) -> str:
    """Links to the experiments of a paper."""
    return (
        "\n\n## Experiments\n\n"
        + "\n".join(f"- [{layout.escaped(name)}]({name}.md)" for name in names)
        + "\n"
    )


def _document(path: Path) -> str:
    """A README of ``experiments/``; a link to a file without a page is replaced by the link's text."""
    here = _page_of(path)
    pages = {file.resolve(): _page_of(file) for file in [path, *experiments_dir().rglob("README.md")]}

    def replaced(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        address, _, anchor = target.partition("#")
        if "://" in target or not address:
            return link[0]
        page = pages.get((path.parent / address).resolve())
        if page is None or mark:
            return text
        relative = os.path.relpath(page, PurePosixPath(here).parent)
        return f"[{text}]({relative}{f'#{anchor}' if anchor else ''})"

    return _LINK.sub(replaced, path.read_text(encoding="utf-8"))


def _page_of(path: Path) -> str:
    """The page of a README."""
    name = path.parent.name
    fixed = {experiments_dir().name: "guide.md", "benchmarks": "speed.md", "own_code": "own_code.md"}
    return fixed.get(name, f"tables/{name}/index.md")


def _pictures() -> list[Path]:
    """Pictures of real runs."""
    found = [experiments_dir() / "report.png", experiments_dir() / "reliability" / "kills.svg"]
    return [picture for picture in found if picture.is_file()]


def _navigation(texts: Mapping[str, str]) -> list[dict[str, object]]:
    """The pages by their folders, in the order of ``_TOP``."""
    start: list[dict[str, object]] = [{"Start": "index.md"}, {"Running experiments": "guide.md"}]
    for folder, title in _TOP.items():
        if folder:
            inside = [path for path in texts if path.startswith(f"{folder}/")]
            start.append({title: _below(folder, inside)})
    return [*start, {"Your own code": "own_code.md"}, {"Speed": "speed.md"}]


def _below(folder: str, paths: Sequence[str]) -> list[object]:
    found: list[object] = [f"{folder}/index.md"] if f"{folder}/index.md" in paths else []
    below: dict[str, list[str]] = {}
    for path in sorted(paths):
        rest = PurePosixPath(path).relative_to(folder)
        if len(rest.parts) > 1:
            below.setdefault(f"{folder}/{rest.parts[0]}", []).append(path)
        elif rest.name != "index.md":
            found.append({rest.stem: path})
    return found + [{PurePosixPath(inner).name: _below(inner, inside)} for inner, inside in below.items()]


def main() -> None:
    """Build into the folder on the command line."""
    build(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
