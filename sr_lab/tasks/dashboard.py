"""``task=dashboard``: build a W&B workspace for one sweep; needs the ``dashboard`` extra."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import wandb

from sr_lab.config.schema import ReadingConfig
from sr_lab.errors import ConfigError
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.rows import MULTI_ADDS, compared_with_paper
from sr_lab.reporting.runs import Run, find_runs
from sr_lab.reporting.terminal import Terminal
from sr_lab.training.loggers import has_wandb_key, names

try:
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports.v2 import interface as panels
except ModuleNotFoundError as missing:
    raise ConfigError(
        "task=dashboard: the package wandb-workspaces is not installed; pip install 'sr_lab[dashboard]'"
    ) from missing

_STEP = "trainer/global_step"  # W&B's own step counts calls of its log function


def run(config: ReadingConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Save the workspace of a sweep and print its address.

    Raises:
        ConfigError: There is no API key, or W&B refuses it or cannot be reached.
    """
    runs = find_runs(Path(config.runs))
    project, entity = logged_to(runs)
    if not has_wandb_key():
        raise ConfigError(
            "task=dashboard: there is no W&B API key, or WANDB_MODE is offline or disabled; "
            f"run `wandb login`, `wandb sync {config.runs}/*/wandb/offline-run-*`, then this command again"
        )
    wandb.termsetup(wandb.Settings(silent=True), None)  # we print the address ourselves
    try:
        workspace = build(runs, project=project, entity=entity or wandb.Api().default_entity or "")
        workspace.save()  # type: ignore[no-untyped-call]
    except wandb.errors.Error as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"task=dashboard: W&B did not save the workspace: {text}; "
            "check the network and the key (`wandb login`)"
        ) from error
    Terminal(highlight=False, soft_wrap=True).print(f"dashboard: {workspace.url}", markup=False)


def logged_to(runs: Sequence[Run]) -> tuple[str, str]:
    """Project and entity that the runs were logged to; an empty entity means the user's own.

    Raises:
        ConfigError: The runs were not logged to W&B, or were logged to several projects.
    """
    found = {
        (str(names(run.wandb)["project"]), str(names(run.wandb)["entity"] or ""))
        for run in runs
        if run.wandb is not None
    }
    if len(found) != 1:
        places = ", ".join("/".join(filter(None, (entity, project))) for project, entity in sorted(found))
        raise ConfigError(
            f"runs: must have been logged to one W&B project, got {places or 'none'}; train with logger=wandb"
        )
    return found.pop()


def build(runs: Sequence[Run], *, project: str, entity: str) -> ws.Workspace:
    """The workspace of a sweep: a table of runs with the paper's values, and sections of panels.

    Raises:
        ConfigError: The runs belong to several experiments.
    """
    names = sorted({str(run.settings.get("experiment_name")) for run in runs})
    if len(names) > 1:
        raise ConfigError(
            f"runs: must belong to one experiment, got {', '.join(names)}; give the folder of one experiment"
        )
    printed = _unique(
        key.removeprefix("paper/")
        for run in runs
        for key in compared_with_paper(run)
        if key.startswith("paper/")
    )
    # A paper's multiply-adds are counted differently from ours, so a difference would mean nothing.
    kinds = {MULTI_ADDS[1]: ("paper",)}
    cells = [f"{kind}/{key}" for key in printed for kind in kinds.get(key, ("ours", "paper", "difference"))]
    # The sets that were tested, or will be.
    tested = _unique(name for run in runs for name in (*run.sets, *_names(run, "benchmark")))
    quality = [f"{name}/{metric}" for name in tested for metric in ("psnr_y", "ssim_y")]
    validated = _unique(name for run in runs for name in ("held_out", *_names(run, "validation")))
    curves = ["val/psnr_y", *(f"val/{name}/psnr_y" for name in validated)]
    cells += [f"test/{key}" for key in quality if key not in printed]
    gaps = [key for key in cells if key.startswith("difference/") and key.endswith("psnr_y")]
    table = panels.MarkdownPanel(markdown=to_markdown(experiment_table(runs)))  # the current state
    sections = [
        _section("table", [table], columns=1, rows=1),
        _section(
            "difference to the paper",
            [panels.BarPlot(title=key, metrics=[key], max_runs_to_show=len(runs)) for key in gaps],
        ),
        _section("curves", [_line(key) for key in curves]),
        _section("learning rate", [_line("learning_rate"), _line("train/loss", log_y=True)]),
        _section("images", [_examples(key) for key in _image_keys(runs)], columns=1),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=names[0],
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis=_STEP, max_runs=max(10, len(runs))),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == names[0]),
            # The order of the sweep, which is the paper's order.
            order=[ws.Ordering(ws.Metric("CreatedTimestamp"), ascending=True)],
            pinned_columns=[f"summary:{key}" for key in ("row", "scale", "budget", *cells)],
        ),
    )


def _line(key: str, *, log_y: bool | None = None) -> panels.LinePlot:
    return panels.LinePlot(title=key, x=_STEP, y=[key], log_y=log_y, smoothing_type="none")


def _examples(key: str) -> panels.MediaBrowser:
    """The same crop of every job, one below the other."""
    return panels.MediaBrowser(title=key, media_keys=[key], grid_x_axis="index", grid_y_axis="run")


def _section(name: str, shown: Sequence[panels.PanelTypes], *, columns: int = 2, rows: int = 2) -> ws.Section:
    layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
    return ws.Section(name=name, panels=list(shown), is_open=True, layout_settings=layout)


def _names(run: Run, group: str) -> list[str]:
    node = run.settings.get(group)
    names = node.get("sets") if isinstance(node, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _image_keys(runs: Sequence[Run]) -> list[str]:
    """Keys of the example images that the finished runs have logged."""
    return _unique(
        f"examples/{image['set_name']}/{image['image']}"
        for run in runs
        for image in run.images
        if (run.path / "images" / f"{image['set_name']}_{image['image']}.png").is_file()
    )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
