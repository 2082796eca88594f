"""W&B: what an offline sweep leaves in its files, and the workspace that is made of it."""

import importlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from sr_lab.errors import ConfigError
from sr_lab.reporting.rows import compared_with_paper
from sr_lab.reporting.runs import Run, find_runs
from sr_lab.run_folder import RunFolder, read_index
from sr_lab.training.loggers import build_loggers
from tests.command_line import sr_lab
from tests.conftest import compose
from tests.pictures import hr_image
from tests.runs.test_sweep import write_experiment

# What wandb-workspaces does at its import.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

ROWS = """# @package _global_
defaults:
  - override /model: imdn
experiment_name: mine/table
table: {paper: osffnet, name: table2}
rows:
  "000": [+model.num_feat=16]
  "111": [+model.num_feat=16, seed=1]
benchmark: {sets: [Set5]}
hydra:
  mode: MULTIRUN
  sweeper: {params: {row: "${rows:}", scale: "4"}}
"""
NO_WANDB = "import sys, sr_lab.training.loggers; sys.exit('wandb' in sys.modules)"
SECTIONS = ["table", "difference to the paper", "curves", "learning rate", "images"]
PAPER = {"000": 31.92, "111": 32.25}  # OSFFNet, Table 2, Set5 x4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A sweep of two rows, logged offline."""
    place = tmp_path_factory.mktemp("dashboards")
    images = place / "data" / "benchmarks" / "Set5" / "HR"
    images.mkdir(parents=True)
    for name in ("baby", "bird"):
        Image.fromarray(hr_image(name, 50, 61)).save(images / f"{name}.png")
    done = sr_lab(
        place,
        *(write_experiment(place / "conf", ROWS), "experiment=mine/table", "trainer=cpu", "budget=smoke"),
        *("+model.num_block=1", "num_workers=0", "sweep.jobs=2", "logger.wandb.tags=[mine]"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="module")
def folders(place) -> dict[str, Path]:
    parent = place / "outputs" / "mine" / "table"
    return {job.label: parent / job.folder for job in read_index(parent)}


@pytest.fixture(scope="module")
def logged(folders) -> dict[str, dict[str, dict[str, object]]]:
    """What the ``.wandb`` file of each row holds: the run as it was begun, its summary at the end."""
    return {label: read(folder) for label, folder in folders.items()}


def read(folder: Path) -> dict[str, dict[str, object]]:
    """A run's records, by the reader that comes with wandb."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder / "wandb")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (begun,) = (record["run"] for record in records if "run" in record)
    updates = [record["summary"]["update"] for record in records if "summary" in record]
    summary = {key: value for update in updates for key, value in update.items()}
    return {"run": begun, "config": begun["config"]["update"], "first": updates[0], "summary": summary}


# What a sweep leaves in W&B's files


def test_other_loggers_do_not_wait_for_wandb():
    assert subprocess.run([sys.executable, "-c", NO_WANDB], check=False).returncode == 0


def test_a_sweep_is_one_group_of_distinct_runs(logged, folders):
    runs = [found["run"] for found in logged.values()]
    assert [run["run_group"] for run in runs] == ["mine/table"] * 2
    assert [run["run_id"] for run in runs] == [folder.name for folder in folders.values()]
    assert len({run["run_id"] for run in runs}) == 2


def test_a_job_is_found_by_its_type_and_tags(logged):
    for found in logged.values():
        assert found["run"]["job_type"] == "train"
        assert found["run"]["tags"] == ["mine", "osffnet", "table2", "x4", "smoke"]


@pytest.mark.parametrize("label", PAPER)
def test_a_job_says_from_its_beginning_which_row_it_is_and_what_the_paper_prints(logged, label):
    for place in ("config", "first"):
        said = logged[label][place]
        assert (said["row"], said["scale"], said["paper/Set5/psnr_y"]) == (label, 4, PAPER[label]), place
    assert logged[label]["config"]["budget"]["name"] == logged[label]["first"]["budget"] == "smoke"
    assert "test/Set5/psnr_y" not in logged[label]["first"]


@pytest.mark.parametrize("label", PAPER)
def test_a_finished_job_says_how_far_it_is_from_the_paper(logged, label):
    summary = logged[label]["summary"]
    for ours, key in (
        (summary["test/Set5/psnr_y"], "Set5/psnr_y"),
        (summary["test/Set5/ssim_y"], "Set5/ssim_y"),
        (summary["num_params"] / 1e3, "num_params_k"),
        (summary["multi_adds_paper"] / 1e9, "multi_adds_g"),
    ):
        assert summary[f"ours/{key}"] == pytest.approx(ours), key
        assert summary[f"difference/{key}"] == pytest.approx(ours - summary[f"paper/{key}"]), key
    assert summary["paper/Urban100/psnr_y"] > 25  # printed, and not measured here
    assert "difference/Urban100/psnr_y" not in summary


def test_jobs_log_the_same_images_at_the_same_step(logged):
    for found in logged.values():
        images = {key for key in found["summary"] if key.startswith("examples/") and key.endswith(".count")}
        assert images == {"examples/Set5/baby.count", "examples/Set5/bird.count"}
        assert found["summary"]["trainer/global_step"] == 6  # also of the pictures, which come last


def test_no_secret_and_no_path_of_the_data_is_sent(logged, place):
    for found in logged.values():
        assert not {"paths", "allow", "rows", "row_label"} & found["config"].keys()
        assert str(place / "data") not in json.dumps(found)


def test_a_run_outside_a_table_has_no_figures_of_a_paper(tmp_path):
    assert compared_with_paper(Run(tmp_path, {"scale": 4, "test/Set5/psnr_y": 32.0})) == {}
    (logger,) = build_loggers(compose("trainer=cpu", "budget=smoke"), RunFolder(tmp_path))
    assert logger._wandb_init["tags"] == ["x4", "smoke"]


def test_a_figure_of_every_scale_stands_beside_each(tmp_path):
    """IMFM's Table 2 states no scale."""
    run = Run(tmp_path, {"scale": 3, "table": {"paper": "imfm", "name": "table2"}}, labels=("CARN cos_lr",))
    assert compared_with_paper(run) == {"paper/psnr_y": 33.21}


# The workspace


@pytest.fixture
def task():
    """Imported only where the warnings of its library are let through."""
    return importlib.import_module("sr_lab.tasks.dashboard")


@pytest.fixture
def workspace(task, folders):
    return task.build(find_runs(folders["000"].parent), project="sr_lab", entity="somebody")


def section(workspace, name: str):
    (found,) = (section for section in workspace.sections if section.name == name)
    return found


def test_the_workspace_has_its_sections(workspace):
    assert [found.name for found in workspace.sections] == SECTIONS
    assert (workspace.entity, workspace.project, workspace.name) == ("somebody", "sr_lab", "mine/table")
    assert workspace.settings.x_axis == "trainer/global_step"


def test_the_runs_table_shows_the_ablation_at_a_glance(workspace, logged):
    columns = workspace.runset_settings.pinned_columns
    assert columns[:4] == ["run:displayName", "summary:row", "summary:scale", "summary:budget"]
    cell = [f"summary:{kind}/Set5/psnr_y" for kind in ("ours", "paper", "difference")]
    assert columns[columns.index(cell[0]) :][:3] == cell
    known = {f"summary:{key}" for found in logged.values() for key in found["summary"]}
    unmeasured = {f"summary:{kind}/{name}/{metric}" for kind in ("ours", "difference")
                  for name in ("Set14", "B100", "Urban100") for metric in ("psnr_y", "ssim_y")}  # fmt: skip
    assert set(columns[1:]) - known == unmeasured


def test_the_workspace_shows_the_sweep_alone_in_its_order(workspace):
    assert workspace.runset_settings.filters == "Metric(\"Group\") == 'mine/table'"
    (order,) = workspace.runset_settings.order
    assert (order.item.name, order.ascending) == ("CreatedTimestamp", True)


def test_the_table_stands_beside_its_differences(workspace):
    (table,) = section(workspace, "table").panels
    bars = section(workspace, "difference to the paper").panels
    assert "*31.92*" in table.markdown
    shown = [bar.metrics[0] for bar in bars]
    assert shown == [f"difference/{name}/psnr_y" for name in ("Set5", "Set14", "B100", "Urban100")]


def test_curves_are_over_the_steps_of_the_optimizer(workspace, logged):
    lines = section(workspace, "curves").panels + section(workspace, "learning rate").panels
    drawn = [line.y for line in lines]
    assert drawn == [["val/psnr_y"], ["val/held_out/psnr_y"], ["learning_rate"], ["train/loss"]]
    for found in logged.values():
        assert {key for (key,) in drawn} | {lines[0].x} <= found["summary"].keys()


def test_each_image_has_a_panel_for_all_jobs(workspace):
    shown = [panel.media_keys for panel in section(workspace, "images").panels]
    assert shown == [["examples/Set5/baby"], ["examples/Set5/bird"]]


def test_a_sweep_that_has_not_finished_has_a_workspace_too(task, folders, tmp_path):
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
    with pytest.raises(
        ConfigError, match="runs: must be of one experiment, got a, b; give the folder of one"
    ):
        task.build(runs, project="p", entity="e")


def test_the_workspace_goes_where_the_runs_are(task, tmp_path):
    run = Run(tmp_path, settings=settings("a", project="p", entity="team"))
    assert task.logged_to([run]) == ("p", "team")
    other = Run(tmp_path, settings=settings("a", project="q"))
    with pytest.raises(ConfigError, match="to one W&B project, got team/p, q; train with logger=wandb"):
        task.logged_to([run, other])
    with pytest.raises(ConfigError, match="to one W&B project, got none"):
        task.logged_to([Run(tmp_path, settings=settings("a"))])


# The command


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as saving a workspace asks for."""

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
        """Keep quiet."""


def test_the_command_saves_the_workspace_and_says_where(place):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.saved = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        environment = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
        done = sr_lab(place, "task=dashboard", "runs=outputs/mine/table", **environment)
        server.shutdown()
    assert (done.returncode, done.stdout) == (0, f"dashboard: {url}/somebody/sr_lab?nw=abc\n"), done.stderr
    (saved,) = server.saved
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == (
        "somebody",
        "sr_lab",
        "mine/table",
    )
    sections = json.loads(saved["spec"])["section"]["panelBankConfig"]["sections"]
    assert [found["name"] for found in sections] == SECTIONS


def test_without_a_key_the_command_says_what_to_do(task, folders, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose("task=dashboard", f"runs='{folders['000'].parent}'")
    with pytest.raises(ConfigError) as raised:
        task.run(config, folders["000"].parent, ())
    assert str(raised.value) == (
        "task=dashboard: W&B has no API key here, or WANDB_MODE says offline; run `wandb login`, "
        f"`wandb sync {config.runs}/*/wandb/offline-run-*`, then this command again"
    )


def test_a_key_that_is_refused_is_told_in_one_sentence(task, folders, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = compose("task=dashboard", f"runs='{folders['000'].parent}'")
    said = r"W&B did not take it: .*API key must have 40\+ characters, has 5; look at the network and the key"
    with pytest.raises(ConfigError, match=said):
        task.run(config, folders["000"].parent, ())


def test_without_the_library_the_command_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "sr_lab.tasks.dashboard", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(
        ConfigError, match=r"wandb-workspaces is not installed; pip install 'sr_lab\[dashboard\]'"
    ):
        importlib.import_module("sr_lab.tasks.dashboard")
