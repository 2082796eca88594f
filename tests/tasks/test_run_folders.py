"""A run folder belongs to one run, whatever the task."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from sr_lab.config.identity_record import RunIdentity, record, refuse_another
from sr_lab.config.schema import SCHEMAS
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder
from tests.command_line import SMOKE, sr_lab

TRAIN = (*SMOKE, "logger=none", "num_workers=0", "scale=2")
# What each task needs on its command line; a task that is not listed needs nothing.
NEEDS = {
    "train": TRAIN,
    "evaluate": ("model=bicubic", "benchmark.sets=[Tiny]", "scale=2", "trainer=cpu", "paths.data_dir=data"),
    "measure": ("sr_dir=ours", "hr_dir=data/benchmarks/Tiny/HR", "scale=2"),
    "complexity": ("model=bicubic", "scale=2", "trainer=cpu"),
}
# These tasks write into a folder that a setting names and that may contain other files.
WITHOUT_RUN_FOLDER = {
    *(
        "plan",
        "upscale",
        "compare",
        "analyze",
        "export",
        "demo",
        "shard",
        "prepare",
        "doctor",
        "zoo",
        "new",
        "report",
        "status",
        "dashboard",
        "log",
    )
}


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with a test set and two folders of the same images."""
    for folder in ("data/benchmarks/Tiny/HR", "ours", "theirs"):
        (tmp_path / folder).mkdir(parents=True)
        Image.linear_gradient("L").resize((48, 40)).convert("RGB").save(tmp_path / folder / "image.png")
    return tmp_path


def run(place: Path, task: str, *more: str):
    return sr_lab(place, f"task={task}", *NEEDS.get(task, ()), *more)


@pytest.mark.parametrize("task", [task for task in SCHEMAS if task not in WITHOUT_RUN_FOLDER])
def test_every_task_refuses_the_folder_of_another_run(place, task):
    folder = RunFolder(place / "taken")
    record(folder, RunIdentity({"task": "another"}, {}, {}))
    folder.write_metrics({"test/Set5/psnr_y": 32.0})
    before = {path: path.read_bytes() for path in folder.path.rglob("*")}
    done = run(place, task, "hydra.run.dir=taken")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"'{folder.path}' holds another run, which differs in task (another there, " in done.stderr
    assert {path: path.read_bytes() for path in folder.path.rglob("*")} == before


@pytest.mark.parametrize("task", ["evaluate", "measure", "complexity"])
def test_the_results_of_a_task_are_not_mistaken_for_a_finished_training_run(place, task):
    done = run(place, task, "hydra.run.dir=taken")
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "taken" / "identity.json").read_text())["identity"]["task"] == task
    results = (place / "taken" / "metrics.json").read_bytes()
    trained = run(place, "train", "hydra.run.dir=taken")
    assert f"taken' holds another run, which differs in task ({task} there, unset here)" in trained.stderr
    assert (place / "taken" / "metrics.json").read_bytes() == results
    assert run(place, task, "hydra.run.dir=taken").returncode == 0


def test_results_without_any_other_file_say_which_run_they_belong_to(tmp_path):
    """Earlier versions of ``task=measure`` wrote neither ``identity.json`` nor ``config.yaml``."""
    folder = RunFolder(tmp_path)
    values = {"task": "measure", "scale": 4}
    folder.write_metrics({"identity": values})
    refuse_another(folder, RunIdentity(values, {}, {}))
    with pytest.raises(ConfigError, match=r"differs in scale \(4 there, 2 here\)"):
        refuse_another(folder, RunIdentity(values | {"scale": 2}, {}, {}))
    for damaged in ("[]", '{"identity": {"code": 1}}', "{"):
        folder.metrics.write_text(damaged)
        refuse_another(folder, RunIdentity(values, {}, {}))


def test_a_run_with_a_setting_that_is_nan_is_recognised(tmp_path):
    """NaN does not equal itself; the second process of a run, and a resumed run, compare their settings."""
    values = {"callbacks": [{"value": math.nan, "_target_": "mine.Noise"}], "scale": 4}
    record(RunFolder(tmp_path), RunIdentity(values, {}, {}))
    refuse_another(RunFolder(tmp_path), RunIdentity(values, {}, {}))
    with pytest.raises(ConfigError, match="differs in callbacks"):
        refuse_another(RunFolder(tmp_path), RunIdentity(values | {"callbacks": [{"value": 0.0}]}, {}, {}))


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"identity": {}, "codes": []}'])
def test_a_damaged_identity_lets_no_other_run_in(tmp_path, damaged):
    folder, values = RunFolder(tmp_path), {"task": "evaluate", "scale": 4}
    record(folder, RunIdentity(values, {}, {}))
    folder.write_config("scale: 4\n")
    folder.identity.write_text(damaged)
    for asked in (values, values | {"scale": 2}):
        with pytest.raises(ConfigError, match=r"identity\.json' is damaged, and no other file identifies"):
            refuse_another(folder, RunIdentity(asked, {}, {}))
    folder.write_metrics({"identity": values})
    refuse_another(folder, RunIdentity(values, {}, {}))
    with pytest.raises(ConfigError, match=r"differs in scale \(4 there, 2 here\)"):
        refuse_another(folder, RunIdentity(values | {"scale": 2}, {}, {}))


def test_an_interrupted_training_run_with_a_damaged_identity_is_used_on_request(place):
    assert run(place, "train", "hydra.run.dir=new").returncode == 0
    folder = RunFolder(place / "new")
    folder.metrics.unlink()
    folder.identity.write_text("")
    said = run(place, "train", "hydra.run.dir=new", "seed=1").stderr
    assert f"'{folder.identity}' is damaged" in said
    assert "or remove the file and set code=any if the folder holds this run" in said
    folder.identity.unlink()
    assert (
        "differs in dataset.seed (0 there, 1 here)"
        in run(place, "train", "hydra.run.dir=new", "seed=1").stderr
    )
    assert "resumes from" in run(place, "train", "hydra.run.dir=new", "code=any").stdout


def test_two_folders_with_the_same_images_are_two_rows(place):
    done = sr_lab(place, "-m", "task=measure", *NEEDS["measure"][1:], "sr_dir=ours,theirs")
    assert done.returncode == 0, done.stderr
    first = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert [cell for cell in first if cell in ("ours", "theirs")] == ["ours", "theirs"], done.stdout
    names = sorted(path.name.rpartition("-")[0] for path in (place / "outputs" / "measure").glob("*-*"))
    assert names == ["ours", "theirs"]
