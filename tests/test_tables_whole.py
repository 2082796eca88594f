"""Complete experiments as a user runs them: the sweep, its W&B files, the report and the dashboard."""

import ast
import csv
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import sr_lab as package
from sr_lab.errors import ConfigError
from sr_lab.reporting import published
from sr_lab.reporting.rows import compared_with_paper
from sr_lab.reporting.runs import Run, find_runs
from sr_lab.run_folder import RunFolder, read_index
from sr_lab.tasks import report
from sr_lab.training.loggers import build_loggers
from tests.command_line import sr_lab
from tests.composing import compose
from tests.pictures import hr_image

pytestmark = [
    pytest.mark.timeout(900),  # the first test of a table waits for all of its training runs
    # Importing wandb-workspaces emits these warnings.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

SMOKE = ("budget=smoke", "dataset=sample", "trainer=cpu", "num_workers=0")
LOGGED = ("row=0,7", "+model.num_block=1", "benchmark=set5", "sweep.jobs=2", "logger.wandb.tags=[mine]")
PLAIN = ("benchmark=sample", "logger=none")
# The folder, rows and extra arguments of each experiment. The rows are ablations, then attentions and
# strategies, then tails, then the schedules whose curves a figure shows.
TABLES = {
    "osffnet/table2_osff": ("osffnet/table2_osff", ["000", "111"], LOGGED),
    "two_strategies/table1_attention": (
        "two_strategies/table1_attention",
        ["Baseline", "Baseline+CA", "Baseline+CCA", "Baseline+SA", "Baseline+ESA", "Baseline+proposed"],
        PLAIN,
    ),
    "imfm/table3_upsamplers": (
        "imfm/table3_upsamplers",
        ["Deconvolution layer", "Sub pixel layer", "MWAUM"],
        PLAIN,
    ),
    "imfm/table2_schedules": (
        "imfm/table2_schedules",
        ["IMFM step_lr", "IMFM cos_lr"],
        (*PLAIN, "row=8,9"),
    ),
}
DEFAULT = next(iter(TABLES))
SECTIONS = ["table", "difference to the paper", "curves", "learning rate", "images"]
PAPER = {"000": 31.92, "111": 32.25}  # OSFFNet, Table 2, Set5 x4

Ended = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory) -> Callable[[str], Ended]:
    """Run an experiment once in its own folder; later calls return the same result."""
    ended: dict[str, Ended] = {}

    def run(name: str) -> Ended:
        if name not in ended:
            place = tmp_path_factory.mktemp("whole")
            images = place / "data" / "benchmarks" / "Set5" / "HR"
            images.mkdir(parents=True)
            for image in ("baby", "bird"):
                Image.fromarray(hr_image(image, 64, 77)).save(images / f"{image}.png")
            ended[name] = place, sr_lab(place, f"experiment={name}", *SMOKE, *TABLES[name][2], timeout=500)
        return ended[name]

    return run


# The sweep and its report


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == DEFAULT else pytest.mark.slow) for name in TABLES],
)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def reported(name, run_once) -> Path:
    """The folder of runs, after a report on them has been written."""
    folder = run_once(name)[0] / "outputs" / TABLES[name][0]
    report.run(compose("task=report", f"runs='{folder}'"), folder, [])
    return folder


def test_every_row_finishes_and_the_sweep_ends_with_the_table(name, run_once):
    place, swept = run_once(name)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    folder = place / "outputs" / TABLES[name][0]
    states = {job.label: RunFolder(folder / job.folder).state() for job in read_index(folder)}
    assert states == dict.fromkeys(TABLES[name][1], "finished")
    assert "\nbudget: smoke\n" in swept.stdout
    for row in TABLES[name][1]:
        assert f"│ {row} " in swept.stdout


def test_every_format_of_the_table_warns_about_the_budget(reported):
    for file in ("table.md", "table.tex", "table_paired.tex", "report.html"):
        text = (reported / file).read_text().replace("&#39;", "'")
        assert "not trained at the paper's budget: smoke" in text


def test_the_papers_figures_are_next_to_the_measured_figures(reported, name):
    with (reported / "table.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    paper, _, table = TABLES[name][0].partition("/")
    for row in TABLES[name][1]:
        own = [cell for cell in cells if cell["row"] == row]
        figures = [figure for figure in published.table(paper, table.partition("_")[0]) if figure.row == row]
        assert figures
        shown = sorted(float(cell["paper"]) for cell in own if cell["paper"])
        assert shown == sorted(figure.value for figure in figures)
        ours = {(cell["set"], cell["column"]): cell["value"] for cell in own}
        assert float(ours["Set5" if name == DEFAULT else "sample", "PSNR"]) > 4
        (trained,) = [figure.value for figure in figures if figure.metric == "num_params_k"] or [None]
        if trained is not None and name != DEFAULT:  # the networks of the default are shrunk
            assert float(ours["", "params"]) == pytest.approx(trained, rel=0.02)


# The W&B files of the sweep


@pytest.fixture(scope="module")
def place(run_once) -> Path:
    """The folder of a sweep over two rows that was logged offline."""
    place, swept = run_once(DEFAULT)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    return place


@pytest.fixture(scope="module")
def folders(place) -> dict[str, Path]:
    parent = place / "outputs" / DEFAULT
    return {job.label: parent / job.folder for job in read_index(parent)}


@pytest.fixture(scope="module")
def logged(folders) -> dict[str, dict[str, dict[str, object]]]:
    """Content of the ``.wandb`` file of each row: the run at its start and the summary at its end."""
    return {label: read(folder) for label, folder in folders.items()}


def read(folder: Path) -> dict[str, dict[str, object]]:
    """Read the records of a run with wandb's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder / "wandb")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (begun,) = (record["run"] for record in records if "run" in record)
    updates = [record["summary"]["update"] for record in records if "summary" in record]
    summary = {key: value for update in updates for key, value in update.items()}
    return {"run": begun, "config": begun["config"]["update"], "first": updates[0], "summary": summary}


def test_only_the_tasks_for_wandb_import_it_at_module_level():
    """A training run with another logger must not wait for the import of the library."""
    root, users = Path(package.__file__).parent, set()
    for path in root.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "wandb" for name in names):
                users.add(path.relative_to(root).as_posix())
    assert users == {"tasks/dashboard.py", "tasks/log.py"}


def test_a_sweep_is_one_group_of_distinct_runs(logged, folders):
    runs = [found["run"] for found in logged.values()]
    assert [run["run_group"] for run in runs] == [DEFAULT] * 2
    assert [run["run_id"] for run in runs] == [folder.name for folder in folders.values()]
    assert len({run["run_id"] for run in runs}) == 2


def test_a_job_has_its_job_type_and_its_tags(logged):
    for found in logged.values():
        assert found["run"]["job_type"] == "train"
        assert found["run"]["tags"] == ["mine", "osffnet", "table2", "x4", "smoke"]


@pytest.mark.parametrize("label", PAPER)
def test_a_job_logs_its_row_and_the_papers_figures_from_the_start(logged, label):
    for place in ("config", "first"):
        said = logged[label][place]
        assert (said["row"], said["scale"], said["paper/Set5/psnr_y"]) == (label, 4, PAPER[label]), place
    assert logged[label]["config"]["budget"]["name"] == logged[label]["first"]["budget"] == "smoke"
    assert "test/Set5/psnr_y" not in logged[label]["first"]


@pytest.mark.parametrize("label", PAPER)
def test_a_finished_job_logs_its_difference_to_the_paper(logged, label):
    summary = logged[label]["summary"]
    for ours, key in (
        (summary["test/Set5/psnr_y"], "Set5/psnr_y"),
        (summary["test/Set5/ssim_y"], "Set5/ssim_y"),
        (summary["num_params"] / 1e3, "num_params_k"),
    ):
        assert summary[f"ours/{key}"] == pytest.approx(ours), key
        assert summary[f"difference/{key}"] == pytest.approx(ours - summary[f"paper/{key}"]), key
    assert "paper/multi_adds_g" in summary
    assert "difference/multi_adds_g" not in summary  # ours counts all operations, the paper's does not
    assert summary["paper/Urban100/psnr_y"] > 25  # printed in the paper but not measured here
    assert "difference/Urban100/psnr_y" not in summary


def test_jobs_log_the_same_images_at_the_same_step(logged):
    for found in logged.values():
        images = {key for key in found["summary"] if key.startswith("examples/") and key.endswith(".count")}
        assert images == {"examples/Set5/baby.count", "examples/Set5/bird.count"}
        assert found["summary"]["trainer/global_step"] == 6  # the images are logged last and at the same step


def test_no_secret_and_no_path_of_the_data_folder_is_logged(logged, place):
    for found in logged.values():
        assert not {"paths", "allow", "rows", "row_label"} & found["config"].keys()
        assert str(place / "data") not in json.dumps(found)


def test_a_run_outside_a_table_has_no_figures_of_a_paper(tmp_path):
    assert compared_with_paper(Run(tmp_path, {"scale": 4, "test/Set5/psnr_y": 32.0})) == {}
    (logger,) = build_loggers(compose("trainer=cpu", "budget=smoke"), RunFolder(tmp_path))
    assert logger._wandb_init["tags"] == ["x4", "smoke"]


def test_a_figure_without_scale_is_compared_at_every_scale(tmp_path):
    """For example, IMFM's Table 2 states no scale."""
    run = Run(tmp_path, {"scale": 3, "table": {"paper": "imfm", "name": "table2"}}, labels=("CARN cos_lr",))
    assert compared_with_paper(run) == {"paper/psnr_y": 33.21}


# The workspace


@pytest.fixture
def task():
    """The dashboard task, imported only in tests that ignore the warnings of its library."""
    return importlib.import_module("sr_lab.tasks.dashboard")


@pytest.fixture
def workspace(task, folders):
    return task.build(find_runs(folders["000"].parent), project="sr_lab", entity="somebody")


def section(workspace, name: str):
    (found,) = (section for section in workspace.sections if section.name == name)
    return found


def test_the_workspace_has_its_sections(workspace):
    assert [found.name for found in workspace.sections] == SECTIONS
    assert (workspace.entity, workspace.project, workspace.name) == ("somebody", "sr_lab", DEFAULT)
    assert workspace.settings.x_axis == "trainer/global_step"


def test_the_runs_table_pins_the_columns_of_the_ablation(workspace, logged):
    columns = workspace.runset_settings.pinned_columns
    assert columns[:4] == ["run:displayName", "summary:row", "summary:scale", "summary:budget"]
    cell = [f"summary:{kind}/Set5/psnr_y" for kind in ("ours", "paper", "difference")]
    assert columns[columns.index(cell[0]) :][:3] == cell
    known = {f"summary:{key}" for found in logged.values() for key in found["summary"]}
    unmeasured = {f"summary:{kind}/{name}/{metric}" for kind in ("ours", "difference")
                  for name in ("Set14", "B100", "Urban100") for metric in ("psnr_y", "ssim_y")}  # fmt: skip
    assert set(columns[1:]) - known == unmeasured


def test_the_workspace_shows_only_the_sweep_and_in_its_order(workspace):
    assert workspace.runset_settings.filters == f"Metric(\"Group\") == '{DEFAULT}'"
    (order,) = workspace.runset_settings.order
    assert (order.item.name, order.ascending) == ("CreatedTimestamp", True)


def test_the_workspace_shows_the_table_and_its_differences(workspace):
    (table,) = section(workspace, "table").panels
    bars = section(workspace, "difference to the paper").panels
    assert "*31.92*" in table.markdown
    shown = [bar.metrics[0] for bar in bars]
    assert shown == [f"difference/{name}/psnr_y" for name in ("Set5", "Set14", "B100", "Urban100")]


def test_curves_have_the_steps_of_the_optimizer_as_their_x_axis(workspace, logged):
    lines = section(workspace, "curves").panels + section(workspace, "learning rate").panels
    drawn = [line.y for line in lines]
    assert drawn == [["val/psnr_y"], ["val/held_out/psnr_y"], ["learning_rate"], ["train/loss"]]
    for found in logged.values():
        assert {key for (key,) in drawn} | {lines[0].x} <= found["summary"].keys()


def test_each_image_has_a_panel_for_all_jobs(workspace):
    shown = [panel.media_keys for panel in section(workspace, "images").panels]
    assert shown == [["examples/Set5/baby"], ["examples/Set5/bird"]]


def test_an_unfinished_sweep_also_has_a_workspace(task, folders, tmp_path):
    for folder in folders.values():
        (tmp_path / folder.name).mkdir()
        (tmp_path / folder.name / "config.yaml").write_text((folder / "config.yaml").read_text())
    workspace = task.build(find_runs(tmp_path), project="sr_lab", entity="somebody")
    assert [found.name for found in workspace.sections] == SECTIONS[:-1]
    assert "summary:difference/Set5/psnr_y" in workspace.runset_settings.pinned_columns


def settings(experiment: str, **logger: str) -> dict[str, object]:
    node = {"_target_": "lightning.pytorch.loggers.WandbLogger"} | logger
    return {"experiment_name": experiment, "logger": {"wandb": node} if logger else {}}


def test_runs_of_several_experiments_are_refused(task, tmp_path):
    runs = [Run(tmp_path, settings=settings(name)) for name in ("b", "a")]
    with pytest.raises(ConfigError, match="one experiment, got a, b"):
        task.build(runs, project="p", entity="e")


def test_the_workspace_is_saved_in_the_project_of_the_runs(task, tmp_path):
    run = Run(tmp_path, settings=settings("a", project="p", entity="team"))
    assert task.logged_to([run]) == ("p", "team")
    other = Run(tmp_path, settings=settings("a", project="q"))
    with pytest.raises(ConfigError, match="one W&B project, got team/p, q"):
        task.logged_to([run, other])
    with pytest.raises(ConfigError, match="one W&B project, got none"):
        task.logged_to([Run(tmp_path, settings=settings("a"))])


# The command


class Server(BaseHTTPRequestHandler):
    """The parts of W&B's server that are needed to save a workspace."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        viewer = {"id": "1", "entity": "somebody", "username": "somebody", "teams": {"edges": []}}
        answer = {"viewer": viewer}
        if "upsertView" in asked["query"]:
            self.server.saved.append(asked["variables"])
            answer = {"upsertView": {"view": {"id": "1", "name": "nw-abc-v"}, "inserted": True}}
        text = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


def test_the_command_saves_the_workspace_and_prints_its_address(task, folders, monkeypatch, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.saved = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        task.run(compose("task=dashboard", f"runs='{folders['000'].parent}'"), Path(), ())
        server.shutdown()
    assert capsys.readouterr().out == f"dashboard: {url}/somebody/sr_lab?nw=abc\n"
    (saved,) = server.saved
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == (
        "somebody",
        "sr_lab",
        DEFAULT,
    )
    sections = json.loads(saved["spec"])["section"]["panelBankConfig"]["sections"]
    assert [found["name"] for found in sections] == SECTIONS


def test_without_a_key_the_error_names_the_commands_to_run(task, folders, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose("task=dashboard", f"runs='{folders['000'].parent}'")
    with pytest.raises(ConfigError) as raised:
        task.run(config, folders["000"].parent, ())
    for fact in ("API key", "wandb login", f"wandb sync {config.runs}/*/wandb/offline-run-*"):
        assert fact in str(raised.value)


def test_a_refused_key_is_reported(task, folders, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = compose("task=dashboard", f"runs='{folders['000'].parent}'")
    with pytest.raises(ConfigError, match=r"API key must have 40\+ characters, has 5"):
        task.run(config, folders["000"].parent, ())


def test_without_the_library_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "sr_lab.tasks.dashboard", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(
        ConfigError, match=r"wandb-workspaces is not installed; pip install 'sr_lab\[dashboard\]'"
    ):
        importlib.import_module("sr_lab.tasks.dashboard")
