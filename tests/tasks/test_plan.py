"""``task=plan``."""

import csv
import io
import re
from pathlib import Path

import pytest
import torch

from sr_lab.config import identity
from sr_lab.config.schema import PlanConfig
from sr_lab.errors import ConfigError
from sr_lab.tasks import plan
from sr_lab.training import cost
from sr_lab.training.cost import Cost
from tests.command_line import SMOKE, run_folder, sr_lab
from tests.composing import compose

TINY = (*SMOKE, "logger=none", "num_workers=0", "scale=2")


def planned(*overrides: str) -> PlanConfig:
    config = compose("task=plan", *TINY, *overrides)
    assert isinstance(config, PlanConfig)
    return config


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one finished training run."""
    folder = tmp_path_factory.mktemp("plan")
    done = sr_lab(folder, *TINY)
    assert done.returncode == 0, done.stderr
    return folder


def files_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_is_planned_without_training_it_or_leaving_a_file(place):
    before = files_in(place)
    done = sr_lab(place, "-m", *TINY, "seed=0,1", "task=plan")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "train: 2 jobs (1 finished, 1 waiting)" in lines
    (finished,) = [line.split() for line in lines if line.split()[1:2] == ["finished"]]
    (waiting,) = [line.split() for line in lines if line.split()[1:2] == ["waiting"]]
    assert finished[2:] == ["-"] * 5  # steps, seconds, hours, RAM, disk: all shown despite a long name
    assert waiting[2] == "6"  # steps
    assert float(waiting[3]) > 0  # seconds
    assert re.search(r"Measured now on CPU, 1 threads: \d+ steps of 1 network[,.]", " ".join(lines))
    assert lines[-1] == "Nothing is missing: the same command without task=plan starts the training."
    assert max(len(line) for line in lines if not line.startswith("\t#")) <= 80  # Hydra lists the jobs
    assert files_in(place) == before


def test_the_disk_is_that_of_the_checkpoints_of_a_real_run(place, monkeypatch):
    monkeypatch.setenv("SR_LAB_CACHE", str(place / "cache"))
    written = (run_folder(place) / "checkpoints" / "last.ckpt").stat().st_size
    assert cost.measure(planned()).checkpoint == pytest.approx(written, rel=0.35)  # plus names, states


def test_an_interrupted_run_has_only_its_remaining_steps_left(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SR_LAB_CACHE", str(place / "cache"))
    config = planned("seed=3", "steps=8")
    folder = identity.planned_folder(config)
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "metrics.csv").write_text("step,train/loss\n2,0.1\n5,0.1\n")
    plan.run([config.model_copy(update={"measure": False, "format": "csv"})])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["state"], row["steps"], row["steps_left"]) == ("interrupted", "8", "3")


def test_rows_of_the_same_run_are_one_job(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    config = planned("measure=false")
    plan.run([config, config])
    assert "1 job (1 finished), 1 more row repeats one of these runs" in capsys.readouterr().out


def test_missing_images_are_reported_with_the_command_that_downloads_them(tmp_path, capsys):
    config = planned("dataset=div2k", "benchmark=set5", f"paths.data_dir={tmp_path}", "measure=false")
    choices = {"dataset": "div2k", "benchmark": "set5", "model": "imdn"}
    plan.run([config], [f"paths.data_dir={tmp_path}"], choices)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Data: {tmp_path}/DIV2K/DIV2K_train_HR," in said
    assert f"`python -m sr_lab task=prepare dataset=div2k benchmark=set5 paths.data_dir={tmp_path}`" in said
    assert "it is not known which are finished, since the images that identify a run are missing" in said
    assert "prepared images about 8.3 GB" in said  # 800 decoded images, and the same images at half the size


def test_networks_of_the_same_cost_are_measured_once(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    measured: list[str] = []
    monkeypatch.setattr(cost, "measure", lambda config: measured.append(config.run_name) or Cost(1, 0.5))
    plan.run([planned(*more) for more in ([], ["seed=1"], ["schedule=step"], ["+model.cca_reduction=8"])])
    assert len(measured) == 2
    out = capsys.readouterr().out
    assert "4 left" in out


def test_jobs_at_once_share_the_time(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cost, "measure", lambda config: Cost(1, 600.0))
    plan.run([planned(f"seed={seed}", "sweep.jobs=2") for seed in range(3)])
    out = " ".join(capsys.readouterr().out.split())
    assert "3 left 18" in out
    assert " 3.0 " in out  # hours of all jobs: 18 steps of 600 s
    assert (
        "Wall time: 2.0 hours with 2 jobs at once (sweep.jobs=2), each measured alone with 1 thread." in out
    )


def test_a_search_is_planned_as_its_number_of_trials(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "measure", lambda config: Cost(1, 600.0))
    plan.run([planned("hparams_search=optuna", "hparams_search.trials=6")])
    out = " ".join(capsys.readouterr().out.split())
    assert "A search of up to 6 trials of up to 6 steps" in out
    assert "6.0" in out  # 36 steps of 600 s


def test_what_does_not_fit_is_reported(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "measure", lambda config: Cost(1, 1.0, memory=10**15, checkpoint=10**17))
    plan.run([planned()])
    out = " ".join(capsys.readouterr().out.split())
    assert "Memory: the largest job needs about 1e+06 GB" in out
    assert "free, and 3e+08 GB are needed" in out
    assert "Nothing is missing" not in out


def test_an_experiment_that_trains_nothing_is_refused():
    with pytest.raises(
        ConfigError, match=r"experiment=imfm/table4_complexity trains nothing.*task=complexity"
    ):
        plan.run([planned()], ["experiment=imfm/table4_complexity", "task=plan"])


def test_a_network_without_weights_is_refused():
    config = compose("task=plan", "trainer=cpu", "budget=smoke", "model=bicubic")
    with pytest.raises(ConfigError, match="Bicubic has no weights to train"):
        cost.count(config)


def test_multiply_adds_are_those_of_the_paper():
    """OSFFNet at x4: 29.3 G for an image of 320x180 LR pixels, and a step needs three times as many."""
    config = compose("task=plan", "trainer=cpu", "model=osffnet", "budget=paper", "dataset.lr_patch_size=64")
    pixels = config.batch_size * 64 * 64
    assert cost.count(config) == pytest.approx(3 * 29.3e9 / (320 * 180) * pixels, rel=0.01)


@pytest.mark.parametrize(
    ("second", "expected"), [(0.001, (16, 20)), (0.1, (5, 20)), (2.0, (1, 5)), (60, (1, 3))]
)
def test_slow_steps_are_measured_on_part_of_the_batch(second, expected):
    assert cost._affordable(second, 16) == expected


@pytest.mark.parametrize("option", ["degradation=realistic", "trainer.precision=bf16-mixed", "ema_decay=0.9"])
def test_every_form_of_training_is_measured(option, monkeypatch):
    monkeypatch.setattr(cost, "_SECONDS", 1e9)  # a busy machine measures fewer steps
    found = cost.measure(planned(option))
    assert min(found.seconds, found.forward, found.memory, found.checkpoint) > 0
    assert (found.steps, found.samples) == (cost.STEPS, found.batch)


def test_measuring_changes_no_random_numbers_and_keeps_no_threads(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    plan.run([planned("seed=7")])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_markdown_and_csv_have_a_line_for_each_job(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "measure", lambda config: Cost(12, 0.5, 20, 2, 2))
    jobs = [planned(f"format={form}", f"seed={seed}") for form in ("csv",) for seed in (0, 1)]
    plan.run(jobs)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["seconds_per_step"] for row in rows] == ["0.5", "0.5"]
    plan.run([job.model_copy(update={"format": "markdown"}) for job in jobs])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_frozen_weights_are_planned_without_an_optimizer_state():
    whole, part = (cost.measure(planned(*more)) for more in ((), ("freeze=[body]",)))
    assert part.checkpoint < whole.checkpoint
