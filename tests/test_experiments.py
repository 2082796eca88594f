"""Every recipe and table in conf/experiment composes and has the rows that its paper prints."""

import csv
import functools
import json
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from sr_lab.config import targets
from sr_lab.config.compose import load
from sr_lab.config.identity import register_resolvers
from sr_lab.config.schema import AnalyzeConfig, CompareConfig, Config
from sr_lab.files import PACKAGE, conf_dir
from sr_lab.layers.folding import fold
from sr_lab.ops.complexity import num_params
from sr_lab.reporting import claims, published
from sr_lab.zoo import published as zoo
from tests.composing import compose
from tests.papers.meta import unfilled

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RECIPES = sorted(
    path.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
    for path in (conf_dir() / "experiment").rglob("*.yaml")
)
LEDGER = [name for name in RECIPES if name.startswith("ledger/")]
TABLES = [name for name in RECIPES if "/" in name and "/train" not in name and name not in LEDGER]
FIGURES = [name for name in TABLES if "/fig" in name]
COLUMNS = ["table", "row", "model", "scale", "set", "metric", "value"]
# An empty name means a figure that belongs to no set; Average is the mean over the sets in EFRDN's Table 6.
SETS = {"", "Set5", "Set14", "B100", "Urban100", "Manga109", "DIV2K", "Average"}

# Scales at which a sweep runs a row that the paper does not print.
NOT_PRINTED = {
    ("osffnet/table1_benchmarks", "EDSR"): [3],
    ("osffnet/table1_benchmarks", "FDIWN"): [2],
    ("osffnet/table3_imdn", "w/o (channel-extended)"): [2, 3],
    ("osffnet/table3_imdn", "w/o (depth-extended)"): [2, 3],
    ("efrdn/table1_benchmarks", "ECBSR"): [3],
}
# Rows that the paper mentions without printing a figure.
NO_FIGURE = {"imfm/ablation_components": {"+CAM"}}

# Networks whose parameter count differs from the printed figure by 1 K or more, with the reason.
GAPS = {
    ("osffnet/table1_benchmarks", "CARN"): ([2, 3, 4], "the paper counts one network with three tails"),
    ("osffnet/table1_benchmarks", "EDSR"): ([2, 4], "another EDSR, which its authors' code does not have"),
    ("osffnet/table1_benchmarks", "FDIWN"): ([3], "the authors' code has 1.5 K more"),
    ("efrdn/table1_benchmarks", "CARN"): ([2, 3, 4], "as in OSFFNet's table"),
    ("efrdn/table1_benchmarks", "SMSR"): ([2, 3, 4], "printed without 2560 logits of channel masks"),
    ("efrdn/table1_benchmarks", "ECBSR"): ([2, 4], "printed with one more value per PReLU channel"),
    ("efrdn/table1_benchmarks", "EFRDN"): ([2, 3], "the paper prints the count of the x4 network"),
    ("efrdn/table2_modules", "EFRDN+ACDM"): ([4], "Table 1 prints 767 K for the same network"),
    ("efrdn/table3_acdm", "x11"): ([4], "printed as if the 3x3 convolution had no parameters"),
    ("efrdn/table6_transformers", "SwinIR"): ([4], "printed without the 32.4 K relative position biases"),
    ("mren/table5_benchmarks", "CARN"): ([2, 3, 4], "as in OSFFNet's table"),
    ("mren/table5_benchmarks", "MemNet"): ([2, 3, 4], "only the weights of the convolutions are counted"),
    ("imfm/table3_upsamplers", "Deconvolution layer"): ([4], "no reading fits exactly: 0.3 % more"),
    ("imfm/table3_upsamplers", "Sub pixel layer"): ([4], "no reading fits exactly: 0.2 % more"),
    ("imfm/table3_upsamplers", "MWAUM"): ([4], "no reading fits exactly: 0.3 % more"),
    ("imfm/table4_complexity", "EDSR"): ([4], "a misprint of 42080, in units of 1024"),
    ("imfm/table4_complexity", "RDN"): ([4], "fits no published configuration"),
    ("imfm/table4_complexity", "MAFFSRN"): ([4], "its larger form is the nearest"),
    ("imfm/table4_complexity", "IMFM"): ([4], "Table 3 prints 596 K"),
    ("two_strategies/table1_attention", "Baseline+proposed"): ([4], "CWSS alone has 621 K"),
    ("two_strategies/table2_hosts", "FSRCNN"): ([4], "no usual form has 33 K"),
    ("two_strategies/table2_hosts", "FSRCNN + GGAS"): ([4], "no usual form has 34 K"),
}

every_csv = pytest.mark.parametrize(
    "table", sorted(EXPERIMENTS.rglob("expected.csv")), ids=lambda path: path.parent.name
)
every_table = pytest.mark.parametrize("name", [name for name in TABLES if name not in FIGURES])


@dataclass(frozen=True)
class Sweep:
    """An experiment for a table: its axes, and the job of each row at the first scale."""

    composed: DictConfig
    positions: list[int]
    scales: list[int]
    jobs: list[Config]

    @property
    def paper(self) -> str:
        return str(self.composed.table.paper)

    @property
    def table(self) -> str:
        return str(self.composed.table.name)


@pytest.fixture
def sweep(name):
    return _compose(name)


@functools.cache  # composing takes most of the time of these tests
def _compose(name: str) -> Sweep:
    """Compose a table as its command does."""
    register_resolvers()
    # These experiments train nothing, so they get no budget.
    counts = name in ("imfm/table4_complexity", "efrdn/fig7_tradeoff")
    given = [f"experiment={name}", "trainer=cpu", *(() if counts else ["budget=smoke"])]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("config", given, return_hydra_config=True)
        axes = OmegaConf.to_container(composed.hydra.sweeper.params, resolve=True)
        assert set(axes) == {"row", "scale"}
        positions, scales = ([int(value) for value in axes[axis].split(",")] for axis in ("row", "scale"))
        jobs = []
        for position in positions:
            composed.row = position
            overrides = [*given, f"row={position}", f"scale={scales[0]}"]
            composed.hydra.overrides.task = overrides
            jobs.append(load(composed, overrides, composed.hydra.runtime.choices))
    return Sweep(composed, positions, scales, jobs)


def _printed(sweep: Sweep) -> list[published.Figure]:
    """Printed values of the networks that are implemented."""
    place = (sweep.paper, sweep.table)  # once, since reading a DictConfig 2000 times is slow
    return [
        figure
        for figure in published.figures()
        if (figure.paper, figure.table) == place and figure.model != "not implemented"
    ]


def _rows(figures: list[published.Figure]) -> set[str]:
    """Rows that the printed values belong to; a printed difference between two rows belongs to both."""
    return {part for figure in figures for part in figure.row.split(" minus ") if part != "step_lr"}


def _num_params(config: Config, scale: int) -> int:
    """Number of parameters of the folded network, without building it again for the same row of a table."""
    return _counted(json.dumps([config.model | {"scale": scale}, config.strategy.apply]))


@functools.cache
def _counted(described: str) -> int:
    model, strategy = json.loads(described)
    with unfilled():
        network = targets.build("model", model)
        if strategy is not None:
            network = targets.build("strategy", strategy)(network)
        return num_params(fold(network.eval()))


# The name is the path of the file, so no two recipes share a folder of runs.
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in TABLES])
def test_a_recipe_composes_under_its_own_name(recipe):
    images = ["dataset.hr_dir=photos"] if recipe == "quick" else []  # the user's own
    config = compose(f"experiment={recipe}", "trainer=cpu", "budget=smoke", *images)
    assert (config.task, config.experiment_name) == ("train", recipe)


@pytest.mark.parametrize("name", [name for name in LEDGER if name != "ledger/recipe"])
def test_a_small_table_has_rows_of_the_paper_and_three_seeds(name):
    composed = OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml")
    place = (composed.table.paper, composed.table.name)
    own = [figure for figure in published.figures() if (figure.paper, figure.table) == place]
    controls = {
        each.worse for each in claims.read_claims(published.experiments_dir()) if each.printed is None
    }
    assert set(composed.rows) <= _rows(own) | controls
    assert composed.hydra.sweeper.params.seed == "0,1,2"


@every_table
def test_a_table_is_a_sweep_over_its_rows_under_its_own_name(name, sweep):
    assert sweep.composed.hydra.mode.name == "MULTIRUN"  # otherwise Hydra would silently run one job
    assert {job.experiment_name for job in sweep.jobs} == {name}
    assert name.startswith(f"{sweep.paper}/{sweep.table.replace('sec3.3', 'ablation')}_")
    assert sweep.positions == list(range(len(sweep.composed.rows)))
    assert [job.row_label for job in sweep.jobs] == list(sweep.composed.rows)


@every_table
def test_a_table_has_the_rows_that_the_paper_prints(name, sweep):
    assert set(sweep.composed.rows) == _rows(_printed(sweep)) | NO_FIGURE.get(name, set())


@every_table
def test_a_table_has_the_scales_that_the_paper_prints(name, sweep):
    figures = [figure for figure in _printed(sweep) if figure.scale is not None]
    jobs = {(label, scale) for label in sweep.composed.rows for scale in sweep.scales}
    extra = {
        (row, scale) for (table, row), scales in NOT_PRINTED.items() if table == name for scale in scales
    }
    assert extra <= jobs
    if figures:  # IMFM does not state the scale of every table
        assert jobs - extra == {(figure.row, figure.scale) for figure in figures}


@every_table
def test_a_table_measures_the_sets_that_the_paper_prints(name, sweep):
    printed = {figure.set_name for figure in _printed(sweep)} - {"", "Average"}
    for job in sweep.jobs:
        assert printed <= set(job.benchmark.sets) or job.task == "complexity"


def test_a_benchmark_chosen_on_the_command_line_overrides_the_benchmark_of_the_experiment():
    for name in RECIPES:  # a benchmark in the file would override benchmark=<option>
        assert "benchmark" not in OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml"), name
    for name in ("mren/table6_complexity", "two_strategies/table1_attention"):  # both override the benchmark
        config = compose(f"experiment={name}", "row=0", "benchmark=sample", "trainer=cpu")
        assert config.benchmark.sets == ["sample"]


@every_table
def test_rows_name_the_networks_that_the_paper_compares(name, sweep):
    """Only classes are compared; the switches of an ablation are checked by their parameter counts."""
    options = {figure.row: figure.model for figure in _printed(sweep)}
    for job in sweep.jobs:
        if job.row_label in options:
            option = OmegaConf.load(conf_dir() / "model" / f"{options[job.row_label]}.yaml")
            assert job.model["_target_"] == option["_target_"], job.row_label


@every_table
def test_runs_of_a_table_have_distinct_names(name, sweep):
    names = Counter(job.run_name for job in sweep.jobs)
    assert max(names.values()) == 1


@every_table
def test_rows_of_a_table_differ_in_more_than_their_name(name, sweep):
    """Two rows with the same identity would be the same run."""
    what = [job.model_dump_json(exclude={"run_name", "row_label"}) for job in sweep.jobs]
    assert len(set(what)) == len(what)


@every_table
def test_networks_of_a_table_have_the_printed_parameters(name, sweep):
    figures = {
        (figure.row, figure.scale): figure.value
        for figure in _printed(sweep)
        if figure.metric == "num_params_k" and figure.scale is not None
    }
    off = {}
    for job in sweep.jobs:
        for scale in sweep.scales:
            printed = figures.get((job.row_label, scale))
            if printed is not None and abs(_num_params(job, scale) / 1e3 - printed) >= 1:
                off.setdefault((name, job.row_label), []).append(scale)
    assert off == {place: scales for place, (scales, _) in GAPS.items() if place[0] == name}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("osffnet/table2_osff", ("oisi", "sfgc", "mfdf")),
        ("efrdn/table3_acdm", ("acrb", "fflb", "mscc")),
        ("efrdn/table4_fflb", ("gcrb", "effb", "cc")),
        ("efrdn/table5_dense", ("cnn_dc", "transformer_dc")),
    ],
)
def test_a_row_labelled_with_marks_has_the_marked_parts(name, parts):
    for job in _compose(name).jobs:
        here = [job.model.get(part, True) for part in parts]
        assert here == [{"0": False, "1": True, "x": "conv"}[mark] for mark in job.row_label]


@pytest.mark.parametrize(
    ("name", "setting", "default"),
    [("mren/table1_blocks", "num_block", 6), ("mren/table2_communication", "communication_weight", 0.2)],
)
def test_a_row_labelled_with_a_number_has_that_setting(name, setting, default):
    for job in _compose(name).jobs:
        assert job.model.get(setting, default) == float(job.row_label)


def test_components_of_imfm_differ_by_the_parameters_printed_in_sec_3_3():
    sweep = _compose("imfm/ablation_components")
    plain, pab, mswam, cam = (_num_params(job, 4) / 1e3 for job in sweep.jobs)
    assert pab - plain == pytest.approx(-63.7, abs=0.5)
    assert mswam - pab == pytest.approx(21.8, abs=0.1)
    assert cam > mswam


def test_figure_7_of_osffnet_trains_the_rows_of_table_2_and_validates_on_set5():
    figure, table = _compose("osffnet/fig7_training_curves"), _compose("osffnet/table2_osff")
    assert {job.experiment_name for job in figure.jobs} == {"osffnet/fig7_training_curves"}
    assert [job.model for job in figure.jobs] == [job.model for job in table.jobs]
    assert {tuple(job.validation.sets) for job in figure.jobs} == {("Set5",)}
    # In the table, a test set must not choose the checkpoint that is tested.
    assert not any(job.validation.sets for job in table.jobs)


def test_figures_3_and_4_of_imfm_show_the_two_schedules_of_table_2():
    rates, curves = (compose(f"experiment=imfm/{name}") for name in ("fig3_schedules", "fig4_convergence"))
    table = _compose("imfm/table2_schedules")
    shown = [job for job in table.jobs if fnmatchcase(job.run_name, curves.only[0])]
    assert [job.row_label for job in shown] == ["IMFM step_lr", "IMFM cos_lr"]
    assert str(curves.own_runs).endswith("/imfm/table2_schedules")
    assert rates.schedules == ["step", "cosine_restart"]
    recipe = (rates.recipe.get("steps", rates.steps), rates.steps_per_epoch, rates.learning_rate)
    assert recipe == (1_000_000, 1000, 1e-3)


# What each picture shows: kind, image or test set, and the folder of the training runs.
ANALYSES = {
    "two_strategies/fig1_spectra": ("psd", "Set5/baby", None),
    "two_strategies/fig2_residuals": ("residual", "Set5/baby", None),
    "two_strategies/fig5_ggas": ("psd", "Set5/butterfly", "ledger/two_strategies_table2"),
    "two_strategies/fig6_cwss": ("residual", "Set5/butterfly", "ledger/two_strategies_table2"),
    "osffnet/fig1_features": ("features", "Set5/butterfly", "osffnet/train"),
    "osffnet/fig5_tradeoff": ("tradeoff", "Urban100", "osffnet/train"),
    "osffnet/fig7_convergence": ("convergence", "Set5", "osffnet/fig7_training_curves"),
    "efrdn/fig6_features": ("features", "Set5/butterfly", "efrdn/train"),
    "imfm/fig3_schedules": ("schedule", None, None),
    "imfm/fig4_convergence": ("convergence", None, "imfm/table2_schedules"),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_shows_what_the_paper_shows_from_runs_of_an_experiment(name):
    kind, of, runs = ANALYSES[name]
    config = compose(f"experiment={name}", "trainer=cpu")
    assert isinstance(config, AnalyzeConfig)
    assert (config.experiment_name, config.kind, config.scale) == (name, kind, 4)
    assert (config.hr or config.psnr_set) == of
    assert config.own_runs == (None if runs is None else f"{config.paths.output_dir}/{runs}")
    assert runs is None or runs in RECIPES
    assert all(zoo.named(weights).scale == 4 for weights in config.weights)


def test_every_figure_is_a_comparison_an_analysis_or_a_run_of_another_task():
    others = {"osffnet/fig7_training_curves", "efrdn/fig7_tradeoff"}  # trains, and measures time
    assert set(FIGURES) == {*COMPARED, *ANALYSES, *others}


def test_figure_7_of_efrdn_measures_the_networks_of_table_1():
    figure, table = _compose("efrdn/fig7_tradeoff"), _compose("efrdn/table1_benchmarks")
    assert [job.row_label for job in figure.jobs] == [job.row_label for job in table.jobs]
    assert figure.scales == [4]
    assert {(job.task, job.psnr_set, job.experiment_name) for job in figure.jobs} == {
        ("complexity", "Set5", "efrdn/fig7_tradeoff")
    }


# Image, scale and window of each job.
COMPARED = {
    "osffnet/fig6_comparison": [
        ("Set14/barbara", 4, [176, 8, 96, 60]),
        *(("B100/78004", 4, "auto"), ("Urban100/img_011", 4, "auto")),
        ("Manga109/SamayoeruSyonenNiJunaiWo", 4, "auto"),
    ],
    "osffnet/fig8_x16": [
        *(("Set14/barbara", 16, "auto"), ("B100/78004", 16, "auto"), ("Urban100/img_011", 16, "auto")),
        ("Manga109/SamayoeruSyonenNiJunaiWo", 16, "auto"),
    ],
    "efrdn/fig5_comparison": [
        *(("Urban100/img_062", 2, "auto"), ("B100/148026", 3, "auto"), ("Urban100/img_038", 4, "auto"))
    ],
    "mren/fig5_comparison": [("Urban100/img_092", 4, "auto")],
    "imfm/fig5_comparison": [("B100/253027", 4, "auto")],
    "imfm/fig6_comparison": [("Urban100/img_012", 4, "auto")],
}


@pytest.mark.parametrize("name", COMPARED)
def test_a_comparison_shows_the_images_of_the_paper_upscaled_by_published_weights_of_its_scale(name):
    known = {(row["set"], row["file"]) for row in rows(PACKAGE / "datasets" / "benchmark_pixels.csv")}
    found = []
    for row in range(len(COMPARED[name])):
        given = [f"row={row}"] if len(COMPARED[name]) > 1 else []
        config = compose(f"experiment={name}", "trainer=cpu", *given)
        assert isinstance(config, CompareConfig)
        assert config.experiment_name == name
        assert str(config.own_runs).endswith(f"/{name.partition('/')[0]}/train")
        assert all(zoo.named(weights).scale == config.scale for weights in config.weights)
        set_name, image = str(config.hr).split("/")
        assert (set_name, f"{image}.png") in known
        found.append((config.hr, config.scale, config.crop))
    assert found == COMPARED[name]


@pytest.mark.parametrize("budget", ["smoke", "short", "paper"])
def test_a_budget_does_not_change_the_row(budget):
    job = compose("experiment=osffnet/table2_osff", "row=1", f"budget={budget}", "trainer=cpu")
    assert (job.row_label, job.model["sfgc"], job.model["mfdf"]) == ("100", False, False)
    assert job.steps == {"smoke": 6, "short": 300, "paper": 100_000}[budget]


def test_hosts_with_a_strategy_have_twice_the_learning_rate():
    name = "two_strategies/table2_hosts"
    rates = {job.row_label: job.learning_rate for job in _compose(name).jobs}
    for label, rate in rates.items():
        host, plus, _ = label.partition(" + ")
        assert rate == rates[host] * (2 if plus else 1), label


@pytest.mark.parametrize("paper", sorted({name.partition("/")[0] for name in TABLES}))
def test_the_readme_of_a_paper_shows_the_command_of_every_table(paper):
    text = (EXPERIMENTS / paper / "README.md").read_text()
    shown = set(re.findall(r"experiment=([\w/]+\w)(?![\w/])", text))
    assert shown == {name for name in RECIPES if name.startswith(f"{paper}/")}


@every_csv
def test_the_csv_files_have_the_expected_columns(table):
    assert table.read_text().splitlines()[0].split(",") == COLUMNS
    assert all(list(row) == COLUMNS and None not in row.values() for row in rows(table))


@every_csv
def test_values_are_numbers_as_printed(table):
    assert [row for row in rows(table) if not re.fullmatch(r"-?\d+(\.\d+)?", row["value"])] == []


@every_csv
def test_scales_are_whole_numbers(table):
    assert {row["scale"] for row in rows(table)} <= {"", "2", "3", "4", "8"}


@every_csv
def test_no_figure_is_listed_twice(table):
    keys = [tuple(row[column] for column in COLUMNS[:-1]) for row in rows(table)]
    assert sorted(keys) == sorted(set(keys))


@every_csv
def test_sets_have_their_usual_names(table):
    assert {row["set"] for row in rows(table)} <= SETS


@every_csv
def test_a_row_names_a_model_option_or_says_not_implemented(table):
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    assert {row["model"] for row in rows(table)} <= options | {"not implemented"}


@every_csv
def test_every_table_of_a_paper_is_an_experiment(table):
    printed = {row["table"].replace("sec3.3", "ablation") for row in rows(table)}
    names = [name.split("/") for name in TABLES if name not in FIGURES]
    assert printed == {stem.partition("_")[0] for paper, stem in names if paper == table.parent.name}


def rows(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))
