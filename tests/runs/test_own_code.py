"""Run folders, table rows and messages of complete commands after a user has edited a network."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sr_lab.run_folder import RunFolder
from tests import command_line

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, *, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.GELU()
        self.tail = nn.Sequential(nn.Conv2d(8, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, lr):
        return self.tail(self.act(self.head(lr)))
"""
MINE = (
    *("trainer=cpu", "logger=none", "num_workers=0", "budget=smoke", "model=mine", "scale=2"),
    "allow=[mine]",
)


def run(place: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder that has a network, ``mine.py``."""
    (place / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (place / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Net\nscale: ${scale}\n")
    if not (place / "mine.py").exists():
        (place / "mine.py").write_text(NET)
    search = f"hydra.searchpath=[file://{place}/conf]"
    return command_line.sr_lab(place, *arguments, search, **environment)


def edit(place: Path, old: str = "GELU", new: str = "ReLU") -> None:
    (place / "mine.py").write_text(NET.replace(old, new))


def folders(place: Path, experiment: str = "train") -> list[Path]:
    """The run folders, with the oldest run first."""
    found = [path.parent for path in (place / "outputs" / experiment).glob("*/identity.json")]
    return sorted(found, key=lambda path: RunFolder(path).since() or 0.0)


def results(folder: Path) -> dict[str, Any]:
    values = RunFolder(folder).read_metrics()
    assert values is not None
    return values


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A folder with one training run of the network."""
    place = tmp_path_factory.mktemp("trained")
    done = run(place, *MINE)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(before, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(before, tmp_path / "place"))


def test_an_edited_network_starts_a_new_run_and_the_finished_run_is_named(place):
    edit(place)
    done = run(place, *MINE)
    first, second = folders(place)
    assert (
        f"code: '{first}' has the same settings and is finished, but was begun with another version of mine;"
        in done.stdout
    )
    assert "already finished" not in done.stdout
    codes = [results(folder)["identity"]["code"] for folder in (first, second)]
    assert codes[0]["mine"] != codes[1]["mine"]
    edit(place, "8", "9")
    taken = run(place, *MINE, "code=any").stdout
    assert f"code: '{second}' was begun with another version of mine, and is used anyway" in taken
    assert f"already finished: {second}" in taken


def test_a_report_says_which_rows_were_made_by_other_code(place):
    (first,) = folders(place)
    second = Path(shutil.copytree(first, first.with_name("mine_x2_smoke-12345678")))
    values = results(second)
    values["identity"]["code"]["mine"] = "0123"
    RunFolder(second).write_metrics(values)
    said = run(place, "task=report", "runs=outputs/train").stdout
    note = "code: rows were made by different code of mine (code A: mine_x2_smoke-"
    assert said.count(note) == 1
    assert said.count("│ mine (code ") == 2
    assert (place / "outputs" / "train" / "report.html").read_text().count(note) == 1


def test_an_interrupted_run_continues_with_other_code_only_on_request(place):
    (first,) = folders(place)
    (first / "metrics.json").unlink()
    edit(place)
    done = run(place, *MINE)
    assert (
        f"code: '{first}' has the same settings and is interrupted at step 6, but was begun with another"
        in done.stdout
    )
    assert "resumes from" not in done.stdout
    (second,) = (folder for folder in folders(place) if folder != first)
    assert "earlier_code" not in results(second)
    shutil.rmtree(second)
    taken = run(place, *MINE, "code=any")
    assert f"resumes from {first}" in taken.stdout, taken.stdout + taken.stderr
    (before,) = results(first)["earlier_code"]
    assert before["mine"] != results(first)["identity"]["code"]["mine"]


def test_runs_with_different_user_callbacks_are_separate_rows(place):
    (first,) = folders(place)
    second = Path(shutil.copytree(first, first.with_name("mine_x2_smoke-12345678")))
    values = results(second)
    values["identity"]["callbacks"] = [{"_target_": "extra.Freeze", "step": 3}]
    RunFolder(second).write_metrics(values)
    said = run(place, "task=report", "runs=outputs/train", COLUMNS="200").stdout
    rows = [line.split("│")[3].strip() for line in said.splitlines() if "│ callbacks " in line]
    assert sorted(rows) == ["-", "Freeze(step=3)"]


def test_a_run_may_not_use_the_folder_of_another_run(place):
    (folder,) = folders(place)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = [
        run(place, *MINE, f"hydra.run.dir='{folder}'", "learning_rate=1e-3"),
        run(place, "task=complexity", "model=imdn", "trainer=cpu", f"hydra.run.dir='{folder}'"),
        run(place, "task=evaluate", "model=bicubic", "trainer=cpu", f"hydra.run.dir='{folder}'"),
    ]
    edit(place)
    refused.append(run(place, *MINE, f"hydra.run.dir='{folder}'"))
    assert [done.returncode for done in refused] == [2, 2, 2, 2]
    assert f"error: '{folder}' holds another run, which differs in " in refused[0].stderr
    assert "learning_rate (0.0002 there, 0.001 here)" in refused[0].stderr
    assert f"error: '{folder}' holds a run that was begun with another version of mine; " in refused[3].stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_refused_attempt_leaves_the_recipe_of_the_run_unchanged(place):
    (folder,) = folders(place)
    (folder / "metrics.json").unlink()
    recipe = (folder / "config.yaml").read_bytes()
    assert run(place, *MINE, "num_workers=1", "benchmark=set5").returncode == 2  # these images do not exist
    assert (folder / "config.yaml").read_bytes() == recipe


def test_jobs_that_would_share_a_folder_are_refused_or_named_before_anything_runs(tmp_path):
    refused = run(tmp_path, "-m", "hydra.sweep.subdir=one", *MINE, "seed=0,1")
    assert refused.returncode == 2
    assert "'seed=0' and 'seed=1' are different runs, but both would use the folder" in refused.stderr
    assert not list(tmp_path.rglob("checkpoints"))
    done = run(tmp_path, "-m", *MINE, "num_workers=0,1")
    said = "'num_workers=0' and 'num_workers=1' are the same run, which runs once: mine_x2"
    assert done.returncode == 0
    assert 0 <= done.stdout.find(said) < done.stdout.find("6 steps, batch 2")


@pytest.mark.slow
def test_identical_sweeps_at_the_same_time_train_each_job_once(tmp_path):
    run(tmp_path, "--help")  # writes the network
    words = ["-m", *MINE, "seed=0,1,2", f"hydra.searchpath=[file://{tmp_path}/conf]"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "sr_lab", *words],
            cwd=tmp_path,
            env=command_line.environment_in(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    rows = [[line for line in text.splitlines() if "│ mine_x2" in line] for text in said]
    assert rows[0] == rows[1]
    assert not any("interrupted" in text for text in said)
    for folder in folders(tmp_path):
        steps = [row.split(",")[0] for row in (folder / "metrics.csv").read_text().splitlines()]
        assert steps.count("5") == 1


@pytest.fixture
def sets(tmp_path) -> list[str]:
    """Three data folders; the third has the same images as the first."""
    for number, name in enumerate("abc"):
        folder = tmp_path / name / "benchmarks" / "Tiny" / "HR"
        folder.mkdir(parents=True)
        noise = Image.linear_gradient("L").resize((48, 40)).rotate(90 * (number % 2)).convert("RGB")
        noise.save(folder / "image.bmp")  # equal sizes
    return [str(tmp_path / name) for name in "abc"]


def test_the_identity_of_an_evaluation_covers_its_images_and_its_code(place, sets):
    (trained,) = folders(place)
    words = ("task=evaluate", f"ckpt='{trained}'", "trainer=cpu", "benchmark.sets=[Tiny]", "allow=[mine]")
    table = run(place, "-m", *words, f"paths.data_dir={','.join(sets)}")
    assert table.returncode == 0, table.stderr
    first, second = folders(place, "evaluate")
    assert results(first)["test/Tiny/psnr_y"] != results(second)["test/Tiny/psnr_y"]
    assert table.stdout.count("│ images of Tiny ") == 2, table.stdout
    assert "was trained by" not in table.stdout
    edit(place)
    done = run(place, *words, f"paths.data_dir='{sets[0]}'")
    assert f"code: '{trained}' was trained by another version of mine, so its weights" in done.stdout
    assert len(folders(place, "evaluate")) == 3


def test_images_upscaled_before_an_edit_are_not_results_of_the_edited_network(place):
    (trained,) = folders(place)
    Image.new("RGB", (30, 20)).save(place / "image.png")
    words = ("task=upscale", f"ckpt='{trained}'", "input=image.png", "output=big", "trainer=cpu")
    assert run(place, *words, "allow=[mine]").returncode == 0
    edit(place, "self.act(self.head(lr))", "self.head(lr)")
    done = run(place, *words, "allow=[mine]")
    assert done.returncode == 1
    assert "exists, but is not this network's result" in done.stdout
