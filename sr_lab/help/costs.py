"""The table of data and cost in each ``experiments/<paper>/README.md``, made by ``make costs``.

Multiply-adds are counted, so the tables are the same on every machine; ``task=plan`` measures hours.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from sr_lab import files
from sr_lab.config.compose import load
from sr_lab.config.identity import register_resolvers
from sr_lab.config.schema import PlanConfig
from sr_lab.files import conf_dir
from sr_lab.help import option
from sr_lab.reporting.markdown import fill
from sr_lab.reporting.published import experiments_dir
from sr_lab.training import cost

BEGIN, END = "<!-- costs -->", "<!-- end of costs -->"
_PLAN = ("task=plan", "budget=paper", "trainer=cpu", "paths.data_dir=data")


def papers() -> list[str]:
    """The papers that have experiments; the folder ``ledger`` repeats rows of theirs at a small scale."""
    folders = (path.name for path in (conf_dir() / "experiment").iterdir() if path.is_dir())
    return sorted(name for name in folders if (experiments_dir() / name / "expected.csv").is_file())


def section(paper: str) -> str:
    """The text between the markers."""
    lines = [
        "| `experiment=` | jobs | training images | test sets | steps | batch, LR patch "
        "| multiply-adds a step [T] | all jobs [E] |",
        "|---|---:|---|---|---:|---|---:|---:|",
    ]
    for name in option.groups([conf_dir()])[f"experiment/{paper}"]:
        jobs = list(_jobs(f"{paper}/{name}"))
        if jobs:
            lines.append(_line(f"{paper}/{name}", jobs))
    lines += [
        "",
        "All numbers are for the paper's budget. T is 10^12 and E is 10^18 multiply-adds: those of the",
        "forward pass of the whole batch, and twice as many for the backward pass.",
        f"`python -m sr_lab experiment={paper}/<table> task=plan` measures the hours on your machine, and "
        "says",
        "what is finished, which images are missing, and how much disk and memory the training takes.",
    ]
    return "\n".join(lines)


def _jobs(name: str) -> Iterator[tuple[PlanConfig, str]]:
    """The configuration of each training run of an experiment, and the name of its data set."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = [f"experiment={name}", *_PLAN]
        whole = hydra.compose("config", overrides, return_hydra_config=True)
        found = option.find([conf_dir()], "experiment", name)
        if found is not None and any(group == "task" for group, *_ in found.chosen):
            return  # the experiment trains nothing
        sweeper = OmegaConf.to_container(whole.hydra.sweeper, resolve=True)
        axes = (sweeper.get("params") if isinstance(sweeper, dict) else None) or {}
        rows = list(whole.rows.values())
        scales = str(axes.pop("scale", whole.scale)).split(",")
        axes = {key: str(values).split(",") for key, values in axes.items()}
        for values in itertools.product(*axes.values()):
            chosen: list[str] = []
            for key, value in zip(axes, values, strict=True):
                chosen += rows[int(value)] if key == "row" else [f"{key}={value}"]
            words = [*overrides, *chosen]
            composed = hydra.compose("config", words, return_hydra_config=True)
            for scale in scales:  # everything that depends on the scale follows from this value
                composed.scale = int(scale)
                config = load(composed, words, composed.hydra.runtime.choices)
                assert isinstance(config, PlanConfig)
                yield config, str(composed.hydra.runtime.choices.dataset)


def _line(name: str, jobs: Sequence[tuple[PlanConfig, str]]) -> str:
    counted: dict[str, int] = {}
    steps, total = [], 0
    for config, _ in jobs:
        key = cost.key(config)
        if key not in counted:
            counted[key] = cost.count(config)
        steps.append(config.steps)
        total += counted[key] * config.steps
    sets = dict.fromkeys(each for config, _ in jobs for each in config.benchmark.sets)
    shapes = dict.fromkeys(f"{config.batch_size}, {cost.patch_size(config)}" for config, _ in jobs)
    cells = [
        f"`{name}`",
        str(len(jobs)),
        ", ".join(dict.fromkeys(f"`{dataset}`" for _, dataset in jobs)),
        ", ".join(sets),
        _range([f"{step:,}" for step in sorted(set(steps))]),
        "; ".join(shapes),
        _range([f"{count / 1e12:.2g}" for count in sorted(set(counted.values()))]),
        f"{total / 1e18:.2g}",
    ]
    return f"| {' | '.join(cells)} |"


def _range(texts: Sequence[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def main() -> None:
    """Fill in the table of every paper, or of those on the command line."""
    for paper in sys.argv[1:] or papers():
        path: Path = experiments_dir() / paper / "README.md"
        text = path.read_text(encoding="utf-8")
        files.write(path, fill(text, section(paper), begin=BEGIN, end=END, where=str(path)))


if __name__ == "__main__":
    main()
