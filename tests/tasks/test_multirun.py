"""Multiruns of tasks other than training: every job runs once, in its own folder."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from sr_lab import tasks
from sr_lab.config.identity import run_identity, writes_own_folder
from sr_lab.config.schema import SCHEMAS, Config
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder
from sr_lab.runs import sweep
from sr_lab.tasks import common, complexity, evaluate, measure
from tests.command_line import sr_lab
from tests.composing import compose

# For each task, a command and two settings that give two different jobs.
JOBS = {
    "evaluate": (("model=bicubic",), "scale=2", "scale=3"),
    "complexity": (("trainer=cpu",), "model=bicubic", "model=fsrcnn"),
    "benchmark": ((), "only=[loader]", "only=[start]"),
    "upscale": (("model=bicubic", "output=big"), "input=a", "input=b"),
    "compare": (("hr=photo.png",), "ckpts=[a]", "ckpts=[b]"),
    "analyze": (("kind=psd", "hr=photo.png"), "ckpts=[a]", "ckpts=[b]"),
    "shard": (("output=shards",), "lr_scales=[2]", "lr_scales=[3]"),
    "prepare": ((), "dataset=div2k", "dataset=df2k"),
    "doctor": ((), "folder=a", "folder=b"),
    **dict.fromkeys(("report", "status", "dashboard", "log"), ((), "runs=a", "runs=b")),
}


def planned(task: str, folder: Path, *overrides: str) -> sweep.Planned:
    config = compose(f"task={task}", *overrides)
    return sweep.Planned(config, RunFolder(folder), overrides, run_identity(config))


@pytest.fixture
def ran(monkeypatch) -> list[Config]:
    """The jobs that would have run."""
    found: list[Config] = []
    monkeypatch.setattr(tasks, "run", lambda config, folder, overrides: found.append(config))
    monkeypatch.setattr(tasks, "finish", lambda *_: None)
    return found


def test_every_task_that_can_have_several_jobs_is_tried():
    # tests/tasks/test_run_folders.py tests task=measure; a command runs each of the others only once
    assert SCHEMAS.keys() - JOBS.keys() == {"train", "measure", "plan", "zoo", "new", "export", "demo"}


@pytest.mark.parametrize("task", JOBS)
def test_two_different_jobs_in_one_folder_both_run_or_neither_does(task, ran, tmp_path):
    words, *settings = JOBS[task]
    jobs = [planned(task, tmp_path, *words, setting) for setting in settings]
    if not writes_own_folder(jobs[0].config):
        assert tasks.run_all([(job, None) for job in jobs]) == 0
        assert ran == [job.config for job in jobs]
        return
    with pytest.raises(ConfigError) as caught:
        tasks.run_all([(job, None) for job in jobs])
    assert f"the jobs '{settings[0]}' and '{settings[1]}' are different runs" in str(caught.value)
    assert ran == []


def test_equal_jobs_run_once(ran, tmp_path, capsys):
    job = planned("complexity", tmp_path, "model=bicubic", "trainer=cpu")
    assert tasks.run_all([(job, None), (job, None)]) == 0
    assert len(ran) == 1
    assert f"are the same run, which runs once: {tmp_path.name}" in capsys.readouterr().out


def test_a_job_that_fails_does_not_keep_the_others_from_running(monkeypatch, tmp_path, capsys):
    done: list[str] = []

    def run(config: Config, folder: Path, overrides: tuple[str, ...]) -> None:
        done.append(folder.name)
        if folder.name == "a":
            raise SystemExit(1)  # as task=upscale does if it cannot read an image
        if folder.name == "b":
            raise ConfigError("ckpt: does not fit")

    monkeypatch.setattr(tasks, "run", run)
    monkeypatch.setattr(tasks, "finish", lambda config, folders: done.append(f"table of {len(folders)}"))
    jobs = [(planned("evaluate", tmp_path / name, "model=bicubic"), None) for name in "abc"]
    assert tasks.run_all([jobs[0], jobs[2]]) == 1
    assert done == ["a", "c", "table of 1"]
    with pytest.raises(ConfigError, match="ckpt: does not fit"):
        tasks.run_all([*jobs, (planned("evaluate", tmp_path / "b" / "b", "model=bicubic"), None)])
    assert done[3:] == ["a", "b", "c", "b", "table of 1"]
    assert capsys.readouterr().out == "failed: b: ckpt: does not fit\n"  # the first error ends the program


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with two folders of one image, and a test set."""
    for folder in ("a", "b", "data/benchmarks/Tiny/HR"):
        (tmp_path / folder).mkdir(parents=True)
        Image.linear_gradient("L").resize((48, 40)).convert("RGB").save(tmp_path / folder / "image.png")
    return tmp_path


def test_each_upscaling_of_a_multirun_has_a_folder_in_the_output(place):
    words = ("-m", "task=upscale", "model=bicubic", "scale=2,3", "trainer=cpu", "input=a,b", "output=big")
    for again in (False, True):
        done = sr_lab(place, *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("1 already done" if again else "1 of 1 upscaled into big/bicubic_x") == 4
    names = sorted((path.parent.name[:-9], path.name) for path in (place / "big").rglob("*.png"))
    assert names == [(f"bicubic_x{n}_{source}", f"image_x{n}.png") for n in (2, 3) for source in "ab"]


def test_two_evaluations_in_one_folder_are_refused_before_either_runs(place):
    words = ("task=evaluate", "model=bicubic", "trainer=cpu", "benchmark.sets=[Tiny]", "paths.data_dir=data")
    done = sr_lab(place, "-m", *words, "scale=2,3", "hydra.sweep.subdir=one")
    assert done.returncode == 2, done.stdout
    assert "the jobs 'scale=2' and 'scale=3' are different runs, but both would use the folder" in done.stderr
    assert not list(place.rglob("metrics.json"))


# Started twice


@pytest.mark.parametrize("task", [evaluate, complexity, measure], ids=lambda task: task.__name__[13:])
def test_a_task_started_twice_at_the_same_time_waits_and_shows_the_results(task, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = {
        evaluate: ("model=bicubic", "benchmark.sets=[Tiny]", "scale=2", "trainer=cpu", "paths.data_dir=data"),
        complexity: ("model=bicubic", "scale=2", "trainer=cpu"),
        measure: ("sr_dir=a", "hr_dir=data/benchmarks/Tiny/HR", "scale=2"),
    }[task]
    config = compose(f"task={task.__name__[13:]}", *words)
    folder, began, waits = RunFolder(place / "run"), threading.Event(), threading.Event()

    def other() -> None:
        with folder.attempt():
            began.set()
            assert waits.wait(60)
            folder.write_metrics({"test/Tiny/psnr_y": 12.34, "test/Tiny/ssim_y": 0.5, "num_params": 12_340})

    monkeypatch.setattr(common, "waiting_note", lambda folder: waits.set)
    monkeypatch.setattr(common, "in_multirun", lambda: False)
    thread = threading.Thread(target=other)
    thread.start()
    assert began.wait(60)
    task.run(config, folder.path, words)
    thread.join()
    if task is not measure:  # task=measure measures again, since its results lack columns of its table
        assert ("12.34" if task is evaluate else "12.3") in capsys.readouterr().out
        assert folder.read_metrics()["num_params"] == 12_340
